"""The floor of one message: the Sans-I/O `ServerProtocol` in an `asyncio.Protocol`, frame to same frame.

    python -m bench.peers.echo

Under uvloop where there is one, as the server is. Runs until it is killed.
"""

import asyncio
import sys
from typing import cast

import anyio
from websockets.frames import TEXT, Frame
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench.machine import uses_uvloop


class Echo(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._protocol = ServerProtocol()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what came in."""
        protocol, transport = self._protocol, self._transport
        assert transport is not None
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame) and event.opcode is TEXT:
                protocol.send_text(event.data)
            elif isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
        for chunk in protocol.data_to_send():
            if chunk:
                transport.write(chunk)
            else:
                transport.write_eof()


async def serve() -> None:
    """Listen and say where."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    sys.stdout.write("ready client={}:{}\n".format(*server.sockets[0].getsockname()))
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    anyio.run(serve, backend_options={"use_uvloop": uses_uvloop()})
