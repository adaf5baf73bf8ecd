"""The effects of the table in `connectivity`, carried out when contact with the shared store ends and returns."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeAlias

import structlog

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import Effect, Event, Rejoined, State
from presence_server.cluster.parts import Concerned, Part, Parts
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import PresenceSettings
from presence_server.faults import contain
from presence_server.presence.roster import Record
from presence_server.presence.state import BROKEN, Done, Linger, Outcome
from presence_server.rooms.events import NodeReentered, RoomEvent
from presence_server.rooms.participant import Membership
from presence_server.rooms.view import View
from presence_server.session.directory import Directory
from presence_server.session.session import Session

SETTLED_AFTER_MS: Final = 1_000
"""A node says so much later that its members are entered again where the store has lost what it had said: a connection
that has moved to another node meanwhile is entered by that one, which may find out later."""
Does: TypeAlias = Callable[[Concerned], None]
"""Carries out an effect for some parts."""
log = structlog.get_logger()


class RoomRejoin:
    """A room that is being entered again: how many answers are outstanding, and what they said.

    `generation` is the room's in the last answer. `failed` says that a member could not be entered, and `torn` that the
    room was lost meanwhile: its generation was another one in an earlier answer.
    """

    __slots__ = ("failed", "generation", "outstanding", "torn", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.outstanding = 0
        self.generation = 0
        self.failed = False
        self.torn = False


class Rejoin:
    """Carries out the effects of the table for the rooms, claims and departures of some parts."""

    def __init__(
        self,
        *,
        node: str,
        parts: Parts,
        directory: Directory,
        store: ClusterStore,
        bus: Bus[RoomEvent],
        clock: Clock,
        presence: PresenceSettings,
        renew_contact: Does,
        note_anew: Does,
        give_up_unsent: Does,
        deliver_unsent: Does,
        follow_policy: Does,
    ) -> None:
        self._node = node
        self._parts = parts
        self._rooms = directory.rooms
        self._claims = directory.claims
        self._lingers = directory.lingers
        self._find = directory.find
        self._store = store
        self._bus = bus
        self._clock = clock
        self._presence = presence
        self._give_up_unsent = give_up_unsent
        self._rejoining: dict[str, RoomRejoin] = {}
        """Rooms of which an answer is outstanding."""
        self._entered: dict[str, tuple[RoomRejoin, int]] = {}
        """Rooms that are entered, of which that is to be said at some time, the earliest first."""
        self._claiming: dict[str, list[tuple[RoomRejoin, Membership]]] = {}
        """Connections whose claims are being repeated, and the members to enter when their epoch is known."""
        self._unsent: dict[str, list[Callable[[], None]]] = {}
        """What such connections have said meanwhile: it must not come before their members."""
        self._effects: dict[Effect, Does] = {
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

    def on(self, event: Event, parts: Iterable[Part], *, whole: bool = True) -> None:
        """Take an event of some parts, and carry out the effects; `whole`: they are all parts of a server."""
        now_ms = self._clock.now_ms()
        concerned: dict[tuple[Effect, ...], list[Part]] = {}
        changed: Counter[tuple[str, str]] = Counter()
        for part in parts:
            before = part.connectivity.state
            concerned.setdefault(part.connectivity.on(event, now_ms), []).append(part)
            self._parts.note(part)
            if part.connectivity.state is not before:
                changed[part.connectivity.state.value, before.value] += 1
        for (state, before_state), number in changed.items():
            slots = {} if number == 1 else {"slots": number - 1}
            log.info("connectivity", state=state, before=before_state, **slots)
        self._do(concerned, whole=whole)
        # An event without effects ends no rejoin, and comes once for each room whose history is broken.
        if any(concerned) and not isinstance(event, Rejoined):
            self._end_if_complete()

    def check(self) -> None:
        """Resolve members that have been provisional for a TTL, and end rejoins of which everything is answered."""
        now_ms = self._clock.now_ms()
        concerned: dict[tuple[Effect, ...], list[Part]] = {}
        for part in list(self._parts.unresolved):
            concerned.setdefault(part.connectivity.pass_time(now_ms), []).append(part)
            self._parts.note(part)
        self._do(concerned, whole=True)
        self._say_entered(now_ms)
        self._claims.sweep()
        self._end_if_complete()

    def _do(self, concerned: dict[tuple[Effect, ...], list[Part]], *, whole: bool) -> None:
        for effects, parts in concerned.items():
            some = Concerned(parts, self._parts.of, whole=whole)
            for effect in effects:
                contain("connectivity", self._effects[effect], some)

    # --- effects ---

    def _views(self, concerned: Concerned) -> list[View]:
        return [view for view in self._rooms.views if concerned(view.room)]

    def _isolate(self, concerned: Concerned) -> None:
        """Serve from memory what this node knows: nobody else's members are judged."""
        for rooms in (self._rejoining, self._entered):
            for room in [room for room in rooms if concerned(room)]:
                del rooms[room]
        unclaimed = {cid: self._claiming.pop(cid) for cid in list(self._claiming) if concerned(cid)}
        views = self._views(concerned)
        for view in views:
            view.drop_leaving()
        rosters = {view.room: view.roster.records.values() for view in views}
        generations = self._store.isolate(rosters, concerned)
        for view in views:
            view.isolate(generations[view.room])
        self._give_up_unsent(concerned)
        for view in views:
            self._let_linger(view)
        for members in unclaimed.values():
            for rejoining, membership in members:
                self._enter_if_rejoining(rejoining, membership)
        for cid in unclaimed:
            self._send_unsent(cid)

    def _let_linger(self, view: View) -> None:
        """Let members linger whose connections have ended: while this node is isolated no other evicts them."""
        for record in view.own_absent():
            cid = record.member.cid
            linger = self._lingers.rest_of(cid, view.room)
            linger = linger or Linger(cid, record.epoch, self._presence.grace_lost_ms, "timeout")
            self._store.carry_out(view.room, linger, lambda _: None)

    def _repeat_claims(self, concerned: Concerned) -> None:
        sessions = self._claims.unconfirmed(concerned)
        for session in sessions:
            self._claiming[session.cid] = []
        for session in sessions:
            waiting = self._claiming.get(session.cid)
            if waiting is not None:
                claimed = partial(self._claimed, session, session.participant.epoch, waiting)
                self._claims.repeat(session, claimed)
        for trusted in (True, False):
            some = [part for part in concerned.parts if part.connectivity.trusted is trusted]
            if some:
                of_these = Concerned(some, self._parts.of, whole=concerned.whole)
                self._claims.compare(lost=not trusted, is_concerned=of_these)

    def _claimed(self, session: Session, epoch: int, waiting: list[tuple[RoomRejoin, Membership]]) -> None:
        """Enter the members of a connection whose epoch is known now."""
        if self._claiming.get(session.cid) is not waiting:
            return  # isolated again meanwhile
        del self._claiming[session.cid]
        for rejoining, membership in waiting:
            self._enter_if_rejoining(rejoining, membership)
        if session.participant.epoch != epoch and not session.ended:
            self._enter_elsewhere(session, waiting)
        self._send_unsent(session.cid)

    def _enter_elsewhere(self, session: Session, waiting: list[tuple[RoomRejoin, Membership]]) -> None:
        """Enter members with another epoch in rooms whose part never lost contact."""
        entered = {membership.view.room for _, membership in waiting}
        for membership in list(session.participant.memberships.values()):
            if membership.is_member and membership.view.room not in entered:
                self._rooms.memberships.enter_again(membership, lambda _: None)

    def when_claimed(self, cid: str, send: Callable[[], None]) -> None:
        """Call `send` when the claim of a connection has been repeated: at once, unless it is being repeated."""
        if cid in self._claiming:
            self._unsent.setdefault(cid, []).append(send)
        else:
            send()

    def _send_unsent(self, cid: str) -> None:
        for send in self._unsent.pop(cid, ()):
            send()

    def _enter_if_rejoining(self, rejoining: RoomRejoin, membership: Membership) -> None:
        if self._rejoining.get(rejoining.view.room) is rejoining:
            self._enter(rejoining, membership)

    def _read_rooms(self, concerned: Concerned) -> None:
        self._store.leave_memory(concerned)
        for view in self._views(concerned):
            view.rejoin(trusted=self._parts.of(view.room).connectivity.trusted)

    def _enter_members(self, concerned: Concerned) -> None:
        for room in [room for room in self._rejoining if concerned(room)]:
            del self._rejoining[room]
        for members in self._claiming.values():
            members[:] = [member for member in members if not concerned(member[0].view.room)]
        for view in self._views(concerned):
            self._enter_room(view)

    def _enter_room(self, view: View) -> None:
        rejoining = self._rejoining[view.room] = RoomRejoin(view)
        self._entered.pop(view.room, None)
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
        """Enter a member, first as one without a connection where this node knows it as such."""
        record = rejoining.view.absent(membership.cid)
        if record is not None:
            self._enter_absent(rejoining, record)
        self._rooms.memberships.enter_again(
            membership, partial(self._answered, rejoining.view.room, rejoining)
        )

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
        self._rooms.memberships.enter_absent(room, record, linger, partial(self._answered, room, rejoining))

    def _answered(self, room: str, rejoining: RoomRejoin, outcome: Outcome) -> None:
        """Take the answer about one member; when it was the last, say that this node's members are there again.

        Members are entered in several calls. Where the store was wiped between two of these, the members of the first
        are lost, and all are entered once more.
        """
        if self._rejoining.get(room) is not rejoining:  # of an earlier rejoin
            return
        rejoining.outstanding -= 1
        if isinstance(outcome, Done):
            rejoining.torn = rejoining.torn or rejoining.generation not in {0, outcome.generation}
            rejoining.generation = outcome.generation
        elif outcome is BROKEN:
            rejoining.failed = True
        if rejoining.outstanding:
            return
        if (
            rejoining.torn
            and not self._parts.of(room).is_isolated
            and self._rooms.views.get(room) is rejoining.view
        ):
            self._enter_room(rejoining.view)
        elif not rejoining.failed and self._parts.of(room).connectivity.trusted:
            self._bus.publish(room, NodeReentered(self._node, rejoining.generation))
        elif not rejoining.failed:
            self._entered[room] = rejoining, self._clock.now_ms() + SETTLED_AFTER_MS

    def _say_entered(self, now_ms: int) -> None:
        """Say of rooms whose time has come that this node's members are there again."""
        for room, (rejoining, at_ms) in list(self._entered.items()):
            if at_ms > now_ms:
                break
            del self._entered[room]
            if self._rooms.views.get(room) is rejoining.view:
                self._bus.publish(room, NodeReentered(self._node, rejoining.generation))

    def _resolve_provisional(self, concerned: Concerned) -> None:
        self._claims.compare_all(concerned)  # by now every node has repeated its own
        for view in self._views(concerned):
            view.resolve_provisional()

    def _show_staleness(self, concerned: Concerned) -> None:
        for view in self._views(concerned):
            view.tell_stale(stale=self._parts.of(view.room).connectivity.stale)

    def _end_if_complete(self) -> None:
        """End the rejoin of each part whose rooms are all entered and read; rooms that nobody watches do not count."""
        rejoining_parts = [
            part for part in self._parts.unresolved if part.connectivity.state is State.REJOINING
        ]
        if not rejoining_parts:
            return
        busy = {self._parts.of(cid) for cid in self._claiming}
        for room, rejoining in list(self._rejoining.items()):
            gone = self._rooms.views.get(room) is not rejoining.view
            if gone or not (rejoining.outstanding or rejoining.view.feed.loading):
                del self._rejoining[room]
            else:
                busy.add(self._parts.of(room))
        complete = [part for part in rejoining_parts if part not in busy]
        if complete:
            self.on(Rejoined(), complete)
