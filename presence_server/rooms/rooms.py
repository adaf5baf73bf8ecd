"""The verbs of rooms.

Every verb checks what it must and then changes something, or raises `RequestError` and changes nothing. Where
the store has to be asked, the request is answered when its answer comes: at once, on the memory store.
"""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from presence_server.bus.port import Bus
from presence_server.config.settings import Action, RoomSettings
from presence_server.counters import Counts
from presence_server.errors import RequestError
from presence_server.hub.hub import Hub
from presence_server.presence.port import PresenceStore
from presence_server.presence.roster import Change, Delta, Record, Snapshot
from presence_server.presence.state import (
    BROKEN,
    FENCED,
    FULL,
    MISSING,
    REMOVED,
    Beat,
    Done,
    Enter,
    Leave,
    Linger,
    Outcome,
)
from presence_server.protocol.codes import REPLACED, Ending, ErrorCode
from presence_server.protocol.messages import Document, Member, Mode, RemovalReason, Removed
from presence_server.rooms.context import NodeContext
from presence_server.rooms.events import Publication, RoomEvent, Signalled
from presence_server.rooms.observer import RoomsObserver
from presence_server.rooms.participant import Membership, Participant
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.rules import Rules
from presence_server.rooms.view import View

SIGNAL_KEY_CHARS_MAX: Final = 128
IDLE_MS: Final = 5_000
"""A room's view is kept for this long after its last watcher: a client that reloads its page is back before."""
BEATS_MAX: Final = 500
"""Members in one beat; a longer one would hold up a shared store."""


