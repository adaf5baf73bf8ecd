"""The registry of a process on its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from presence_server.clock import Clock
from presence_server.errors import BansFullError
from presence_server.protocol.messages import Document
from presence_server.registry.bans import BANS_MAX, BanEntry, Bans, ban_name, ban_of, page_of, read_cursor
from presence_server.registry.commands import Command
from presence_server.registry.port import (
    Connections,
    Located,
    LostNode,
    NodeStatus,
    UserConnection,
    UserStatus,
    rooms_here,
)

SEEN_MAX: Final = 1_000_000
"""Users remembered that are gone; those who left first are forgotten first."""


class MemoryRegistry:
    """Connections of this process; see `Registry` for what it promises.

    `connections()` returns those that commands and messages are for: a function, since they note themselves here when
    they begin.
    """

    def __init__(
        self,
        describe: Callable[[], NodeStatus],
        connections: Callable[[], Connections],
        *,
        node: str,
        clock: Clock,
        last_seen_ms: int,
    ) -> None:
        self._connections = connections
        self._describe = describe
        self._node = node
        self._clock = clock
        self._last_seen_ms = last_seen_ms
        self._users: dict[str, dict[str, int]] = {}
        self._seen_ms: dict[str, int] = {}
        self._bans = Bans()

    def opened(self, user: str, cid: str, at: int, epoch: int = 1) -> None:
        """Note that a connection is here."""
        del epoch  # lives of a connection end and begin in order in one process
        self._users.setdefault(user, {})[cid] = at

    def withhold(self, cid: str) -> None:
        """Do nothing: there is no other node."""

    def closed(self, user: str, cid: str) -> None:
        """Note that a connection has ended."""
        connections = self._users.get(user, {})
        connections.pop(cid, None)
        if not connections:
            self._users.pop(user, None)
        now_ms = self._clock.wall_ms()
        self._seen_ms.pop(user, None)
        self._seen_ms[user] = now_ms
        while self._seen_ms:
            first = next(iter(self._seen_ms))
            if len(self._seen_ms) <= SEEN_MAX and now_ms - self._seen_ms[first] < self._last_seen_ms:
                break
            del self._seen_ms[first]

    def banned_until(self, user: str, room: str = "") -> int:
        """Return when a user may come back."""
        return self._bans.until(user, room, self._clock.wall_ms())

    async def bans(self, cursor: str | None, limit: int) -> tuple[list[BanEntry], str | None]:
        """Return a page of the bans in force."""
        after = read_cursor(cursor)
        entries = self._bans.entries(self._clock.wall_ms())
        entries = [entry for entry in entries if (entry.until, ban_name(entry.user, entry.room)) > after]
        return page_of(entries, limit)

    async def locate(self, cid: str) -> Located | None:
        """Return where a connection is."""
        present = self._connections().find_connection(cid)
        return None if present is None else Located(present.user, self._node)

    async def rooms(self, connections: Mapping[str, str]) -> dict[str, list[str] | None]:
        """Return the rooms of connections."""
        return {cid: rooms_here(self._connections(), cid) for cid in connections}

    async def users(self, users: Sequence[str]) -> list[UserStatus]:
        """Return where users are."""
        return [self._status(user, self._clock.wall_ms()) for user in users]

    async def lost_nodes(self, since_ms: int, limit: int) -> list[LostNode]:
        """Return none: there are no other nodes."""
        del since_ms, limit
        return []

    async def nodes(self) -> list[NodeStatus]:
        """Return this node."""
        return [self._describe()]

    async def send_command(self, command: Command) -> bool:
        """Have this node apply a command; return whether a ban that it is about held before."""
        ban = ban_of(command)
        held = ban is not None and self._bans.until(ban.user, ban.room, self._clock.wall_ms()) > 0
        if ban is not None and not held and ban.until > command.at and len(self._bans) >= BANS_MAX:
            self._bans.clear(self._clock.wall_ms())
            if len(self._bans) >= BANS_MAX:
                raise BansFullError
        self._bans.note_command(command, self._clock.wall_ms())
        self._connections().apply_command(command)
        return held

    async def message(self, user: str, data: Document, at: int) -> None:
        """Send something to every connection of a user."""
        self._connections().deliver_to_user(user, data, at)

    def _status(self, user: str, now_ms: int) -> UserStatus:
        connections = [UserConnection(cid, self._node, at) for cid, at in self._users.get(user, {}).items()]
        seen_ms = now_ms if connections else self._seen_ms.get(user)
        if seen_ms is not None and now_ms - seen_ms >= self._last_seen_ms:
            seen_ms = None
        return UserStatus(connections, seen_ms)
