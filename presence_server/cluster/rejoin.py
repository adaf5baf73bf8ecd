"""The effects of the table in `connectivity`, carried out when contact with the shared store ends and returns.

A node may have thousands of rooms. The two effects that take long for each room are done in slices: rooms go on in
memory, and members are entered. A room that something is said in before its turn has its turn at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

import structlog

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import Effect, Event, Rejoined, State
from presence_server.cluster.parts import Concerned, Part, Parts
from presence_server.cluster.slices import STEPS_MAX, Slices
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
UNANSWERED_MAX: Final = 400
"""Operations of rejoins that are under way at the same time, so that each pipeline stays short."""
log = structlog.get_logger()


class RoomRejoin:
    """A room that is being entered again: how many answers are outstanding, and what they said.

    `is_unsent` says that not all of its members have been sent. `generation` is the room's in the last answer. `failed`
    says that a member could not be entered, and `torn` that the room was lost meanwhile: its generation was another one
    in an earlier answer.
    """

    __slots__ = ("failed", "generation", "is_unsent", "outstanding", "torn", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.outstanding = 0
        self.is_unsent = False
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
        self._find = directory.find_connection
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
        self._unsent: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        """What such connections have said meanwhile, with the room: it must not come before their members."""
        self._to_isolate: dict[str, View] = {}
        self._to_renew: dict[str, View] = {}
        """Rooms that wait to be entered, and whose members are renewed before that: a beat is cheap."""
        self._renewed: set[str] = set()
        """Rooms that are being renewed, and not entered yet: the answer to the beat says where the room is."""
        self._to_enter: dict[str, View] = {}
        self._entering: Iterator[None] | None = None
        """The room of which some members have been sent."""
        self._unanswered = 0
        self._slices = Slices(self._take_step)
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
        self._claims.compare_next()
        self._slices.work()
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
        self._give_up_entering(concerned)
        unclaimed = {cid: self._claiming.pop(cid) for cid in list(self._claiming) if concerned(cid)}
        views = {view.room: view for view in self._views(concerned)}
        self._store.isolate(views, self._begin_in_memory, self._has_member, concerned)
        self._give_up_unsent(concerned)
        self._to_isolate.update(views)
        self._slices.work()
        for members in unclaimed.values():
            for rejoining, membership in members:
                self._enter_if_rejoining(rejoining, membership)
        for cid in unclaimed:
            self._send_unsent(cid)

    def _begin_in_memory(self, room: str) -> None:
        """Have a room go on in memory with what its view knows; that of a room that nobody is in any more is gone."""
        view = self._rooms.views.get(room)
        if view is not None:
            view.drop_leaving()
            view.show_entered(self._rooms.memberships.unseen_records(view))
            view.isolate(self._store.begin_in_memory(room, view.roster.records.values()))

    def _has_member(self, room: str, cid: str) -> bool:
        """Tell whether a connection may be among the members with which memory begins."""
        view = self._rooms.views.get(room)
        return view is not None and (cid in view.roster.records or cid in view.memberships)

    def _isolate_room(self, view: View) -> None:
        if self._rooms.views.get(view.room) is view and self._parts.of(view.room).is_isolated:
            self._store.ensure_begun(view.room)
            self._let_linger(view)

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
            session.directory.withhold(session)
        for session in sessions:
            waiting = self._claiming.get(session.cid)
            if waiting is not None:
                claimed = partial(self._claimed, session, session.participant.epoch, waiting)
                self._claims.repeat_claim(session, claimed)
        for trusted in (True, False):
            some = [part for part in concerned.parts if part.connectivity.trusted is trusted]
            if some:
                of_these = Concerned(some, self._parts.of, whole=concerned.whole)
                self._claims.compare_memberless(lost=not trusted, is_concerned=of_these)

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
            room = membership.view.room
            if membership.is_member and room not in entered and room not in self._to_enter:
                self._rooms.memberships.enter_again(membership, lambda _: None)

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Call `send` when a member is being entered: at once, unless the claim of its connection is being repeated."""
        if cid in self._claiming:
            self._unsent.setdefault(cid, []).append((room, send))
        else:
            self._enter_now(room)
            send()

    def _send_unsent(self, cid: str) -> None:
        for room, send in self._unsent.pop(cid, ()):
            self._enter_now(room)
            send()

    def _enter_if_rejoining(self, rejoining: RoomRejoin, membership: Membership) -> None:
        if self._rejoining.get(rejoining.view.room) is rejoining:
            self._enter(rejoining, membership)

    def _read_rooms(self, concerned: Concerned) -> None:
        self._store.leave_memory(concerned)
        _drop_rooms(self._to_isolate, concerned)  # what a view knows is compared with the store all the same
        views = self._views(concerned)
        self._store.hold_reads(view.room for view in views)  # they are entered before they are read
        for view in views:
            view.rejoin(trusted=self._parts.of(view.room).connectivity.trusted)

    def _enter_members(self, concerned: Concerned) -> None:
        """Have rooms entered; where that takes more than a slice, leases must not end before a room's turn has come."""
        self._give_up_entering(concerned)
        for members in self._claiming.values():
            members[:] = [member for member in members if not concerned(member[0].view.room)]
        views = {view.room: view for view in self._views(concerned)}
        self._store.hold_reads(views)
        self._to_enter.update(views)
        if len(self._to_enter) > STEPS_MAX:
            self._to_renew.update(views)
        self._slices.work()

    def _give_up_entering(self, concerned: Concerned) -> None:
        for rooms in (self._rejoining, self._to_renew, self._to_enter, self._entered):
            _drop_rooms(rooms, concerned)
        self._renewed = {room for room in self._renewed if not concerned(room)}

    def _enter_room(self, view: View) -> Iterator[None]:
        """Send the members of a room, and yield after each."""
        rejoining = self._rejoining[view.room] = RoomRejoin(view)
        self._entered.pop(view.room, None)
        memberships = view.local_members()
        rejoining.outstanding = len(memberships)
        rejoining.is_unsent = True
        if view.room in self._renewed:
            self._renewed.remove(view.room)
        else:
            rejoining.outstanding += 1
            self._unanswered += 1
            self._store.ask(view.room, partial(self._answered, view.room, rejoining))
            yield
        try:
            for record in view.own_absent():
                if self._rejoining.get(view.room) is rejoining:
                    self._enter_absent(rejoining, record)
                    yield
            for membership in memberships:
                if self._rejoining.get(view.room) is not rejoining:
                    return
                if membership.cid in self._claiming:
                    self._claiming[membership.cid].append((rejoining, membership))
                else:
                    self._enter(rejoining, membership)
                yield
        finally:
            rejoining.is_unsent = False
            if view.room not in self._to_enter:  # else they are entered once more
                self._store.release_reads(view.room)
            self._end_room_if_answered(rejoining)

    def _enter_now(self, room: str) -> None:
        """Enter a room, or the rest of it, before its turn."""
        rejoining = self._rejoining.get(room)
        if room in self._to_enter:
            view = self._to_enter.pop(room)
            entering: Iterator[None] | None = self._enter_room(view)
        elif rejoining is not None and rejoining.is_unsent:
            entering, self._entering = self._entering, None
        else:
            return
        for _ in entering or ():
            pass

    # --- slices ---

    def _take_step(self) -> bool:
        """Do something for one room or member; return whether there was anything to do."""
        if self._to_isolate:
            contain("connectivity", self._isolate_room, _pop_first(self._to_isolate))
        elif self._unanswered >= UNANSWERED_MAX:
            return False
        elif self._to_renew:
            contain("connectivity", self._renew_members, _pop_first(self._to_renew))
        elif self._entering is not None:
            entering, self._entering = self._entering, None
            contain("connectivity", self._go_on_entering, entering)
        elif self._to_enter:
            view = _pop_first(self._to_enter)
            if self._rooms.views.get(view.room) is view:
                contain("connectivity", self._go_on_entering, self._enter_room(view))
            else:  # nobody here watches the room any more
                self._renewed.discard(view.room)
                self._store.release_reads(view.room)
        else:
            return False
        return True

    def _renew_members(self, view: View) -> None:
        if self._rooms.views.get(view.room) is view:
            self._renewed.add(view.room)
            self._unanswered += self._rooms.memberships.renew(view, lambda _: self._count_answer())

    def _go_on_entering(self, entering: Iterator[None]) -> None:
        for _ in entering:
            self._entering = entering
            break

    def _count_answer(self) -> None:
        self._unanswered -= 1
        if self._unanswered <= UNANSWERED_MAX // 2 and (self._to_renew or self._to_enter or self._entering):
            self._slices.work_soon()

    # --- one room ---

    def _enter(self, rejoining: RoomRejoin, membership: Membership) -> None:
        """Enter a member, first as one without a connection where this node knows it as such."""
        record = rejoining.view.absent(membership.cid)
        if record is not None:
            self._enter_absent(rejoining, record)
        self._unanswered += 1
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
        self._unanswered += 1
        self._rooms.endings.enter_absent(room, record, linger, partial(self._answered, room, rejoining))

    def _answered(self, room: str, rejoining: RoomRejoin, outcome: Outcome) -> None:
        """Take the answer about one member; when it was the last, say that this node's members are there again.

        Members are entered in several calls. Where the store was wiped between two of these, the members of the first
        are lost, and all are entered once more.
        """
        self._count_answer()
        if self._rejoining.get(room) is not rejoining:  # of an earlier rejoin
            return
        rejoining.outstanding -= 1
        if isinstance(outcome, Done):
            rejoining.torn = rejoining.torn or rejoining.generation not in {0, outcome.generation}
            rejoining.generation = outcome.generation
        elif outcome is BROKEN:
            rejoining.failed = True
        self._end_room_if_answered(rejoining)

    def _end_room_if_answered(self, rejoining: RoomRejoin) -> None:
        """Say that this node's members are in a room again, if they are, or enter all of them once more."""
        view = rejoining.view
        if rejoining.outstanding or rejoining.is_unsent or self._rejoining.get(view.room) is not rejoining:
            return
        room = view.room
        is_in_reach = not self._parts.of(room).is_isolated and self._rooms.views.get(room) is view
        if rejoining.torn and is_in_reach:
            self._to_enter[room] = view
            self._slices.work()
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
        busy = {self._parts.of(tag) for tag in (*self._claiming, *self._to_enter)}
        for room, rejoining in list(self._rejoining.items()):
            gone = self._rooms.views.get(room) is not rejoining.view
            is_answered = not (rejoining.outstanding or rejoining.is_unsent)
            if gone or (is_answered and not rejoining.view.feed.loading):
                del self._rejoining[room]
            else:
                busy.add(self._parts.of(room))
        complete = [part for part in rejoining_parts if part not in busy]
        if complete:
            self.on(Rejoined(), complete)


def _drop_rooms(rooms: dict[str, Any], concerned: Concerned) -> None:
    for room in [room for room in rooms if concerned(room)]:
        del rooms[room]


def _pop_first(views: dict[str, View]) -> View:
    return views.pop(next(iter(views)))
