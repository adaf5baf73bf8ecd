"""Enters this node's members again, room by room, and announces when all members of a room are in the store."""

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import Final

from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.parts import Concerned, Parts, drop_concerned
from presence_server.cluster.slices import STEPS_MAX, Slices
from presence_server.cluster.store import ClusterStore
from presence_server.faults import contain
from presence_server.presence.operations import BROKEN, Done, Outcome
from presence_server.presence.roster import Record
from presence_server.rooms.events import NodeReentered, RoomEvent
from presence_server.rooms.participant import Membership
from presence_server.rooms.view import View
from presence_server.session.directory import Directory

ANNOUNCED_AFTER_MS: Final = 1_000
"""Where the store lost what it had said of a room, `NodeReentered` is published this long after the last answer: a
connection that has moved to another node meanwhile is entered by that one, which may find out later."""
UNANSWERED_MAX: Final = 400
"""Operations that are under way at the same time, so that each pipeline stays short."""


class ReentryResult(Enum):
    """What the answers about the members of a room have said so far."""

    COMPLETE = "all are in the store"
    FAILED = "a member could not be entered"
    WIPED = "the store was wiped between two answers: the members entered first are lost"


class RoomReentry:
    """A room whose members are entered again.

    `absent` and `members` are still to be sent: the members without a connection, and the others by cid. `outstanding`
    counts answers to come, those of `members` among them. `generation` is the room's in the last answer.
    """

    __slots__ = ("absent", "generation", "is_sending", "members", "outstanding", "result", "view")

    def __init__(self, view: View, absent: Iterable[Record] = (), members: Iterable[Membership] = ()) -> None:
        self.view = view
        self.absent = deque(absent)
        self.members = {membership.cid: membership for membership in members}
        self.is_sending = True
        self.outstanding = len(self.members)
        self.generation = 0
        self.result = ReentryResult.COMPLETE

    @property
    def is_answered(self) -> bool:
        """Whether everything has been sent, and answered."""
        return not (self.is_sending or self.outstanding)

    def note_answer(self, outcome: Outcome) -> None:
        """Note the answer about one member."""
        self.outstanding -= 1
        if isinstance(outcome, Done):
            if self.generation not in {0, outcome.generation}:
                self.result = ReentryResult.WIPED
            self.generation = outcome.generation
        elif outcome is BROKEN and self.result is ReentryResult.COMPLETE:
            self.result = ReentryResult.FAILED


