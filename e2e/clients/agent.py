"""An agent on the websockets library; it does what agent.js does."""

import asyncio
import json
import re

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def attend(ws):
    try:
        await (await ws.ping("before anything else"))
        extensions = [e.name for e in ws.protocol.extensions]
        hello = {"user": ws.request.headers["x-user-id"], "protocol": ws.subprotocol or "", "extensions": ",".join(extensions)}
        await ws.send(json.dumps(hello))
        async for message in ws:
            if isinstance(message, str) and (close := re.fullmatch(r"close (\d+) (.*)", message)):
                await ws.close(int(close[1]), close[2])
            else:
                await ws.send(message)
    except ConnectionClosed:
        pass
    end = ws.protocol.close_rcvd
    print(end.code if end else 1006, end.reason if end else "", flush=True)


async def main():
    async with serve(attend, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
