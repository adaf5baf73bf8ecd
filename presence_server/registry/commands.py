"""Commands to all nodes about connections, wherever these are.

A command names what it is about, and a node that has nothing of the kind does nothing. `at` is when it was given,
in ms since 1970 by the store's clock: it concerns connections that were there then, however late it arrives.
"""

from typing import TypeAlias

import msgspec

from presence_server.grants import Grant


class Disconnect(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """Close every connection of a user; refuse new ones until `banned_until`, if any; None: bans stay as they are."""

    user: str
    at: int
    banned_until: int | None


class Kick(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """Close one connection; its resume tokens have ended."""

    cid: str
    at: int


class Remove(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """Take a connection out of one room, which it is told; it stays open.

    `at` is when the membership that was removed began, so that a later one stays. Where the store knew of none, it is
    when the connection was found in the room: as a watcher, or joining. `banned_until`: refuse `user` there until then;
    None: a ban stays as it is.
    """

    room: str
    cid: str
    at: int
    user: str = ""
    banned_until: int | None = None


class Ban(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """Refuse a user until then, in a room or ("") everywhere; no later than `at`: not any more. Closes nothing."""

    user: str
    room: str
    at: int
    until: int


class Revoke(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """Close every connection of an opaque session that has ended."""

    session: str
    at: int


class Regrant(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """An opaque session was changed: its connections go by its `rooms` and `ttl_ms` from now on; see `SessionData`."""

    session: str
    at: int
    rooms: list[Grant] | None
    ttl_ms: int


Command: TypeAlias = Disconnect | Kick | Remove | Ban | Revoke | Regrant
