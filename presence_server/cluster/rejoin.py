"""What a node does when contact with the shared store ends and returns: the effects of the table in `connectivity`."""

from collections.abc import Callable
from functools import partial

import structlog

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import (
    Connectivity,
    Effect,
    Event,
    Rejoined,
    State,
)
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import PresenceSettings
from presence_server.faults import contain
from presence_server.presence.roster import Record
from presence_server.presence.state import BROKEN, Done, Linger, Outcome
from presence_server.rooms.events import RoomEvent, Settled
from presence_server.rooms.occupant import Membership
from presence_server.rooms.view import View
from presence_server.session.directory import Directory

log = structlog.get_logger()


class RoomRejoin:
    """A room that is being entered again: how many answers are outstanding, and what they said.

    `generation` is the room's in the last answer. `failed` says that a member could not be entered.
    """

    __slots__ = ("failed", "generation", "outstanding", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.outstanding = 0
        self.generation = 0
        self.failed = False


class Rejoin:
    """Keeps the rooms of one shard right over the loss and the return of the store."""

    def __init__(
        self,
        *,
        node: str,
        connectivity: Connectivity,
        directory: Directory,
        store: ClusterStore,
        bus: Bus[RoomEvent],
        clock: Clock,
        presence: PresenceSettings,
        renew_contact: Callable[[], None],
        note_anew: Callable[[], None],
        deliver_unsent: Callable[[], None],
        follow_policy: Callable[[], None],
    ) -> None:
        self._node = node
        self._connectivity = connectivity
        self._rooms = directory.rooms
        self._claims = directory.claims
        self._lingers = directory.lingers
        self._find = directory.find
        self._store = store
        self._bus = bus
        self._clock = clock
        self._presence = presence
        self._rejoining: dict[str, RoomRejoin] = {}
        """Rooms of which an answer is outstanding."""
        self._claiming: dict[str, list[tuple[RoomRejoin, Membership]]] = {}
        """Connections whose claims are being repeated, and the members to enter when their epoch is known."""
        self._effects: dict[Effect, Callable[[], None]] = {
            Effect.ISOLATE: self._isolate,
            Effect.RENEW_CONTACT: renew_contact,
            Effect.REPEAT_CLAIMS: self._repeat_claims,
            Effect.READ_ROOMS: self._read_rooms,
            Effect.ENTER_MEMBERS: self._enter_members,
            Effect.REPLAY_DEPARTURES: store.replay,
            Effect.NOTE_ANEW: note_anew,
            Effect.FORGET_ISOLATION: store.forget_isolation,
            Effect.RESOLVE_PROVISIONAL: self._resolve_provisional,
            Effect.SHOW_STALENESS: self._show_staleness,
            Effect.DELIVER_UNSENT: deliver_unsent,
            Effect.FOLLOW_POLICY: follow_policy,
        }

    def on(self, event: Event) -> None:
        """Take an event, and do what follows from it."""
        before = self._connectivity.state
        effects = self._connectivity.on(event, self._clock.now_ms())
        if self._connectivity.state is not before:
            log.info("connectivity", state=self._connectivity.state.value, before=before.value)
        for effect in effects:
            contain("connectivity", self._effects[effect])
        if not isinstance(event, Rejoined):
            self._end_if_complete()

    def check(self) -> None:
        """End doubt in its time, and the rejoin when everything is answered."""
        for effect in self._connectivity.pass_time(self._clock.now_ms()):
            contain("connectivity", self._effects[effect])
        self._end_if_complete()

    # --- effects ---

    def _isolate(self) -> None:
        """Serve from memory what this node knows: nobody else's members are judged."""
        self._rejoining.clear()
        self._claiming = {}
        views = list(self._rooms.views)
        for view in views:
            view.drop_leaving()
        generations = self._store.isolate({view.room: view.roster.records.values() for view in views})
        for view in views:
            view.isolate(generations[view.room])
        self._store.abandon()
        for view in views:
            self._let_linger(view)

    def _let_linger(self, view: View) -> None:
        """Let this node's members go whose connections are gone: nobody else will while it is isolated."""
        for record in view.own_absent():
            cid = record.member.cid
            linger = self._lingers.rest_of(cid, view.room)
            linger = linger or Linger(cid, record.epoch, self._presence.grace_lost_ms, "timeout")
            self._store.carry_out(view.room, linger, lambda _: None)

    def _repeat_claims(self) -> None:
        sessions = self._claims.unconfirmed()
        self._claiming = {session.cid: [] for session in sessions}
        for session in sessions:
            self._claims.repeat(session, partial(self._claimed, session.cid, self._claiming))
        self._claims.compare(lost=not self._connectivity.trusted)

    def _claimed(self, cid: str, claiming: dict[str, list[tuple[RoomRejoin, Membership]]]) -> None:
        """Enter the members of a connection whose epoch is known now."""
        for rejoining, membership in claiming.pop(cid, ()):
            if claiming is self._claiming:  # not isolated again meanwhile
                self._enter(rejoining, membership)

    def _read_rooms(self) -> None:
        for view in self._rooms.views:
            view.rejoin(trusted=self._connectivity.trusted)

    def _enter_members(self) -> None:
        self._rejoining = {}
        for members in self._claiming.values():
            members.clear()
        for view in list(self._rooms.views):
            rejoining = self._rejoining[view.room] = RoomRejoin(view)
            memberships = view.local_members()
            rejoining.outstanding = 1 + len(memberships)
            self._store.ask(view.room, partial(self._answered, view.room, rejoining))
            for record in view.own_absent():
                self._enter_absent(rejoining, record)
            for membership in memberships:
                if membership.cid in self._claiming:
                    self._claiming[membership.cid].append((rejoining, membership))
                else:
                    self._enter(rejoining, membership)

    def _enter(self, rejoining: RoomRejoin, membership: Membership) -> None:
        """Enter a member; where its connection has been resumed elsewhere by now, for the later one to find."""
        record = rejoining.view.absent(membership.cid)
        if record is not None:
            self._enter_absent(rejoining, record)
        self._rooms.enter_again(membership, partial(self._answered, rejoining.view.room, rejoining))

    def _enter_absent(self, rejoining: RoomRejoin, record: Record) -> None:
        """Enter a member that has no connection in the room, in a store that may have lost it.

        It has the rest of its grace; where its connection has been resumed here and has not joined its rooms again yet,
        a lease.
        """
        cid, room = record.member.cid, rejoining.view.room
        linger = self._lingers.rest_of(cid, room)
        if linger is not None and linger.epoch != record.epoch:
            return
        if linger is None and self._find(cid) is None:
            return
        rejoining.outstanding += 1
        self._rooms.enter_absent(room, record, linger, partial(self._answered, room, rejoining))

    def _answered(self, room: str, rejoining: RoomRejoin, outcome: Outcome) -> None:
        """Take the answer about one member; when it was the last, say that this node's members are there again."""
        if self._rejoining.get(room) is not rejoining:  # of an earlier rejoin
            return
        rejoining.outstanding -= 1
        if isinstance(outcome, Done):
            rejoining.generation = outcome.generation
        elif outcome is BROKEN:
            rejoining.failed = True
        if not rejoining.outstanding and not rejoining.failed:
            self._bus.publish(room, Settled(self._node, rejoining.generation))

    def _resolve_provisional(self) -> None:
        self._claims.compare(lost=False)  # by now every node has repeated its own
        for view in self._rooms.views:
            view.resolve_provisional()

    def _show_staleness(self) -> None:
        stale = self._connectivity.stale
        for view in self._rooms.views:
            view.tell_stale(stale=stale)

    def _end_if_complete(self) -> None:
        """Say that the rejoin is over if every room is entered and read; those that nobody watches do not count."""
        if self._connectivity.state is not State.REJOINING:
            return
        for room, rejoining in list(self._rejoining.items()):
            gone = self._rooms.view(room) is not rejoining.view
            if gone or not (rejoining.outstanding or rejoining.view.feed.loading):
                del self._rejoining[room]
        if not self._rejoining and not self._claiming:
            self.on(Rejoined())
