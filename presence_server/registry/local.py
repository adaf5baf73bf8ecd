"""The registry of a process on its own."""

from collections.abc import Callable, Sequence
from typing import Final

from presence_server.clock import Clock
from presence_server.protocol.messages import Document
from presence_server.registry.orders import Disconnect, Order
from presence_server.registry.port import NodeStatus, UserConnection, UserStatus

SEEN_MAX: Final = 1_000_000
"""Users remembered that are gone; those who left first are forgotten first."""


class Bans:
    """Users that may not come in, and until when, in ms since 1970."""

    def __init__(self) -> None:
        self._until_ms: dict[str, int] = {}

    def note(self, order: Disconnect) -> None:
        """Take what an order says: a ban, or none any more; forget those that are over."""
        self._until_ms = {user: until_ms for user, until_ms in self._until_ms.items() if until_ms > order.at}
        if order.banned_until is not None:
            self.set(order.user, order.banned_until if order.banned_until > order.at else 0)

    def set(self, user: str, until_ms: int) -> None:
        """Ban a user until then; 0: not at all."""
        self._until_ms.pop(user, None)
        if until_ms:
            self._until_ms[user] = until_ms

    def until(self, user: str, wall_ms: int) -> int:
        """Return when a user may come back; 0: now."""
        until_ms = self._until_ms.get(user, 0)
        if 0 < until_ms <= wall_ms:
            del self._until_ms[user]
            return 0
        return until_ms


class LocalRegistry:
    """Connections of this process; see `Registry` for what it promises."""

    def __init__(
        self, describe: Callable[[], NodeStatus], node: str, clock: Clock, last_seen_ms: int
    ) -> None:
        self.obey: Callable[[Order], None] = lambda order: None
        self.deliver: Callable[[str, Document, int], None] = lambda user, data, at: None
        self._describe = describe
        self._node = node
        self._clock = clock
        self._last_seen_ms = last_seen_ms
        self._users: dict[str, dict[str, int]] = {}
        self._seen_ms: dict[str, int] = {}
        self._bans = Bans()

    def opened(self, user: str, cid: str, at: int) -> None:
        """Note that a connection is here."""
        self._users.setdefault(user, {})[cid] = at

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

    def banned_until(self, user: str) -> int:
        """Return when a user may come back."""
        return self._bans.until(user, self._clock.wall_ms())

    async def users(self, users: Sequence[str]) -> list[UserStatus]:
        """Return where users are."""
        return [self._status(user, self._clock.wall_ms()) for user in users]

    async def nodes(self) -> list[NodeStatus]:
        """Return this node."""
        return [self._describe()]

    async def order(self, order: Order) -> None:
        """Obey."""
        if isinstance(order, Disconnect):
            self._bans.note(order)
        self.obey(order)

    async def message(self, user: str, data: Document, at: int) -> None:
        """Deliver."""
        self.deliver(user, data, at)

    def _status(self, user: str, now_ms: int) -> UserStatus:
        connections = [UserConnection(cid, self._node, at) for cid, at in self._users.get(user, {}).items()]
        seen_ms = now_ms if connections else self._seen_ms.get(user)
        if seen_ms is not None and now_ms - seen_ms >= self._last_seen_ms:
            seen_ms = None
        return UserStatus(connections, seen_ms)
