"""An asynchronous client: who is in a room, live, over any number of reconnects.

    async with connect("ws://127.0.0.1:8080/ws", user="alice") as client:
        room = await client.join("lobby", state={"status": "here"})
        async for event in room:
            print(event, list(room.users))

It needs asyncio as the event loop, directly or through anyio.
"""

from presence_server.client.client import Client, connect
from presence_server.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionEnded,
    ConnectionLost,
    ConnectionRefused,
    ProtocolViolation,
    RequestFailed,
)
from presence_server.client.events import (
    Closed,
    Connected,
    Counted,
    Disconnected,
    Event,
    Joined,
    Left,
    Message,
    Overflow,
    Removed,
    RoomLost,
    Signal,
    StaleChanged,
    Synced,
    Updated,
    User,
)
from presence_server.client.room import Room
from presence_server.protocol.messages import Member, Mode, Reason, RemovalReason

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "Closed",
    "Connected",
    "ConnectionEnded",
    "ConnectionLost",
    "ConnectionRefused",
    "Counted",
    "Disconnected",
    "Event",
    "Joined",
    "Left",
    "Member",
    "Message",
    "Mode",
    "Overflow",
    "ProtocolViolation",
    "Reason",
    "RemovalReason",
    "Removed",
    "RequestFailed",
    "Room",
    "RoomLost",
    "Signal",
    "StaleChanged",
    "Synced",
    "Updated",
    "User",
    "connect",
]
