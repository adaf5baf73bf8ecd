"""How memberships end: by leaving, by removal, with their connection, or when its grace is over."""

from collections.abc import Callable, Mapping
from functools import partial

from presence_server.errors import RequestError
from presence_server.presence.operations import MISSING, Done, Enter, Leave, Linger, Outcome
from presence_server.presence.port import PresenceStore
from presence_server.presence.roster import Change, Record
from presence_server.protocol.codes import Ending, ErrorCode
from presence_server.protocol.messages import Member, RemovalReason, Removed
from presence_server.rooms.context import NodeContext
from presence_server.rooms.participant import Membership, Participant, UntilAnswered
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.views import RoomViews


class MembershipEndings:
    """Ends memberships of the connections on this node, in its views and in the store."""

    def __init__(
        self, context: NodeContext, views: RoomViews, *, store: PresenceStore, until_answered: UntilAnswered
    ) -> None:
        self._views = views
        self._node = context.node
        self._store = store
        self._presence = context.presence
        self._until_answered = until_answered

    def leave(self, membership: Membership, request: RoomRequest) -> None:
        """End a membership because its client asks for it."""
        who = membership.participant
        self._views.remove_membership(membership)
        if membership.is_member:
            leave = Leave(who.cid, who.epoch, "left")

            def left(outcome: Outcome) -> None:
                self._note_leave_answer(membership, leave, outcome)
                request.ok()

            membership.view.own.await_leave(who.cid, leave.reason)
            self._store.carry_out(request.room, leave, self._until_answered(who, 0, left))
        else:
            request.ok()

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
            membership.view.own.await_leave(who.cid, leave.reason)
            self._store.carry_out(room, leave, partial(self._note_leave_answer, membership, leave))
        who.outbox.send_message(Removed(room, reason))
        refuse_removed(membership, request)
        membership.release_requests()

    def remove_by_command(self, who: Participant, room: str, at: int) -> None:
        """Take a connection out of a room from which a backend has removed it, if it was there at `at`.

        That is so also where the store entered it later: the backend was told that it is there by this node.
        """
        membership = who.memberships.get(room)
        if membership is not None and membership.was_asked_by(at):
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
            if membership.is_member and membership.at and ending not in {Ending.KICKED, Ending.CLOSED}:
                membership.view.keep_absent(self.record_of(membership))
            if membership.is_member and ending is not Ending.KEPT:
                operation = self._ending_operation(who, ending)
                if isinstance(operation, Leave):
                    membership.view.own.await_leave(who.cid, operation.reason)
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
        record = view.own.absent(membership.cid) if isinstance(operation, Linger) else None
        known = membership.cid in view.memberships or membership.cid in view.roster.records
        if is_unseen and isinstance(operation, Linger) and not known:
            record = self.record_of(membership)
        left = partial(self._note_leave_answer, membership, operation)
        if outcome is MISSING and isinstance(operation, Linger) and record is not None:
            self.enter_absent(view.room, record, operation, left)
        else:
            left(outcome)

    @staticmethod
    def _note_leave_answer(membership: Membership, operation: Leave | Linger, outcome: Outcome) -> None:
        """Remove a member from this node's view that the store has let go, or did not have any more."""
        if outcome is MISSING:
            membership.view.drop_absent(membership.cid, operation.reason)
        elif isinstance(outcome, Done) and isinstance(operation, Leave):
            membership.view.own.await_leave(membership.cid, operation.reason)
        elif isinstance(operation, Leave):
            membership.view.own.forget_leave(membership.cid)

    def end_linger(self, cid: str, epochs: Mapping[str, int]) -> None:
        """End members, by room and epoch, whose connection is not to come back; a later life of it keeps its own."""
        for room, epoch in epochs.items():
            self._store.carry_out(room, Leave(cid, epoch, "kicked", fence=True), lambda _: None)

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

    def record_of(self, membership: Membership) -> Record:
        """Return the record of a member as its owner last set it."""
        who = membership.participant
        member = Member(who.cid, who.user, who.info, membership.state, membership.v, membership.at)
        return Record(member, who.epoch, self._node)


def refuse_removed(membership: Membership, request: RoomRequest | None) -> None:
    """Answer a request that was under way when its connection was taken out of the room."""
    if request is not None and request.id is not None and request.participant.outbox.wire is not None:
        text = "this connection was removed from the room; it may join again"
        request.refuse(RequestError(ErrorCode.FORBIDDEN, text, room=membership.view.room))


def _ignore_outcome(_: Outcome) -> None:
    """Do nothing: the outcome of the operation sent after this one counts."""
