"""The floor of connecting: a bare `asyncio.Protocol` that says what a server has to say, and looks at nothing.

    python -m bench.peers.answers WELCOME_BYTES SYNC_BYTES

Answers a connection's first read with 101 and a frame of `WELCOME_BYTES`, and its second with a frame of
`SYNC_BYTES`, with which a client takes the join to be done. Under uvloop where there is one. Runs until it is killed.
"""

import asyncio
import sys
from typing import cast

import anyio
from websockets.frames import Frame, Opcode

from bench.machine import uses_uvloop

BACKLOG = 4_096
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n"
)


def _frame(kind: bytes, size: int) -> bytes:
    payload = b'{"t":"%s","text":"' % kind
    return Frame(Opcode.TEXT, payload + b"x" * (size - len(payload) - 2) + b'"}').serialize(mask=False)


class Answers(asyncio.Protocol):
    """One connection."""

    def __init__(self, welcome: bytes, sync: bytes) -> None:
        self._answers = [sync, welcome]
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give the next answer."""
        del data
        assert self._transport is not None
        if self._answers:
            self._transport.write(self._answers.pop())


async def serve() -> None:
    """Listen and say where."""
    welcome, sync = HEAD + _frame(b"welcome", int(sys.argv[1])), _frame(b"sync", int(sys.argv[2]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(welcome, sync), "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.write("ready client={}:{}\n".format(*server.sockets[0].getsockname()))
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    anyio.run(serve, backend_options={"use_uvloop": uses_uvloop()})
