"""The memberships of this node: how the presence store makes members of them, renews and changes these."""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from presence_server.errors import RequestError
from presence_server.presence.operations import (
    BROKEN,
    FENCED,
    FULL,
    MISSING,
    REMOVED,
    Beat,
    Done,
    Enter,
    Outcome,
)
from presence_server.presence.port import PresenceStore
from presence_server.presence.roster import Change, Record
from presence_server.protocol.codes import REPLACED, ErrorCode
from presence_server.protocol.messages import Document, Mode
from presence_server.rooms.context import NodeContext
from presence_server.rooms.endings import MembershipEndings, refuse_removed
from presence_server.rooms.observer import RoomsObserver
from presence_server.rooms.participant import Membership, Participant, UntilAnswered
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.view import View
from presence_server.rooms.views import RoomViews

BEATS_MAX: Final = 500
"""Members in one beat; a longer one would hold up a shared store."""


class Memberships:
    """The memberships of the connections on this node.

    `shared` says that other nodes share the store. `observer` is told what concerns more than one room.
    """

    def __init__(
        self,
        context: NodeContext,
        views: RoomViews,
        endings: MembershipEndings,
        *,
        store: PresenceStore,
        observer: RoomsObserver,
        until_answered: UntilAnswered,
        shared: bool,
    ) -> None:
        self._views = views
        self._endings = endings
        self._until_answered = until_answered
        self._node = context.node
        self._store = store
        self._clock = context.clock
        self._presence = context.presence
        self._observer = observer
        self._returns_until_ms = 0 if shared else context.clock.now_ms() + context.presence.grace_lost_ms
        """Until when clients of the process before this one may return to rooms that this one does not know."""

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
            refuse_removed(membership, request)
        elif isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
            reached = partial(self.answer_with_sync, membership, mode, request)
            membership.view.feed.when(outcome.generation, outcome.seq, reached)
        elif outcome is FENCED:
            self._close_replaced(membership.participant)
        elif outcome is REMOVED:
            self._endings.remove(membership.participant, membership.view.room, "kicked", request)
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
            refuse_removed(membership, request)

    def add_watcher(self, membership: Membership, mode: Mode | None, request: RoomRequest) -> None:
        """Reply with a sync, as soon as the room's open batch closes; from now on in `mode` where one is given."""
        if mode is not None:
            membership.watcher.mode = mode
        channel, now_ms = membership.view.channel, self._clock.now_ms()
        if membership.participant.was_elsewhere and now_ms < self._returns_until_ms:
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
        self._store.carry_out(membership.view.room, change, self._until_answered(who, len(state), done))

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
        members = view.own.connected()
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
                done = self._until_answered(who, documents_bytes(who.info, state), done)
            self.enter(membership, state, 0, done)
        else:
            refuse_removed(membership, request)
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
            self._endings.remove(membership.participant, membership.view.room, "kicked", request)
        elif outcome is REMOVED:
            refuse_removed(membership, request)
        else:
            refusal = _refusal(outcome, membership.view.room)
            membership.participant.refuse(refusal, None if request is None else request.id)
        entered(outcome)

    def unseen_records(self, view: View) -> list[Record]:
        """Return the members of this node that the store has entered and the view of their room has not shown yet."""
        known = view.roster.records
        entered = [
            self._endings.record_of(membership) for membership in view.own.connected() if membership.at
        ]
        return [r for r in entered if r.member.cid not in known or known[r.member.cid].epoch < r.epoch]

    @staticmethod
    def _close_replaced(who: Participant) -> None:
        """Close a connection whose later life has its memberships."""
        who.close(REPLACED)

    def _is_current(self, membership: Membership) -> bool:
        return membership.participant.memberships.get(membership.view.room) is membership


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


def _refusal(outcome: Outcome, room: str) -> RequestError:
    """Return what a client is told of an operation that its room's store refused."""
    if outcome is FULL:
        return RequestError(ErrorCode.ROOM_FULL, "the room has its greatest number of members", room=room)
    return RequestError(ErrorCode.INTERNAL, "the room cannot be used; the server's log says why", room=room)
