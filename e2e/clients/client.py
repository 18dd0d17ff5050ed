"""A conversation of the websockets library with an agent (agent.js, agent.py), reported as one line of JSON: client.py URL TOKEN"""

import asyncio
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

url, token = sys.argv[1:]


def dial():
    return connect(url, subprotocols=["bearer", token], max_size=None, proxy=None)


async def main():
    async with dial() as ws:
        extensions = [e.name for e in ws.protocol.extensions]
        report = {"protocol": ws.subprotocol, "extensions": ",".join(extensions), "hello": json.loads(await ws.recv())}

        await ws.send("grüße")
        report["text"] = await ws.recv()
        for name, sent in [("random", os.urandom(1 << 20)), ("zeros", bytes(4 << 20))]:
            await ws.send(sent)
            report[name] = await ws.recv() == sent
        await (await ws.ping("are you there"))  # ends only with a Pong that carries the same
        report["pong"] = "are you there"
        await ws.close(4001, "the client has enough")
        report["answered"] = ws.protocol.close_rcvd.code

    async with dial() as ws:
        await ws.recv()
        await ws.send("close 4002 the agent has enough")
        try:
            await ws.recv()
        except ConnectionClosed as closed:
            report["told"] = f"{closed.rcvd.code} {closed.rcvd.reason}"
    print(json.dumps(report))


asyncio.run(asyncio.wait_for(main(), 30))
