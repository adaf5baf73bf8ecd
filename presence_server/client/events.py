"""The events of rooms and of the connection, as frozen structs, and users with their connections."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from presence_server.protocol.messages import Document, Member, Mode, Reason, RemovalReason


class User(msgspec.Struct, frozen=True):
    """One user of a room with all of its connections there, in the order in which they became known.

    `info` is that of the connection that became known last.
    """

    user: str
    info: Document
    members: tuple[Member, ...]


class Users(Mapping[str, User]):
    """A live, read-only view of a roster by user."""

    def __init__(self, by_user: Mapping[str, Mapping[str, Member]]) -> None:
        self._by_user = by_user

    def __getitem__(self, user: str) -> User:
        members = tuple(self._by_user[user].values())
        return User(user, members[-1].info, members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_user)

    def __len__(self) -> int:
        return len(self._by_user)

    def __repr__(self) -> str:
        return f"Users({dict(self)!r})"


class RoomEvent(msgspec.Struct, frozen=True):
    """Something that happened in `room`."""

    room: str


class Joined(RoomEvent, frozen=True):
    """A connection became a member."""

    member: Member


class Updated(RoomEvent, frozen=True):
    """A member's state changed; `previous` is the member as it was known before."""

    member: Member
    previous: Member


class Left(RoomEvent, frozen=True):
    """A member is gone; `member` is what was known of it last.

    `reason` is None where nobody said it: the member was missing when the roster was read again.
    """

    member: Member
    reason: Reason | None


class Synced(RoomEvent, frozen=True):
    """The room's roster is known and complete: after the join, a reconnect, or trouble at the server.

    Changes from what was known before came as `Joined`, `Updated` and `Left` ahead of this. Where nothing was
    known before (the first time, or `mode` was not `full`), there are none: read the room's `members`.
    """

    mode: Mode
    count: int
    users: int


class Counted(RoomEvent, frozen=True):
    """The room's numbers changed (mode `count`)."""

    count: int
    users: int


class StaleChanged(RoomEvent, frozen=True):
    """Whether other nodes' members may be out of date: the servers' shared store is out of reach."""

    stale: bool


class Message(msgspec.Struct, frozen=True):
    """A message that was published in the room, or sent to this user.

    `cid` and `user` are None when a backend did; `room` is None when it was sent to this user rather
    than to a room. `at` is in ms since 1970 by the server's clock.
    """

    room: str | None
    cid: str | None
    user: str | None
    data: Any
    at: int


class Signal(RoomEvent, frozen=True):
    """The latest of a member's transient values under `key`."""

    cid: str
    user: str
    key: str
    data: Any


class Removed(RoomEvent, frozen=True):
    """A backend, or its credentials, took this client out of the room; the room's last event.

    `reason` is `kicked` where a backend did it, `forbidden` where the credentials no longer cover the room. The
    connection and the other rooms go on.
    """

    reason: RemovalReason


class RoomLost(RoomEvent, frozen=True):
    """The server would not have this client in the room again, or tell its roster; the room's last event."""

    code: str
    message: str


class Overflow(msgspec.Struct, frozen=True):
    """`dropped` events are missing here, because they were not taken in time.

    A room's `members` are right nevertheless.
    """

    dropped: int


class Connected(msgspec.Struct, frozen=True):
    """The server welcomed this client; `resumed`: under the cid that it had before."""

    cid: str
    user: str
    resumed: bool
    node: str


class Disconnected(msgspec.Struct, frozen=True):
    """The connection ended and the next attempt is in `retry_in` seconds.

    `code` is the WebSocket close code, 1006 for a socket that was lost, or None where the attempt to
    connect failed; `reason` says more.
    """

    code: int | None
    reason: str
    retry_in: float


class Closed(msgspec.Struct, frozen=True):
    """The client ended and does not come back; a client's last event."""

    code: int | None
    reason: str


RosterEvent = Joined | Updated | Left | Synced
Event = (
    Joined | Updated | Left | Synced | Counted | StaleChanged | Message | Signal | Removed | RoomLost
    | Overflow | Connected | Disconnected | Closed
)  # fmt: skip
