"""The official MCP SDK finds the login by itself, logs in, and calls the tool of mcp_agent.py: mcp_client.py URL. It prints what the tool
says, and the audience of its token."""

import asyncio
import base64
import json
import sys
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata


class Memory:
    """Keeps what the client was given."""

    tokens = client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


class Browser:
    """Goes where the client sends it, and comes back with the answer."""

    async def visit(self, url):
        async with httpx2.AsyncClient() as http:
            back = parse_qs(urlsplit((await http.get(url)).headers["Location"]).query)
        self.answer = AuthorizationCodeResult(code=back["code"][0], state=back["state"][0], iss=back["iss"][0])

    async def callback(self):
        return self.answer


async def main(url):
    memory, browser = Memory(), Browser()
    about = OAuthClientMetadata(client_name="a client", redirect_uris=["http://127.0.0.1:3030/callback"])
    login = OAuthClientProvider(url, about, memory, browser.visit, browser.callback)
    async with httpx2.AsyncClient(auth=login) as http, Client(streamable_http_client(url, http_client=http)) as client:
        print("whoami", (await client.call_tool("whoami", {})).content[0].text)
    payload = memory.tokens.access_token.split(".")[1]
    print("aud", json.dumps(json.loads(base64.urlsafe_b64decode(payload + "=="))["aud"]))


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 30))
