"""A feed that tests lead by the hand: of a room of the real rules, whose announcements may be lost."""

from typing import TYPE_CHECKING

from presence_server.presence.roster import Roster, Snapshot, difference
from presence_server.rooms.feed import Feed
from tests.presence.room import Room

if TYPE_CHECKING:
    from collections.abc import Callable


class Following:
    """A feed of a room of the real rules; its reads are answered by hand, `lose` keeps deltas from it."""

    def __init__(self) -> None:
        self.room = Room()
        self.roster = Roster()
        self.asked: list[Callable[[Snapshot], None]] = []
        self.compared = 0
        self.reached: list[str] = []
        self.messages: list[tuple[str, bool]] = []
        """Senders of the messages that were delivered, and whether each was known then."""
        is_known = self.roster.records.__contains__
        self.feed = Feed(self.asked.append, self.roster.apply, self._compare, is_known)
        self._heard = 0

    def _compare(self, snapshot: Snapshot) -> None:
        self.compared += 1
        self.roster.apply(difference(self.roster, snapshot))

    def snapshot(self) -> Snapshot:
        """Return the room as it is."""
        state = self.room.state
        return Snapshot(state.generation, state.seq, tuple(state.roster.records.values()))

    def answer(self, snapshot: Snapshot | None = None) -> None:
        """Answer the read that has waited longest."""
        self.asked.pop(0)(snapshot or self.snapshot())

    def lose(self) -> None:
        """Let what was announced so far not arrive."""
        self._heard = len(self.room.deltas)

    def hear(self) -> None:
        """Let what was announced arrive."""
        deltas, self._heard = self.room.deltas[self._heard :], len(self.room.deltas)
        for delta in deltas:
            self.feed.receive_delta(delta)

    def say(self, cid: str) -> None:
        """Let a message of `cid` arrive."""
        self.feed.receive_message(cid, lambda: self.messages.append((cid, cid in self.roster.records)))

    def note(self, name: str) -> None:
        self.reached.append(name)

    @property
    def position(self) -> tuple[int, int]:
        """Where the feed is."""
        return self.feed.generation, self.feed.seq

    @property
    def shows(self) -> bool:
        """Whether the view is the room as it is."""
        return self.roster.records == self.room.state.roster.records

    @property
    def room_position(self) -> tuple[int, int]:
        """Where the room is."""
        return self.room.state.generation, self.room.state.seq
