"""The websockets library of Python."""

import asyncio
import re
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def main(url, token):
    try:
        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as ws:
            print("open", flush=True)
            while True:
                await ws.recv()
    except InvalidStatus as err:
        word = re.search('error_description="([^"]*)"', err.response.headers["WWW-Authenticate"])[1]
        return f"`InvalidStatus` {err.response.status_code} {word}"
    except ConnectionClosed as closed:
        name = type(closed).__name__
        return f'`{name}` {closed.rcvd.code} "{closed.rcvd.reason}"' if closed.rcvd else f"`{name}`, nothing received"


print("shown", asyncio.run(main(*sys.argv[1:])))
