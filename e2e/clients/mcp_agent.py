"""An MCP server on the official SDK, as an agent. Its tool tells who is calling. Its first line of output is its port."""

import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("an agent")


@server.tool()
def whoami(ctx: Context) -> str:
    return ctx.request_context.request.headers["x-user-id"]


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listener])
