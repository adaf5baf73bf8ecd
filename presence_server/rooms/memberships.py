"""The memberships of this node: the operations of the presence store that they need, and the answers to them."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import msgspec

from presence_server.errors import RequestError
from presence_server.presence.port import PresenceStore
from presence_server.presence.roster import Change, Record
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
from presence_server.rooms.observer import RoomsObserver
from presence_server.rooms.participant import Membership, Participant
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.view import View
from presence_server.rooms.views import RoomViews

BEATS_MAX: Final = 500
"""Members in one beat; a longer one would hold up a shared store."""


class Memberships:
    """The memberships of the connections on this node.

    `shared` says that the store is shared with other nodes, and answers later. `observer` is told what concerns more
    than one room.
    """

    def __init__(
        self,
        context: NodeContext,
        views: RoomViews,
        *,
        store: PresenceStore,
        observer: RoomsObserver,
        shared: bool,
    ) -> None:
        self._views = views
        self._node = context.node
        self._store = store
        self._clock = context.clock
        self._presence = context.presence
        self._observer = observer
        self._shared = shared
        self._returns_until_ms = 0 if shared else context.clock.now_ms() + context.presence.grace_lost_ms
        """Until when clients of the process before this one may return to rooms that this one does not know."""

    def leave(self, membership: Membership, request: RoomRequest) -> None:
        """End a membership because its client asks for it."""
        who = membership.participant
        self._views.remove_membership(membership)
        if membership.is_member:
            leave = Leave(who.cid, who.epoch, "left")

            def left(outcome: Outcome) -> None:
                self._note_leave_answer(membership, leave, outcome)
                request.ok()

            membership.view.await_leave(who.cid, leave.reason)
            self._store.carry_out(request.room, leave, self.count_until_answered(who, 0, left))
        else:
            request.ok()

    def enter(
        self,
        membership: Membership,
        state: Document | None,
        members_max: int,
        done: Callable[[Outcome], None],
    ) -> None:
        """Have the store make a member of a membership; `done` gets the outcome."""
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
            enter = _with_known_version(enter, membership.view)
        self._store.carry_out(membership.view.room, enter, done)
        self._observer.note_occupied(membership.view.room)

    def note_enter_answer(
        self, membership: Membership, mode: Mode | None, request: RoomRequest, outcome: Outcome
    ) -> None:
        """Wait until the view shows the member that the store has entered, and answer its join; or refuse it."""
        if not self._is_current(membership):
            self._refuse_removed(membership, request)
        elif isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
            reached = partial(self.answer_with_sync, membership, mode, request)
            membership.view.feed.when(outcome.generation, outcome.seq, reached)
        elif outcome is FENCED:
            self._close_replaced(membership.participant)
        elif outcome is REMOVED:
            self.remove(membership.participant, membership.view.room, "kicked", request)
        else:
            membership.stay_watcher()
            if membership.cid not in membership.view.channel.watchers:
                self._views.remove_membership(membership)
            request.refuse(_refusal(outcome, membership.view.room))
            membership.release_requests()

    def answer_with_sync(self, membership: Membership, mode: Mode | None, request: RoomRequest) -> None:
        """Answer a join or a watch with a sync: the view shows the room as it was when that was asked for, or later."""
        if self._is_current(membership):
            self.add_watcher(membership, mode, request)
            membership.release_requests()
        else:
            self._refuse_removed(membership, request)

    def add_watcher(self, membership: Membership, mode: Mode | None, request: RoomRequest) -> None:
        """Reply with a sync, as soon as the room's open batch closes; from now on in `mode` where one is given."""
        if mode is not None:
            membership.watcher.mode = mode
        channel, now_ms = membership.view.channel, self._clock.now_ms()
        if membership.participant.returns and now_ms < self._returns_until_ms:
            channel.await_returns(now_ms)
        channel.add_watcher(membership.watcher, request.id)

    @staticmethod
    def _adopt(membership: Membership, record: Record) -> None:
        member = record.member
        membership.state, membership.v, membership.at = member.state, member.v, member.at

    def change(self, membership: Membership, state: Document, request: RoomRequest) -> None:
        """Have the store take a member's new state."""
        membership.v += 1
        membership.state = state
        who = membership.participant
        change = Change(who.cid, who.epoch, membership.v, state)
        done = partial(self._note_change_answer, membership, membership.v, self._clock.now_ms(), request)
        self._store.carry_out(membership.view.room, change, self.count_until_answered(who, len(state), done))

    def _note_change_answer(
        self, membership: Membership, v: int, asked_ms: int, request: RoomRequest, outcome: Outcome
    ) -> None:
        if outcome is FENCED:
            self._close_replaced(membership.participant)
        elif outcome is MISSING:
            self._enter_lost(membership, asked_ms, request)
        elif outcome is BROKEN:
            request.refuse(_refusal(outcome, membership.view.room))
        else:
            request.ok(v=v)

    def beat(self, part: int, parts: int) -> None:
        """Renew one part of all memberships; called `parts` times a heartbeat, so that the work is spread.

        A room is always in the same part, whatever other rooms come and go.
        """
        for view in [view for view in self._views if zlib.crc32(view.room.encode()) % parts == part]:
            for members, beat in self._beats(view):
                if members:
                    self._observer.note_occupied(view.room)
                done = partial(self._note_beat_answer, members, self._clock.now_ms())
                self._store.carry_out(view.room, beat, done)

    def renew(self, view: View, done: Callable[[Outcome], None]) -> int:
        """Renew the members of a room that are entered again soon; return how often `done` is called."""
        beats = [beat for _, beat in self._beats(view)]
        for beat in beats:
            self._store.carry_out(view.room, beat, done)
        return len(beats)

    def _beats(self, view: View) -> Iterator[tuple[dict[str, Membership], Beat]]:
        """Yield the beats that renew the members of a room, with those that they name; without members an empty one."""
        members = view.local_members()
        for i in range(0, len(members) or 1, BEATS_MAX):
            some = {member.cid: member for member in members[i : i + BEATS_MAX]}
            epochs = {cid: member.participant.epoch for cid, member in some.items()}
            yield some, Beat(epochs, self._presence.ttl_ms)

    def _note_beat_answer(self, members: dict[str, Membership], asked_ms: int, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            for cid in outcome.unknown:
                self._enter_lost(members[cid], asked_ms, None)

    def _enter_lost(self, membership: Membership, asked_ms: int, request: RoomRequest | None) -> None:
        """Enter a member that the store did not know when it was asked; tell the observer if the store had lost it."""

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
        if self._is_current(membership):
            who, state = membership.participant, membership.state
            done: Callable[..., None] = partial(self._note_reenter_answer, membership, entered, request)
            if request is not None:
                done = self.count_until_answered(who, documents_bytes(who.info, state), done)
            self.enter(membership, state, 0, done)
        else:
            self._refuse_removed(membership, request)
            entered(MISSING)

    def _note_reenter_answer(
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
            self._close_replaced(membership.participant)
        elif outcome is REMOVED and self._is_current(membership):
            self.remove(membership.participant, membership.view.room, "kicked", request)
        elif outcome is REMOVED:
            self._refuse_removed(membership, request)
        else:
            refusal = _refusal(outcome, membership.view.room)
            membership.participant.refuse(refusal, None if request is None else request.id)
        entered(outcome)

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
        self._store.carry_out(room, enter, _ignore_outcome)
        # A member that lingers already is not entered; the state that it had set before is written all the same.
        self._store.carry_out(room, Change(member.cid, record.epoch, member.v, member.state), _ignore_outcome)
        self._store.carry_out(room, linger, done)

    def remove(
        self, who: Participant, room: str, reason: RemovalReason, request: RoomRequest | None = None
    ) -> None:
        """Take a participant out of one room, and tell it; others hear that a member left, `kicked`.

        `request` is one that found the removal, and is refused.
        """
        membership = who.memberships.get(room)
        if membership is None:
            return
        self._views.remove_membership(membership)
        if membership.is_member:
            # Also where the store has removed the member already: its leave says that its client has been told.
            leave = Leave(who.cid, who.epoch, "kicked")
            membership.view.await_leave(who.cid, leave.reason)
            self._store.carry_out(room, leave, partial(self._note_leave_answer, membership, leave))
        who.outbox.send_message(Removed(room, reason))
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
            self._views.remove_membership(membership)
            if membership.is_member and ending is not Ending.KEPT:
                operation = self._ending_operation(who, ending)
                if isinstance(operation, Leave):
                    membership.view.await_leave(who.cid, operation.reason)
                done = partial(self._note_ending_answer, membership, operation, is_unseen)
                self._store.carry_out(room, operation, done)
                if isinstance(operation, Linger):
                    lingering[room] = operation
            elif membership.is_member:
                # Until the later connection joins, nobody else would bring them back to a store that is wiped.
                lingering[room] = Linger(who.cid, who.epoch, self._presence.grace_lost_ms, "timeout")
        return lingering

    def _ending_operation(self, who: Participant, ending: Ending) -> Leave | Linger:
        match ending:
            case Ending.KICKED:
                return Leave(who.cid, who.epoch, "kicked", fence=True)
            case Ending.CLOSED:
                return Leave(who.cid, who.epoch, "closed")
            case Ending.CLEAN:
                return Linger(who.cid, who.epoch, self._presence.grace_clean_ms, "closed")
            case _:
                return Linger(who.cid, who.epoch, self._presence.grace_lost_ms, "timeout")

    def _note_ending_answer(
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
        left = partial(self._note_leave_answer, membership, operation)
        if outcome is MISSING and isinstance(operation, Linger) and record is not None:
            self.enter_absent(view.room, record, operation, left)
        else:
            left(outcome)

    def unseen_records(self, view: View) -> list[Record]:
        """Return the members of this node that the store has entered and the view of their room has not shown yet."""
        known = view.roster.records
        entered = [self._record_of(membership) for membership in view.local_members() if membership.at]
        return [r for r in entered if r.member.cid not in known or known[r.member.cid].epoch < r.epoch]

    def _record_of(self, membership: Membership) -> Record:
        who = membership.participant
        member = Member(who.cid, who.user, who.info, membership.state, membership.v, membership.at)
        return Record(member, who.epoch, self._node)

    @staticmethod
    def _note_leave_answer(membership: Membership, operation: Leave | Linger, outcome: Outcome) -> None:
        """Remove a member from this node's view that the store has let go, or did not have any more."""
        if outcome is MISSING:
            membership.view.drop_absent(membership.cid, operation.reason)
        elif isinstance(outcome, Done) and isinstance(operation, Leave):
            membership.view.await_leave(membership.cid, operation.reason)
        elif isinstance(operation, Leave):
            membership.view.forget_leave(membership.cid)

    def end_linger(self, cid: str, epochs: Mapping[str, int]) -> None:
        """End members, by room and epoch, whose connection is not to come back; a later life of it keeps its own."""
        for room, epoch in epochs.items():
            self._store.carry_out(room, Leave(cid, epoch, "kicked", fence=True), lambda _: None)

    @staticmethod
    def _refuse_removed(membership: Membership, request: RoomRequest | None) -> None:
        """Answer a request that was under way when its connection was taken out of the room."""
        if request is not None and request.id is not None and request.participant.outbox.wire is not None:
            text = "this connection was removed from the room; it may join again"
            request.refuse(RequestError(ErrorCode.FORBIDDEN, text, room=membership.view.room))

    @staticmethod
    def _close_replaced(who: Participant) -> None:
        """Close a connection whose later life has its memberships."""
        who.close(REPLACED)

    def _is_current(self, membership: Membership) -> bool:
        return membership.participant.memberships.get(membership.view.room) is membership

    def count_until_answered(
        self, who: Participant, size: int, done: Callable[..., None]
    ) -> Callable[..., None]:
        """Count a request for its connection until a shared store has answered; this process's answers at once."""
        return who.until_answered(size, done) if self._shared else done


def documents_bytes(info: Document, state: Document | None) -> int:
    """Return how long a member's documents are as JSON."""
    return len(info) + (0 if state is None else len(state))


def _with_known_version(enter: Enter, view: View) -> Enter:
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


def _ignore_outcome(_: Outcome) -> None:
    """Do nothing: the outcome of the operation sent after this one counts."""


def _refusal(outcome: Outcome, room: str) -> RequestError:
    """Return what a client is told of an operation that its room's store refused."""
    if outcome is FULL:
        return RequestError(ErrorCode.ROOM_FULL, "the room has its greatest number of members", room=room)
    return RequestError(ErrorCode.INTERNAL, "the room cannot be used; the server's log says why", room=room)