class Reentry:
    """Enters the members of rooms in slices; see `Slices`.

    `wait_for_claim(reentry, membership)` tells whether the claim of a connection is being repeated; then it calls
    `enter_member` when that is answered.
    """

    def __init__(
        self,
        *,
        node: str,
        parts: Parts,
        directory: Directory,
        store: ClusterStore,
        bus: Bus[RoomEvent],
        clock: Clock,
        slices: Slices,
        wait_for_claim: Callable[[RoomReentry, Membership], bool],
    ) -> None:
        self._node = node
        self._parts = parts
        self._rooms = directory.rooms
        self._lingers = directory.lingers
        self._find = directory.find_connection
        self._store = store
        self._bus = bus
        self._clock = clock
        self._slices = slices
        self._wait_for_claim = wait_for_claim
        self._to_renew: dict[str, View] = {}
        """Rooms whose members are renewed before their turn to be entered: a beat is cheap."""
        self._renewed: set[str] = set()
        """Rooms that were renewed, and not entered yet: the answer to the beat says where the room is."""
        self._to_enter: dict[str, View] = {}
        """Rooms whose turn has not come."""
        self._sending: dict[str, RoomReentry] = {}
        """Rooms of which not all members have been sent."""
        self._by_room: dict[str, RoomReentry] = {}
        """Rooms of which something is to be sent or answered."""
        self._to_announce: dict[str, tuple[RoomReentry, int]] = {}
        """Rooms that are entered, and when that is announced, the earliest first."""
        self._unanswered = 0

    def enter_rooms(self, views: dict[str, View], concerned: Concerned) -> None:
        """Have all rooms that are concerned entered; these are their views.

        Where that takes more than a slice, leases must not end before the turn of a member has come.
        """
        self.give_up(concerned)
        self._store.hold_reads(views)
        self._to_enter.update(views)
        if sum(1 + len(view.memberships) for view in self._to_enter.values()) > STEPS_MAX:
            with_members = {room: view for room, view in views.items() if view.own.has_connected}
            self._to_renew.update(with_members)
        self._slices.work()

    def give_up(self, concerned: Concerned) -> None:
        """Enter and announce none of the rooms that are concerned."""
        for rooms in (self._by_room, self._to_renew, self._to_enter, self._to_announce):
            drop_concerned(rooms, concerned)
        self._renewed = {room for room in self._renewed if not concerned(room)}

    def enter_first(self, room: str, cid: str) -> None:
        """Enter a member before its turn: what its client says must not come before it is a member again.

        The others of its room wait for their turn: they may be thousands.
        """
        view = self._to_enter.get(room)
        if view is not None and self._rooms.views.get(room) is view:
            self._begin_room(self._to_enter.pop(room))
        reentry = self._sending.get(room)
        if reentry is not None and self._by_room.get(room) is reentry and cid in reentry.members:
            self._send_member(reentry, reentry.members.pop(cid))

    def is_waiting(self, room: str) -> bool:
        """Tell whether the turn of a room is still to come."""
        return room in self._to_enter

    def drop_complete(self) -> list[str]:
        """Forget rooms that are entered and read, or that nobody watches; return those that are not yet."""
        for room, reentry in list(self._by_room.items()):
            is_watched = self._rooms.views.get(room) is reentry.view
            if not is_watched or (reentry.is_answered and not reentry.view.feed.loading):
                del self._by_room[room]
        return [*self._by_room, *self._to_enter]

    def take_step(self) -> bool:
        """Do something for one room or member; return whether there was anything to do."""
        if self._unanswered >= UNANSWERED_MAX:
            return False
        if self._to_renew:
            contain("connectivity", self._renew_members, _pop_first(self._to_renew))
        elif self._sending:
            contain("connectivity", self._send_next, next(iter(self._sending.values())))
        elif self._to_enter:
            contain("connectivity", self._take_turn, _pop_first(self._to_enter))
        else:
            return False
        return True

    def _renew_members(self, view: View) -> None:
        if self._rooms.views.get(view.room) is view:
            if view.room in self._to_enter:
                self._renewed.add(view.room)
            self._unanswered += self._rooms.memberships.renew(view, lambda _: self._count_answer())

    def _take_turn(self, view: View) -> None:
        if self._rooms.views.get(view.room) is view:
            self._begin_room(view)
        else:  # nobody here watches the room any more
            self._renewed.discard(view.room)
            self._store.release_reads(view.room)

    def _begin_room(self, view: View) -> None:
        room = view.room
        reentry = RoomReentry(view, view.own.all_absent(), view.own.connected())
        self._by_room[room] = self._sending[room] = reentry
        self._to_announce.pop(room, None)
        if room in self._renewed:
            self._renewed.remove(room)
        else:
            reentry.outstanding += 1
            self._unanswered += 1
            self._store.ask(room, partial(self._note_answer, reentry))

    def _send_next(self, reentry: RoomReentry) -> None:
        """Send one member of a room, and end the sending after the last."""
        room = reentry.view.room
        is_given_up = self._by_room.get(room) is not reentry
        if not is_given_up and reentry.absent:
            self._enter_absent(reentry, reentry.absent.popleft())
        elif not is_given_up and reentry.members:
            self._send_member(reentry, reentry.members.pop(next(iter(reentry.members))))
        if is_given_up or not (reentry.absent or reentry.members):
            del self._sending[room]
            reentry.is_sending = False
            if room not in self._to_enter:  # else they are entered once more
                self._store.release_reads(room)
            self._end_if_answered(reentry)

    def _send_member(self, reentry: RoomReentry, membership: Membership) -> None:
        if not self._wait_for_claim(reentry, membership):
            self.enter_member(reentry, membership)

    def enter_member(self, reentry: RoomReentry, membership: Membership) -> None:
        """Enter a member, first as one without a connection where this node knows it as such."""
        room = reentry.view.room
        if self._by_room.get(room) is not reentry:  # given up meanwhile
            return
        record = reentry.view.own.absent(membership.cid)
        if record is not None:
            self._enter_absent(reentry, record)
        self._unanswered += 1
        self._rooms.memberships.enter_again(membership, partial(self._note_answer, reentry))

    def _enter_absent(self, reentry: RoomReentry, record: Record) -> None:
        """Enter a member that has no connection in the room, in a store that may have lost it.

        It has the rest of its grace; where its connection has been resumed here and has not joined its rooms again yet,
        a lease.
        """
        cid, room = record.member.cid, reentry.view.room
        linger = self._lingers.rest_of(cid, room)
        if linger is not None and linger.epoch != record.epoch:
            return
        if linger is None and self._find(cid) is None:
            return
        reentry.outstanding += 1
        self._unanswered += 1
        self._rooms.endings.enter_absent(room, record, linger, partial(self._note_answer, reentry))

    def _count_answer(self) -> None:
        self._unanswered -= 1
        if self._unanswered <= UNANSWERED_MAX // 2 and (self._to_renew or self._sending or self._to_enter):
            self._slices.work_soon()

    def _note_answer(self, reentry: RoomReentry, outcome: Outcome) -> None:
        self._count_answer()
        if self._by_room.get(reentry.view.room) is reentry:  # not of an earlier rejoin
            reentry.note_answer(outcome)
            self._end_if_answered(reentry)

    def _end_if_answered(self, reentry: RoomReentry) -> None:
        """Announce that this node's members are in a room again, now or later, or enter all of them once more."""
        view, room = reentry.view, reentry.view.room
        if not reentry.is_answered or self._by_room.get(room) is not reentry:
            return
        connectivity = self._parts.of(room).connectivity
        is_in_reach = not self._parts.of(room).is_isolated and self._rooms.views.get(room) is view
        if reentry.result is ReentryResult.WIPED and is_in_reach:
            self._to_enter[room] = view
            self._slices.work()
        elif reentry.result is not ReentryResult.FAILED and connectivity.trusted:
            self._announce(reentry)
        elif reentry.result is not ReentryResult.FAILED:
            self._to_announce[room] = reentry, self._clock.now_ms() + ANNOUNCED_AFTER_MS

    def announce_due(self, now_ms: int) -> None:
        """Announce of rooms whose time has come that this node's members are there again."""
        for room, (reentry, at_ms) in list(self._to_announce.items()):
            if at_ms > now_ms:
                break
            del self._to_announce[room]
            if self._rooms.views.get(room) is reentry.view:
                self._announce(reentry)

    def _announce(self, reentry: RoomReentry) -> None:
        self._bus.publish(reentry.view.room, NodeReentered(self._node, reentry.generation))


def _pop_first(views: dict[str, View]) -> View:
    return views.pop(next(iter(views)))