class Rooms:
    """Every room that somebody on this node is in.

    `shared` says that store and bus are shared with other nodes, and answer later.
    `banned_until(user, room)` says when a user may come
    back to a room, in ms since 1970; 0: now. `observer` is told what concerns more than one room. `is_lingering(cid,
    room)` tells whether a member whose connection has ended here is within its grace.
    """

    def __init__(
        self,
        context: NodeContext,
        *,
        hub: Hub,
        store: PresenceStore,
        bus: Bus[RoomEvent],
        rules: Rules,
        banned_until: Callable[[str, str], int],
        observer: RoomsObserver,
        is_lingering: Callable[[str, str], bool],
        shared: bool,
    ) -> None:
        self._shared = shared
        self._banned_until = banned_until
        self._node = context.node
        self._hub = hub
        self._store = store
        self._bus = bus
        self._rules = rules
        self._clock = context.clock
        self._presence = context.presence
        self._limits = context.limits
        self._observer = observer
        self._is_lingering = is_lingering
        self.leaves: Counts[str] = Counts()
        """Leaves heard of, by reason."""
        self.snapshots = 0
        """Rooms read whole: for a first watcher here, or because something was missed."""
        self._views: dict[str, View] = {}
        self._behind: dict[View, None] = {}
        self._idle_since_ms: dict[str, int] = {}
        self._returns_until_ms = 0 if shared else context.clock.now_ms() + context.presence.grace_lost_ms
        """Until when clients of the process before this one may return to rooms that this one does not know."""

    def __len__(self) -> int:
        return len(self._views)

    @property
    def views(self) -> Collection[View]:
        """Every room that somebody on this node is in."""
        return self._views.values()

    def view(self, room: str) -> View | None:
        """Return the view of a room; None: nobody on this node is in it."""
        return self._views.get(room)

    @property
    def members_here(self) -> int:
        """The number of members whose connections are on this node, added up over rooms."""
        return sum(len(view.local_members()) for view in self._views.values())

    def note_position(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        view = self._views.get(room)
        if view is not None:
            view.note_position(generation, seq, self._clock.now_ms())
            if view.feed.behind:
                self._behind[view] = None

    def sweep_views(self) -> None:
        """Have views that have missed something read it, and let those go that nobody watches any more."""
        now_ms = self._clock.now_ms()
        for view in list(self._behind):
            view.feed.read_if_behind(now_ms)
            if not view.feed.behind:
                del self._behind[view]
        for room, since_ms in list(self._idle_since_ms.items()):  # oldest first
            if now_ms - since_ms < IDLE_MS:
                break
            self._forget(room)

    def _receive_event(self, view: View, event: RoomEvent) -> None:
        """Take an event of a room from the bus."""
        if isinstance(event, Delta):
            self.leaves.update(leave.reason for leave in event.leaves)
            self._store.note_delta(view.room, event)
        view.receive_event(event)

    # --- the verbs ---

    def join(self, request: RoomRequest, state: Document | None, mode: Mode | None) -> None:
        """Make the participant a member and a watcher; the reply is a sync. Again: an update if the state differs."""
        participant, room = request.participant, request.room
        rules = self._permit_entry(participant, "join", room)
        if state is not None:
            self._check_state(room, state)
        membership = participant.memberships.get(room)
        if membership is not None and membership.is_member:
            if state is not None and state != membership.state:
                self._permit(participant, "update", room)
                # The reply to the join is the sync, so that an error of the update has no `id`.
                self._change(membership, state, RoomRequest(participant, None, room))
            self._add_watcher(membership, mode, request)
            return
        if membership is None:
            membership = self._admit(participant, room, mode)
        membership.become_member()
        # Where it has to be entered again before this is answered it has what its client sent.
        membership.state = state
        membership.hold_requests()
        done: Callable[..., None] = partial(self._entered, membership, mode, request)
        done = self._pending(participant, _documents_bytes(participant.info, state), done)
        self._enter(membership, state, rules.members_max, done)

    def watch(self, request: RoomRequest, mode: Mode | None) -> None:
        """Make the participant a watcher; the reply is a sync."""
        participant, room = request.participant, request.room
        self._permit_entry(participant, "watch", room)
        membership = participant.memberships.get(room) or self._admit(participant, room, mode)
        membership.hold_requests()
        membership.view.feed.when_live(partial(self._reached, membership, mode, request))

    def leave(self, request: RoomRequest) -> None:
        """End membership and watching."""
        participant, room = request.participant, request.room
        membership = self._membership(participant, room)
        self._depart(membership)
        if membership.is_member:
            leave = Leave(participant.cid, participant.epoch, "left")

            def left(outcome: Outcome) -> None:
                self._left(membership, leave, outcome)
                request.ok()

            self._store.carry_out(room, leave, self._pending(participant, 0, left))
        else:
            request.ok()

    def update(self, request: RoomRequest, state: Document, if_version: int | None) -> None:
        """Replace the member's state."""
        participant, room = request.participant, request.room
        membership = self._membership(participant, room)
        if not membership.is_member:
            raise RequestError(ErrorCode.NOT_JOINED, "this connection only watches the room", room=room)
        self._permit(participant, "update", room)
        self._check_state(room, state)
        if if_version is not None and if_version != membership.v:
            raise RequestError(
                ErrorCode.CONFLICT, f"the member is at version {membership.v}", room=room, v=membership.v
            )
        self._change(membership, state, request)

    def publish(self, request: RoomRequest, data: Document) -> None:
        """Send `data` to every other watcher."""
        participant, room = request.participant, request.room
        self._membership(participant, room)
        self._permit(participant, "publish", room)
        self._check_data(room, data)
        at = self._clock.wall_ms()
        sent = self._pending(participant, len(data), partial(request.ok, at=at))

        def send() -> None:
            publication = Publication(participant.cid, participant.user, participant.epoch, data, at)
            self._bus.publish(room, publication, sent)

        self._observer.when_claimed(participant.cid, send)

    def signal(self, request: RoomRequest, key: str, data: Document) -> None:
        """Send `data` to every other watcher, or not, if there is too much to do."""
        participant, room = request.participant, request.room
        self._membership(participant, room)
        self._permit(participant, "signal", room)
        if len(key) > SIGNAL_KEY_CHARS_MAX:
            raise RequestError(
                ErrorCode.BAD_MESSAGE,
                f"a signal's key has at most {SIGNAL_KEY_CHARS_MAX} characters",
                room=room,
            )
        self._check_data(room, data)
        if self._hub.sheds_signal():
            return
        sent = self._pending(participant, len(data), _nothing)

        def send() -> None:
            signalled = Signalled(participant.cid, participant.user, participant.epoch, key, data)
            self._bus.publish(room, signalled, sent)

        self._observer.when_claimed(participant.cid, send)

    def members(
        self, request: RoomRequest, cursor: str | None, limit: int
    ) -> tuple[list[Member], str | None]:
        """Return a page of the roster, and the cursor of the next one."""
        return self._membership(request.participant, request.room).view.page(cursor, limit)

    def remove(
        self, who: Participant, room: str, reason: RemovalReason, request: RoomRequest | None = None
    ) -> None:
        """Take a participant out of one room, and tell it; others hear that a member left, `kicked`.

        `request` is one that found the removal, and is refused.
        """
        membership = who.memberships.get(room)
        if membership is None:
            return
        self._depart(membership)
        if membership.is_member:
            # Also where the store has removed the member already: its leave says that its client has been told.
            leave = Leave(who.cid, who.epoch, "kicked")
            self._store.carry_out(room, leave, partial(self._left, membership, leave))
        who.outbox.send(Removed(room, reason))
        self._refuse_removed(membership, request)
        membership.release_requests()

    def remove_by_command(self, who: Participant, room: str, at: int) -> None:
        """Take a connection out of a room from which a backend has removed it, if it was there at `at`."""
        membership = who.memberships.get(room)
        if membership is not None and membership.at <= at:
            self.remove(who, room, "kicked")

    def remove_uncovered(self, who: Participant) -> None:
        """Take a connection out of the rooms that what its credentials allow now does not cover."""
        grants = who.grants
        if grants is not None:
            memberships = list(who.memberships.items())
            for room in [
                r for r, m in memberships if not grants.allow("join" if m.is_member else "watch", r)
            ]:
                self.remove(who, room, "forbidden")

    def disconnect(self, who: Participant, ending: Ending) -> dict[str, Linger]:
        """End every membership of a connection that has ended, each in its time; return how it lingers, by room."""
        lingering = {}
        for room, membership in tuple(who.memberships.items()):
            is_unseen = membership.is_entering and membership.at > 0
            self._depart(membership)
            if membership.is_member and ending is not Ending.KEPT:
                operation = self._ended(who, ending)
                done = partial(self._ended_in, membership, operation, is_unseen)
                self._store.carry_out(room, operation, done)
                if isinstance(operation, Linger):
                    lingering[room] = operation
            elif membership.is_member:
                # Until the later connection joins, nobody else would bring them back to a store that is wiped.
                lingering[room] = Linger(who.cid, who.epoch, self._presence.grace_lost_ms, "timeout")
        return lingering

    def enter_absent(
        self, room: str, record: Record, linger: Linger | None, done: Callable[[Outcome], None]
    ) -> None:
        """Enter a member that has no connection in the room, in a store that may have lost it; `linger`: its grace."""
        member, ttl_ms = record.member, self._presence.ttl_ms
        enter = Enter(
            member.cid,
            member.user,
            member.info,
            member.state,
            record.epoch,
            self._node,
            ttl_ms,
            v=member.v,
            at=member.at,
        )
        if linger is None:
            self._store.carry_out(room, enter, done)
            return
        self._store.carry_out(room, enter, _take_no_note)
        # A member that lingers already is not entered; the state that it had set before is written all the same.
        self._store.carry_out(room, Change(member.cid, record.epoch, member.v, member.state), _take_no_note)
        self._store.carry_out(room, linger, done)

    def end_linger(self, cid: str, epochs: Mapping[str, int]) -> None:
        """End members, by room and epoch, whose connection is not to come back; a later life of it keeps its own."""
        for room, epoch in epochs.items():
            self._store.carry_out(room, Leave(cid, epoch, "kicked", fence=True), lambda _: None)

    def beat(self, part: int, parts: int) -> None:
        """Renew one part of all memberships; called `parts` times a heartbeat, so that the work is spread.

        A room is always in the same part, whatever other rooms come and go.
        """
        for room in [room for room in self._views if zlib.crc32(room.encode()) % parts == part]:
            members = self._views[room].local_members()
            if members:
                self._observer.entered(room)
            for i in range(0, len(members) or 1, BEATS_MAX):
                some = {member.cid: member for member in members[i : i + BEATS_MAX]}
                epochs = {cid: member.participant.epoch for cid, member in some.items()}
                beat = Beat(epochs, self._presence.ttl_ms)
                self._store.carry_out(room, beat, partial(self._beaten, some, self._clock.now_ms()))

    # --- what they share ---

    def _permit(self, who: Participant, action: Action, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `forbidden` unless both they and the credentials allow `action`."""
        rules = self._rules.allowing(action, room)
        if who.grants is not None and not who.grants.allow(action, room):
            raise RequestError(
                ErrorCode.FORBIDDEN, f"the token does not allow {action!r} in this room", room=room
            )
        return rules

    def _permit_entry(self, who: Participant, action: Action, room: str) -> RoomSettings:
        """Return the rules of `room`; raise `forbidden` also where its user is banned from it."""
        rules = self._permit(who, action, room)
        if self._banned_until(who.user, room):
            if room not in who.memberships:
                # Its client hears of its removal here: once the ban is over, a join is not refused for that again.
                self._store.carry_out(room, Leave(who.cid, who.epoch, "kicked"), lambda _: None)
            raise RequestError(ErrorCode.FORBIDDEN, "this user is banned from this room", room=room)
        return rules

    def _membership(self, who: Participant, room: str) -> Membership:
        membership = who.memberships.get(room)
        if membership is None:
            self._rules.of(room)
            raise RequestError(ErrorCode.NOT_JOINED, "this connection is not in the room", room=room)
        return membership

    def _check_state(self, room: str, state: Document) -> None:
        if len(state) > self._limits.state_bytes:
            raise RequestError(
                ErrorCode.TOO_LARGE,
                f"the state is {len(state)} bytes as JSON, more than {self._limits.state_bytes}",
                room=room,
            )

    def _check_data(self, room: str, data: Document) -> None:
        """Refuse what is longer as JSON than a message may be: 16 KiB of MessagePack can be six times that."""
        if len(data) > self._limits.message_bytes:
            raise RequestError(
                ErrorCode.TOO_LARGE,
                f"the data is {len(data)} bytes as JSON, more than {self._limits.message_bytes}",
                room=room,
            )

    def _admit(self, who: Participant, room: str, mode: Mode | None) -> Membership:
        """Make a membership, and the room's view where this is the first on this node."""
        if len(who.memberships) >= self._limits.rooms:
            raise RequestError(
                ErrorCode.TOO_MANY_ROOMS, f"this connection is in {self._limits.rooms} rooms", room=room
            )
        rules = self._rules.of(room)
        view = self._views.get(room)
        if view is None:
            view = self._views[room] = View(
                room,
                rules,
                self._hub,
                self._snapshot,
                node=self._node,
                history_broken=self._history_broken,
                is_lingering=self._is_lingering,
                now_ms=self._clock.now_ms,
                fence_ms=2 * self._presence.ttl_ms,
                stale=self._observer.is_stale(room),
            )
            self._bus.subscribe(room, partial(self._receive_event, view), view.feed.load)
        self._idle_since_ms.pop(room, None)
        membership = Membership(view, who, mode or rules.mode)
        who.memberships[room] = view.memberships[who.cid] = membership
        return membership

    def _snapshot(self, room: str, done: Callable[[Snapshot], None]) -> None:
        self.snapshots += 1
        self._store.snapshot(room, done)

    def _add_watcher(self, membership: Membership, mode: Mode | None, request: RoomRequest) -> None:
        """Reply with a sync, as soon as the room's open batch closes; from now on in `mode` where one is given."""
        if mode is not None:
            membership.watcher.mode = mode
        channel, now_ms = membership.view.channel, self._clock.now_ms()
        if membership.participant.returns and now_ms < self._returns_until_ms:
            channel.await_returns(now_ms)
        channel.add(membership.watcher, request.id)

    def _depart(self, membership: Membership) -> None:
        """Take a membership out of its room."""
        view = membership.view
        del membership.participant.memberships[view.room]
        view.channel.remove(membership.cid)
        if view.memberships.get(membership.cid) is membership:
            del view.memberships[membership.cid]
        if not view.memberships:
            self._idle_since_ms[view.room] = self._clock.now_ms()

    def _forget(self, room: str) -> None:
        """Take a room out of this node."""
        del self._idle_since_ms[room]
        self._behind.pop(self._views.pop(room), None)
        self._bus.unsubscribe(room)
        self._store.forget(room)

    def _enter(
        self,
        membership: Membership,
        state: Document | None,
        members_max: int,
        done: Callable[[Outcome], None],
    ) -> None:
        who = membership.participant
        ttl_ms = self._presence.ttl_ms
        enter = Enter(
            who.cid,
            who.user,
            who.info,
            state,
            who.epoch,
            self._node,
            ttl_ms,
            members_max,
            membership.v,
            membership.at,
        )
        if not membership.at and who.epoch > 1:
            enter = _going_on(enter, membership.view)
        self._store.carry_out(membership.view.room, enter, done)
        self._observer.entered(membership.view.room)

    def _entered(
        self, membership: Membership, mode: Mode | None, request: RoomRequest, outcome: Outcome
    ) -> None:
        if not self._still(membership):
            self._refuse_removed(membership, request)
        elif isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
            reached = partial(self._reached, membership, mode, request)
            membership.view.feed.when(outcome.generation, outcome.seq, reached)
        elif outcome is FENCED:
            self._replaced(membership.participant)
        elif outcome is REMOVED:
            self.remove(membership.participant, membership.view.room, "kicked", request)
        else:
            membership.stay_watcher()
            if membership.cid not in membership.view.channel.watchers:
                self._depart(membership)
            request.refuse(_refusal(outcome, membership.view.room))
            membership.release_requests()

    def _reached(self, membership: Membership, mode: Mode | None, request: RoomRequest) -> None:
        """Answer a join or a watch: the view shows the room as it was then, or later."""
        if self._still(membership):
            self._add_watcher(membership, mode, request)
            membership.release_requests()
        else:
            self._refuse_removed(membership, request)

    @staticmethod
    def _adopt(membership: Membership, record: Record) -> None:
        member = record.member
        membership.state, membership.v, membership.at = member.state, member.v, member.at

    def _change(self, membership: Membership, state: Document, request: RoomRequest) -> None:
        membership.v += 1
        membership.state = state
        who = membership.participant
        change = Change(who.cid, who.epoch, membership.v, state)
        done = partial(self._changed, membership, membership.v, self._clock.now_ms(), request)
        self._store.carry_out(membership.view.room, change, self._pending(who, len(state), done))

    def _changed(
        self, membership: Membership, v: int, asked_ms: int, request: RoomRequest, outcome: Outcome
    ) -> None:
        if outcome is FENCED:
            self._replaced(membership.participant)
        elif outcome is MISSING:
            self._enter_lost(membership, asked_ms, request)
        elif outcome is BROKEN:
            request.refuse(_refusal(outcome, membership.view.room))
        else:
            request.ok(v=v)

    def _beaten(self, members: dict[str, Membership], asked_ms: int, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            for cid in outcome.unknown:
                self._enter_lost(members[cid], asked_ms, None)

    def _enter_lost(self, membership: Membership, asked_ms: int, request: RoomRequest | None) -> None:
        """Bring back a member that the store did not know when it was asked; say so if it had really lost it."""

        def entered(outcome: Outcome) -> None:
            if isinstance(outcome, Done) and outcome.created:
                self._observer.own_member_lost(membership.view.room, asked_ms)

        self.enter_again(membership, entered, request)

    def enter_again(
        self,
        membership: Membership,
        entered: Callable[[Outcome], None],
        request: RoomRequest | None = None,
    ) -> None:
        """Enter a member that the store may not have, with its present state; `entered` gets the outcome.

        It gets `MISSING` where the membership has ended meanwhile. What no client has asked for (no `request`) does not
        count for its connection: a return enters all of its members at once.
        """
        if self._still(membership):
            who, state = membership.participant, membership.state
            done: Callable[..., None] = partial(self._entered_again, membership, entered, request)
            if request is not None:
                done = self._pending(who, _documents_bytes(who.info, state), done)
            self._enter(membership, state, 0, done)
        else:
            self._refuse_removed(membership, request)
            entered(MISSING)

    def _entered_again(
        self,
        membership: Membership,
        entered: Callable[[Outcome], None],
        request: RoomRequest | None,
        outcome: Outcome,
    ) -> None:
        if isinstance(outcome, Done) and outcome.record is not None:
            # A later version here is an update that has followed; its own answer is to come.
            if outcome.record.member.v >= membership.v:
                self._adopt(membership, outcome.record)
            if request is not None:
                request.ok(v=membership.v)
        elif outcome is FENCED:
            self._replaced(membership.participant)
        elif outcome is REMOVED and self._still(membership):
            self.remove(membership.participant, membership.view.room, "kicked", request)
        elif outcome is REMOVED:
            self._refuse_removed(membership, request)
        else:
            refusal = _refusal(outcome, membership.view.room)
            membership.participant.refuse(refusal, None if request is None else request.id)
        entered(outcome)

    def _history_broken(self, room: str, ghosts: Sequence[Record]) -> None:
        """Remove members of this node that a restored store brought back, and say that rooms may have been lost."""
        for record in ghosts:
            self._store.carry_out(room, Leave(record.member.cid, record.epoch, "closed"), lambda _: None)
        self._observer.history_broken(room)

    def _ended_in(
        self, membership: Membership, operation: Leave | Linger, is_unseen: bool, outcome: Outcome
    ) -> None:
        """Give a member its grace, too, that the store had lost when it was told that the connection has ended.

        `is_unseen`: it had been entered, and the view of the room had not shown it yet.
        """
        view = membership.view
        record = view.absent(membership.cid) if isinstance(operation, Linger) else None
        known = membership.cid in view.memberships or membership.cid in view.roster.records
        if is_unseen and isinstance(operation, Linger) and not known:
            record = self._record_of(membership)
        left = partial(self._left, membership, operation)
        if outcome is MISSING and isinstance(operation, Linger) and record is not None:
            self.enter_absent(view.room, record, operation, left)
        else:
            left(outcome)

    def _record_of(self, membership: Membership) -> Record:
        who = membership.participant
        member = Member(who.cid, who.user, who.info, membership.state, membership.v, membership.at)
        return Record(member, who.epoch, self._node)

    @staticmethod
    def _left(membership: Membership, operation: Leave | Linger, outcome: Outcome) -> None:
        """Remove a member from this node's view that the store has let go, or did not have any more."""
        if outcome is MISSING:
            membership.view.drop_absent(membership.cid, operation.reason)
        elif isinstance(outcome, Done) and isinstance(operation, Leave):
            membership.view.await_leave(membership.cid, operation.reason)

    def _pending(self, who: Participant, size: int, done: Callable[..., None]) -> Callable[..., None]:
        """Count a request for its connection until a shared store has answered; this process's answers at once."""
        return who.until_answered(size, done) if self._shared else done

    def _still(self, membership: Membership) -> bool:
        return membership.participant.memberships.get(membership.view.room) is membership

    @staticmethod
    def _refuse_removed(membership: Membership, request: RoomRequest | None) -> None:
        """Answer a request that was under way when its connection was taken out of the room."""
        if request is not None and request.id is not None and request.participant.outbox.wire is not None:
            text = "this connection was removed from the room; it may join again"
            request.refuse(RequestError(ErrorCode.FORBIDDEN, text, room=membership.view.room))

    @staticmethod
    def _replaced(who: Participant) -> None:
        """Close a connection whose later life has its memberships."""
        who.close(REPLACED)

    def _ended(self, who: Participant, ending: Ending) -> Leave | Linger:
        match ending:
            case Ending.KICKED:
                return Leave(who.cid, who.epoch, "kicked", fence=True)
            case Ending.CLOSED:
                return Leave(who.cid, who.epoch, "closed")
            case Ending.CLEAN:
                return Linger(who.cid, who.epoch, self._presence.grace_clean_ms, "closed")
            case _:
                return Linger(who.cid, who.epoch, self._presence.grace_lost_ms, "timeout")


def _documents_bytes(info: Document, state: Document | None) -> int:
    return len(info) + (0 if state is None else len(state))


def _nothing() -> None:
    """Take note of nothing: a signal has no reply."""


def _going_on(enter: Enter, view: View) -> Enter:
    """Keep `v` and `at` of a resumed member that this node knows, in case the store was wiped and has lost them."""
    known = view.roster.records.get(enter.cid)
    if known is None or known.member.user != enter.user:
        return enter
    member = known.member
    state = member.state if enter.state is None else enter.state
    v = member.v if state == member.state else member.v + 1
    # In the generation of a wiped room a provisional member was never known: only its node has its v and at.
    known_in = 0 if view.is_provisional(enter.cid) else view.feed.generation
    return msgspec.structs.replace(enter, state=state, v=v, at=member.at, known_in=known_in)


def _take_no_note(_: Outcome) -> None:
    """Ignore an outcome: the outcome of the operation sent after it counts."""


def _refusal(outcome: Outcome, room: str) -> RequestError:
    """Return what a client is told of an operation that its room's store refused."""
    if outcome is FULL:
        return RequestError(ErrorCode.ROOM_FULL, "the room has its greatest number of members", room=room)
    return RequestError(ErrorCode.INTERNAL, "the room cannot be used; the server's log says why", room=room)
