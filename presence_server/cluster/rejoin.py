"""The effects of the table in `connectivity`, carried out when contact with the shared store ends and returns.

A node may have thousands of rooms. The two effects that take long for each room are done in slices: rooms go on in
memory, and members are entered (`reentry.py`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import structlog

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import Effect, Event, Rejoined, State
from presence_server.cluster.parts import Concerned, Part, Parts, drop_concerned
from presence_server.cluster.reentry import Reentry, RoomReentry
from presence_server.cluster.slices import Slices
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import PresenceSettings
from presence_server.faults import contain
from presence_server.presence.operations import Linger
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.participant import Membership
from presence_server.rooms.view import View
from presence_server.session.directory import Directory
from presence_server.session.session import Session

CarryOut: TypeAlias = Callable[[Concerned], None]
"""Carries out an effect for some parts."""
log = structlog.get_logger()


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
        renew_contact: CarryOut,
        note_anew: CarryOut,
        give_up_unsent: CarryOut,
        deliver_unsent: CarryOut,
        follow_policy: CarryOut,
    ) -> None:
        self._parts = parts
        self._rooms = directory.rooms
        self._claims = directory.claims
        self._lingers = directory.lingers
        self._store = store
        self._clock = clock
        self._presence = presence
        self._give_up_unsent = give_up_unsent
        self._claiming: dict[str, list[tuple[RoomReentry, Membership]]] = {}
        """Connections whose claims are being repeated, and the members to enter when their epoch is known."""
        self._deferred_messages: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        """What such connections have sent meanwhile, with the room: it must not come before their members."""
        self._to_isolate: dict[str, View] = {}
        """Rooms of which memory has not begun yet."""
        self._slices = Slices(self._take_step)
        self._reentry = Reentry(
            node=node,
            parts=parts,
            directory=directory,
            store=store,
            bus=bus,
            clock=clock,
            slices=self._slices,
            wait_for_claim=self._wait_for_claim,
        )
        self._effects: dict[Effect, CarryOut] = {
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
        self._reentry.announce_due(now_ms)
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
        self._reentry.give_up(concerned)
        unclaimed = {cid: self._claiming.pop(cid) for cid in list(self._claiming) if concerned(cid)}
        views = {view.room: view for view in self._views(concerned)}
        self._store.isolate(views, self._begin_in_memory, self._has_member, concerned)
        self._give_up_unsent(concerned)
        self._to_isolate.update(views)
        self._slices.work()
        for members in unclaimed.values():
            for reentry, membership in members:
                self._reentry.enter_member(reentry, membership)
        for cid in unclaimed:
            self._send_deferred(cid)

    def _begin_in_memory(self, room: str) -> None:
        """Begin a room in memory with the records of its view; without a view there is nobody to serve."""
        view = self._rooms.views.get(room)
        if view is not None:
            records = view.known_to_memory(self._rooms.memberships.unseen_records(view))
            view.isolate(self._store.begin_in_memory(room, records))

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
        for record in view.own.all_absent():
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

    def _claimed(self, session: Session, epoch: int, waiting: list[tuple[RoomReentry, Membership]]) -> None:
        """Enter the members of a connection whose epoch is known now."""
        if self._claiming.get(session.cid) is not waiting:
            return  # isolated again meanwhile
        del self._claiming[session.cid]
        for reentry, membership in waiting:
            self._reentry.enter_member(reentry, membership)
        if session.participant.epoch != epoch and not session.ended:
            self._enter_elsewhere(session, waiting)
        self._send_deferred(session.cid)

    def _enter_elsewhere(self, session: Session, waiting: list[tuple[RoomReentry, Membership]]) -> None:
        """Enter members with another epoch in rooms whose part never lost contact."""
        entered = {membership.view.room for _, membership in waiting}
        for membership in list(session.participant.memberships.values()):
            room = membership.view.room
            if membership.is_member and room not in entered and not self._reentry.is_waiting(room):
                self._rooms.memberships.enter_again(membership, lambda _: None)

    def _wait_for_claim(self, reentry: RoomReentry, membership: Membership) -> bool:
        """Tell whether the claim of a connection is being repeated; its member is entered when that is answered."""
        waiting = self._claiming.get(membership.cid)
        if waiting is None:
            return False
        waiting.append((reentry, membership))
        return True

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Call `send` when a member is being entered: at once, unless the claim of its connection is being repeated."""
        if cid in self._claiming:
            self._deferred_messages.setdefault(cid, []).append((room, send))
        else:
            self._reentry.enter_first(room, cid)
            send()

    def _send_deferred(self, cid: str) -> None:
        for room, send in self._deferred_messages.pop(cid, ()):
            self._reentry.enter_first(room, cid)
            send()

    def _read_rooms(self, concerned: Concerned) -> None:
        self._store.leave_memory(concerned)
        drop_concerned(
            self._to_isolate, concerned
        )  # what a view knows is compared with the store all the same
        views = self._views(concerned)
        self._store.hold_reads(view.room for view in views)  # they are entered before they are read
        for view in views:
            view.rejoin(trusted=self._parts.of(view.room).connectivity.trusted)

    def _enter_members(self, concerned: Concerned) -> None:
        for members in self._claiming.values():
            members[:] = [member for member in members if not concerned(member[0].view.room)]
        self._reentry.enter_rooms({view.room: view for view in self._views(concerned)}, concerned)

    def _take_step(self) -> bool:
        """Do something for one room or member; return whether there was anything to do."""
        if not self._to_isolate:
            return self._reentry.take_step()
        room = next(iter(self._to_isolate))
        contain("connectivity", self._isolate_room, self._to_isolate.pop(room))
        return True

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
        busy = {self._parts.of(tag) for tag in (*self._claiming, *self._reentry.drop_complete())}
        complete = [part for part in rejoining_parts if part not in busy]
        if complete:
            self.on(Rejoined(), complete)
