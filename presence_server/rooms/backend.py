"""The operations of a backend on rooms: publish, enter a member without a socket, remove a member."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.config.settings import LimitsSettings
from presence_server.presence.operations import Enter, Leave, Outcome
from presence_server.presence.port import PresenceStore
from presence_server.presence.roster import LEASE_NODE
from presence_server.protocol.messages import Document
from presence_server.rooms.events import Publication, RoomEvent
from presence_server.rooms.rules import Rules

BACKEND_EPOCH: Final = 1
"""The epoch of what a backend enters and publishes: it has one life."""


class BackendRooms:
    """The verbs of a backend. It is held to names and sizes, but not to what rooms allow their clients."""

    def __init__(
        self,
        store: PresenceStore,
        bus: Bus[RoomEvent],
        rules: Rules,
        clock: Clock,
        limits: LimitsSettings,
    ) -> None:
        self.limits = limits
        self._store = store
        self._bus = bus
        self._rules = rules
        self._clock = clock

    def check(self, room: str) -> None:
        """Raise `RequestError` with `invalid_room` where nothing can be called that."""
        self._rules.of(room)

    def publish(self, room: str, data: Document, done: Callable[[int], None]) -> None:
        """Send `data` to every watcher; `done` gets when, in ms since 1970."""
        self.check(room)
        at = self._clock.wall_ms()
        self._bus.publish(room, Publication(None, None, BACKEND_EPOCH, data, at), partial(done, at))

    def enter(
        self,
        room: str,
        cid: str,
        user: str,
        *,
        info: Document,
        state: Document | None,
        ttl_ms: int,
        done: Callable[[Outcome], None],
    ) -> None:
        """Make a member that no connection has, or renew it: it is gone `ttl_ms` after the last call."""
        members_max = self._rules.of(room).members_max
        enter = Enter(cid, user, info, state, BACKEND_EPOCH, LEASE_NODE, ttl_ms, members_max)
        self._store.carry_out(room, enter, done)

    def end_tokens(self, cids: Collection[str], done: Callable[[None], None]) -> None:
        """Let no resume token of some connections bring them back."""
        waiting = len(cids)

        def ended() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                done(None)

        for cid in cids:
            self._store.end_tokens(cid, ended)
        if not cids:
            done(None)

    def end_user_tokens(
        self, user: str, at: int, cids: Collection[str], done: Callable[[None], None]
    ) -> None:
        """Let no resume token of a user issued until `at`, nor any of the connections `cids`, bring one back."""
        self._store.end_user_tokens(user, at, partial(self.end_tokens, cids, done))

    def remove(self, room: str, cid: str, done: Callable[[Outcome], None]) -> None:
        """Remove a member; its connection is not entered again before its client knows."""
        self.check(room)
        self._store.carry_out(room, Leave(cid, None, "kicked", fence=True), done)
