"""Going alone and coming back: what rooms do when contact with the shared store ends, and when it returns."""

from collections.abc import Iterable
from functools import partial

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import PresenceSettings
from presence_server.presence.state import Linger
from presence_server.protocol.codes import KICKED
from presence_server.rooms.events import RoomEvent, Settled
from presence_server.rooms.occupant import Membership, Occupant
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.view import View


class Rejoin:
    """Keeps a node's rooms right over the loss and the return of the shared store."""

    def __init__(
        self,
        *,
        node: str,
        rooms: Rooms,
        store: ClusterStore,
        bus: Bus[RoomEvent],
        clock: Clock,
        presence: PresenceSettings,
    ) -> None:
        self._node = node
        self._rooms = rooms
        self._store = store
        self._bus = bus
        self._clock = clock
        self._presence = presence
        self._alone = True
        rooms.stale = True
        self._returning: list[View] = []
        self._stale_until_ms: int | None = None
        self._doubt_until_ms: int | None = None
        self._hold_until_ms = 0

    def lost(self) -> None:
        """Go on alone: clients here are served as before, and told that others may be out of date."""
        self._alone = True
        self._rooms.stale = True
        self._stale_until_ms = self._doubt_until_ms = None
        views = list(self._rooms.views)
        generations = self._store.be_island({view.room: list(view.roster.records.values()) for view in views})
        for view in views:
            view.tell_stale(stale=True)
            view.feed.interrupt(generations[view.room], 0)
        self._store.abandon()
        for view in views:
            self._let_linger(view)

    def back(self, without_s: float) -> None:
        """Come back: enter everybody here again, tell who left, and see what others did meanwhile.

        `without_s` is how long there was no contact.
        """
        if not self._alone:
            return
        self._alone = False
        self._store.return_()
        now_ms = self._clock.now_ms()
        hold = without_s * 1_000 > self._presence.heartbeat_ms * 3 / 2
        self._rooms.stale = hold or bool(self._rooms.views)
        self._stale_until_ms = now_ms + (2 * self._presence.heartbeat_ms if hold else 0)
        self._doubt_until_ms = now_ms + self._presence.ttl_ms
        self._hold_until_ms = max(self._hold_until_ms, self._stale_until_ms)
        self._returning = views = list(self._rooms.views)
        claimed: dict[Occupant, list[Membership]] = {}
        for view in views:
            view.doubt()
            view.feed.rejoin()
            self._store.ask(view.room)
            for membership in view.local_members():
                if membership.occupant.claimed_alone:
                    claimed.setdefault(membership.occupant, []).append(membership)
                else:
                    self._rooms.enter_again(membership)
        self._store.replay()
        unclaimed = set(claimed)
        unsettled = {membership.view.room for memberships in claimed.values() for membership in memberships}
        for occupant, memberships in claimed.items():
            answer = partial(self._claimed, occupant, memberships, unclaimed, unsettled)
            self._store.claim(occupant.cid, occupant.epoch, self._node, answer)
        self._settle({view.room for view in views} - unsettled)

    def hold_rest_ms(self) -> int:
        """Return for how long this node still asks rooms to evict nobody."""
        return max(self._hold_until_ms - self._clock.now_ms(), 0)

    def check(self) -> None:
        """End staleness and doubt in their time."""
        now_ms = self._clock.now_ms()
        over = self._stale_until_ms is not None and now_ms >= self._stale_until_ms
        if over and not any(view.feed.loading for view in self._returning):
            self._stale_until_ms = None
            self._returning = []
            self._rooms.stale = False
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

    def _claimed(
        self,
        occupant: Occupant,
        memberships: list[Membership],
        unclaimed: set[Occupant],
        unsettled: set[str],
        epoch: int,
    ) -> None:
        """Enter a connection that was resumed meanwhile: another island may have had it too."""
        occupant.claimed_alone = False
        if epoch:
            occupant.epoch = epoch
            for membership in memberships:
                self._rooms.enter_again(membership)
        elif occupant.outbox.wire is not None:  # its tokens had ended, which this node did not know
            occupant.outbox.wire.close(KICKED)
        unclaimed.discard(occupant)
        if not unclaimed:
            self._settle(unsettled)

    def _settle(self, rooms: Iterable[str]) -> None:
        """Say that everybody here has been entered: of this node's members, who is missing is gone."""
        for room in rooms:
            self._bus.publish(room, Settled(self._node))
