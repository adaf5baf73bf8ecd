"""Many handshakes at once from one address, as fast as one process can send them.

    python -m tests.support.flood COUNT PORT [PORT …]

prints how many were answered with each status, as JSON; "none": the socket ended without an answer.
"""

import asyncio
import json
import sys
from collections import Counter
from importlib.util import find_spec
from typing import cast

REQUEST = (
    b"GET /ws?user=flood HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AT_A_TIME = 5_000
"""Sockets under way: well below what a process may open."""


class Attempt(asyncio.Protocol):
    """One handshake; its socket stays open once it is accepted."""

    def __init__(self, ended: asyncio.Future[str]) -> None:
        self._ended = ended
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self._ended.done():
            self._head += data
            if b"\r\n" in self._head:
                self._ended.set_result(self._head.split(b" ", 2)[1].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result("none")


async def flood(count: int, ports: list[int]) -> Counter[str]:
    """Attempt `count` handshakes, spread over the ports."""
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(AT_A_TIME)
    kept: list[asyncio.BaseTransport] = []

    async def attempt(number: int) -> str:
        async with places:
            ended = loop.create_future()
            port = ports[number % len(ports)]
            try:
                transport, _ = await loop.create_connection(lambda: Attempt(ended), "127.0.0.1", port)
            except OSError:
                return "none"
            status: str = await ended
            if status == "101":
                kept.append(transport)
            return status

    counts = Counter(await asyncio.gather(*map(attempt, range(count))))
    for transport in kept:
        transport.close()
    return counts


def main() -> None:
    """Run it as the command line says."""
    count, *ports = map(int, sys.argv[1:])
    if find_spec("uvloop") is not None:
        import uvloop  # noqa: PLC0415 - only where it is

        counts = uvloop.run(flood(count, ports))
    else:
        counts = asyncio.run(flood(count, ports))
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    main()
