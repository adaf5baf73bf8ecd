"""The port: what a registry does."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from presence_server.protocol.messages import Document
from presence_server.registry.bans import BanEntry
from presence_server.registry.commands import Command


class UserConnection(msgspec.Struct, frozen=True):
    """One connection of a user: where it is, and since when, in ms since 1970 by the store's clock."""

    cid: str
    node: str
    at: int


class UserStatus(msgspec.Struct, frozen=True):
    """The connections of a user. `last_seen` is now while there is one; None: never, or too long ago."""

    connections: list[UserConnection]
    last_seen: int | None


class Located(NamedTuple):
    """The user of a connection, and the node that has it."""

    user: str
    node: str


class Present(NamedTuple):
    """A connection of this node: whose it is, and the rooms that it is in or watches."""

    user: str
    rooms: list[str]


def rooms_here(connections: "Connections", cid: str) -> list[str]:
    """Return the rooms of a connection that may be on this node."""
    present = connections.find_connection(cid)
    return [] if present is None else present.rooms


class NodeStatus(msgspec.Struct, frozen=True):
    """A node that is alive, as it described itself within the last seconds.

    `lag_ms` is how late its event loop was at worst since the last description; `policy` is the version of the
    limiter's policy that it goes by.
    """

    node: str
    version: str
    connections: int = 0
    rooms: int = 0
    uptime_ms: int = 0
    lag_ms: int = 0
    policy: int = 0


class LostNode(msgspec.Struct, frozen=True):
    """A node that died, or was cut off for longer than its record lasts; `heard` is when it was last heard of."""

    node: str
    heard: int


class Connections(Protocol):
    """The connections of this node, as the registry needs them."""

    def apply_command(self, command: Command) -> None:
        """Apply a command to the connections of this node."""

    def deliver_to_user(self, user: str, data: Document, at: int) -> None:
        """Send data to every connection of a user; `at` is when it was sent, in ms since 1970."""

    def find_connection(self, cid: str) -> Present | None:
        """Return whose a connection is, and its rooms; None: it is not here."""


class Registry(Protocol):
    """Knows nodes and users' connections over all nodes, and gives commands to all of them.

    - What is asked may raise `StoreAwayError`. What is noted (`opened`, `closed`) never does: it is noted again
      on the store's return.
    - A command reaches every node that is in contact at once, and one that is frozen or cut off when it comes back,
      before that node does anything else; for `COMMANDS_KEPT_MS` at least. Each node applies it once.
    - A message reaches the nodes that the user is on, at most once.
    """

    def opened(self, user: str, cid: str, at: int, epoch: int = 1) -> None:
        """Note that a connection is on this node; of two lives of it the one with the higher epoch is noted."""

    def withhold(self, cid: str) -> None:
        """Stop renewing a connection of this node until `opened` is called for it again: another node may have it."""

    def closed(self, user: str, cid: str) -> None:
        """Note that a connection has ended; a later life of it on another node is left alone."""

    def banned_until(self, user: str, room: str = "") -> int:
        """Return when a user may come back, to a room or ("") at all, in ms since 1970; 0: now.

        Answers from this node's memory.
        """

    async def bans(self, cursor: str | None, limit: int) -> tuple[list[BanEntry], str | None]:
        """Return a page of the bans in force, the one that ends next first, and the next page's cursor.

        Raises `ValueError` for a cursor that no page gave.
        """

    async def locate(self, cid: str) -> Located | None:
        """Return where a connection is; None: no node has it."""

    async def rooms(self, connections: Mapping[str, str]) -> dict[str, list[str] | None]:
        """Return the rooms of connections, given with their nodes; None: its node did not answer in time."""

    async def users(self, users: Sequence[str]) -> list[UserStatus]:
        """Return where users are, each in its place."""

    async def nodes(self) -> list[NodeStatus]:
        """Return the nodes that are alive, in the order of their ids."""

    async def lost_nodes(self, since_ms: int, limit: int) -> list[LostNode]:
        """Return the nodes that were lost and last heard of since then, in ms since 1970, the last first.

        A node that stopped in order is not among them, nor one that came back.
        """

    async def send_command(self, command: Command) -> bool:
        """Give a command to all nodes, this one too; return whether a ban that it is about held before.

        Raises `BansFullError` instead where it would be one ban too many.
        """

    async def message(self, user: str, data: Document, at: int) -> None:
        """Send something to every connection of a user."""
