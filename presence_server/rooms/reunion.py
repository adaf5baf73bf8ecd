"""Going alone and coming back: what rooms do when contact with the shared store ends, and when it returns."""

from functools import partial

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.config.settings import PresenceSettings
from presence_server.presence.redis import RedisStore
from presence_server.presence.shared import SharedStore
from presence_server.presence.state import Linger
from presence_server.rooms.events import RoomEvent, Settled
from presence_server.rooms.occupant import Membership, Occupant
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.view import View


class Reunion:
    """Keeps a node's rooms right over the loss and the return of the shared store."""

    def __init__(
        self,
        *,
        node: str,
        rooms: Rooms,
        store: SharedStore,
        shared: RedisStore,
        bus: Bus[RoomEvent],
        clock: Clock,
        presence: PresenceSettings,
    ) -> None:
        self._node = node
        self._rooms = rooms
        self._store = store
        self._shared = shared
        self._bus = bus
        self._clock = clock
        self._presence = presence
        self._lost_ms: int | None = None
        self._stale_until_ms: int | None = None
        self._doubt_until_ms: int | None = None

    def lost(self) -> None:
        """Go on alone: clients here are served as before, and told that others may be out of date."""
        self._lost_ms = self._clock.now_ms()
        self._stale_until_ms = self._doubt_until_ms = None
        views = list(self._rooms.views)
        generations = self._store.be_island({view.room: list(view.roster.records.values()) for view in views})
        for view in views:
            view.tell_stale(stale=True)
            view.feed.interrupt(generations[view.room], 0)
        for view in views:
            self._let_linger(view)

    def back(self) -> None:
        """Come back: enter everybody here again, tell who left, and see what others did meanwhile."""
        if self._lost_ms is None:
            return
        now_ms = self._clock.now_ms()
        away_ms, self._lost_ms = now_ms - self._lost_ms, None
        hold = away_ms > self._presence.heartbeat_ms * 3 // 2
        self._stale_until_ms = now_ms + (2 * self._presence.heartbeat_ms if hold else 0)
        self._doubt_until_ms = now_ms + self._presence.ttl_ms
        self._shared.holding = hold
        views = list(self._rooms.views)
        claimed: dict[Occupant, list[Membership]] = {}
        for view in views:
            for membership in view.local_members():
                if membership.occupant.claimed_alone:
                    claimed.setdefault(membership.occupant, []).append(membership)
                else:
                    self._rooms.enter_again(membership)
        self._store.replay()
        for occupant, memberships in claimed.items():
            self._claim(occupant, memberships)
        for view in views:
            view.doubt()
            view.feed.load()
            self._bus.publish(view.room, Settled(self._node))
        self._shared.holding = False

    def check(self) -> None:
        """End staleness and doubt in their time."""
        now_ms = self._clock.now_ms()
        loading = any(view.feed.loading for view in self._rooms.views)
        if self._stale_until_ms is not None and now_ms >= self._stale_until_ms and not loading:
            self._stale_until_ms = None
            for view in self._rooms.views:
                view.tell_stale(stale=False)
        if self._doubt_until_ms is not None and now_ms >= self._doubt_until_ms:
            self._doubt_until_ms = None
            for view in self._rooms.views:
                view.believe()

    def _let_linger(self, view: View) -> None:
        """Let this node's members go whose connections are gone: nobody else will on the island."""
        here = {membership.cid for membership in view.local_members()}
        for cid, record in list(view.roster.records.items()):
            if record.node == self._node and cid not in here:
                linger = Linger(cid, record.epoch, self._presence.grace_lost_ms, "timeout")
                self._store.carry_out(view.room, linger, lambda _: None)

    def _claim(self, occupant: Occupant, memberships: list[Membership]) -> None:
        """Claim a connection that was resumed meanwhile, then enter it: another island may have it too."""
        claimed = partial(self._claimed, occupant, memberships)
        self._store.claim(occupant.cid, occupant.epoch, self._node, claimed)

    def _claimed(self, occupant: Occupant, memberships: list[Membership], epoch: int) -> None:
        occupant.epoch = epoch
        occupant.claimed_alone = False
        for membership in memberships:
            self._rooms.enter_again(membership)
