"""A bare `websockets.serve` with `broadcast`: python -m bench.peers.websockets_broadcast.

The path names the room. Nobody is told who is there; what one sends, all others of the room receive. On uvloop where
there is one. Runs until it is killed.
"""

import asyncio
import sys
from collections import defaultdict

import anyio
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as listen

from bench.machine import uses_uvloop

BACKLOG = 4_096
rooms: dict[str, set[ServerConnection]] = defaultdict(set)


async def stay(connection: ServerConnection) -> None:
    """Be in a room for as long as the connection lasts."""
    assert connection.request is not None
    room = rooms[connection.request.path.partition("?")[0]]
    room.add(connection)
    try:
        async for message in connection:
            broadcast(room - {connection}, message)
    finally:
        room.remove(connection)


async def serve() -> None:
    """Listen and say where."""
    async with listen(stay, "127.0.0.1", 0, backlog=BACKLOG, compression=None) as server:
        sys.stdout.write("ready client={}:{}\n".format(*next(iter(server.sockets)).getsockname()))
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    anyio.run(serve, backend_options={"use_uvloop": uses_uvloop()})
