"""A server on python-socketio, as its documentation says: python -m bench.peers.socketio_python [URL].

Who joins a room is told to the others in it, and gets the list of those on this server: the library knows no others.
With the URL of a store it has the client manager for Redis. On uvicorn and uvloop. Runs until it is killed.
"""

import sys
from typing import Any
from urllib.parse import parse_qs

import socketio

from bench.peers.asgi import serve

ROOT = "/"
sio = socketio.AsyncServer(
    async_mode="asgi", client_manager=socketio.AsyncRedisManager(sys.argv[1]) if sys.argv[1:] else None
)
users: dict[str, str] = {}


@sio.event  # type: ignore[untyped-decorator]  # python-socketio
async def connect(sid: str, environ: dict[str, Any]) -> None:
    """Note who it is."""
    users[sid] = parse_qs(environ["QUERY_STRING"])["user"][0]


@sio.event  # type: ignore[untyped-decorator]  # python-socketio
async def join(sid: str, room: str) -> list[str]:
    """Enter a room."""
    await sio.enter_room(sid, room)
    await sio.emit("joined", users[sid], room=room, skip_sid=sid)
    return [users[member] for member, _ in sio.manager.get_participants(ROOT, room)]


@sio.event  # type: ignore[untyped-decorator]  # python-socketio
async def publish(sid: str, room: str, data: str) -> None:
    """Tell the others of a room."""
    await sio.emit("message", data, room=room, skip_sid=sid)


@sio.event  # type: ignore[untyped-decorator]  # python-socketio
async def disconnect(sid: str) -> None:
    """Tell the others of its rooms."""
    for room in sio.rooms(sid):
        await sio.emit("left", users[sid], room=room, skip_sid=sid)
    del users[sid]


if __name__ == "__main__":
    serve(socketio.ASGIApp(sio))
