"""The events of a room that travel from node to node."""

import msgspec

from presence_server.presence.roster import Delta
from presence_server.protocol.messages import Document


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A message of a member or watcher; `cid` and `user` are None when a backend sent it."""

    cid: str | None
    user: str | None
    epoch: int
    data: Document
    at: int


class Signalled(msgspec.Struct, frozen=True, gc=False):
    """A member's or watcher's transient value under `key`."""

    cid: str
    user: str
    epoch: int
    key: str
    data: Document


class NodeReentered(msgspec.Struct, frozen=True, gc=False):
    """A node has entered all its members of the room again: those that are missing are gone.

    `generation` is the room's that it entered them into, 0 where a node of an earlier version does not say.
    """

    node: str
    generation: int


RoomEvent = Delta | Publication | Signalled | NodeReentered
