"""What a view keeps of a crowded room, whose roster it does not hold: its numbers, and who has resumed. Pure."""

from collections.abc import Collection, Iterable
from typing import Final

from presence_server.presence.roster import MemberCounts, Record

NOBODY: Final = MemberCounts(0, 0)
EPOCHS_MAX: Final = 1_000
"""Resumed connections that are remembered, the latest of each room: earlier lives of them are not heard."""


class Crowd:
    """The numbers of one crowded room.

    While the node is isolated its memory has only the members of this node: those of others are counted as they were.
    """

    __slots__ = ("_elsewhere", "_epochs", "_floor", "_here", "changed")

    def __init__(self, counts: MemberCounts) -> None:
        self._here = counts
        self._elsewhere = NOBODY
        self._floor = NOBODY
        """The numbers of before the store lost the room: they do not fall below while members are entered again."""
        self._epochs: dict[str, int] = {}
        self.changed = True
        """Whether the numbers have changed since watchers were told."""

    @property
    def counts(self) -> MemberCounts:
        """The members and users of the room, as far as is known."""
        members, users = (
            self._here.members + self._elsewhere.members,
            self._here.users + self._elsewhere.users,
        )
        return MemberCounts(max(members, self._floor.members), max(users, self._floor.users))

    def note_counts(self, members: int, users: int) -> None:
        """Note what the store, or this node's memory, says of the room."""
        before = self.counts
        self._here = MemberCounts(members, users)
        self.changed = self.changed or self.counts != before

    def isolate(self, known: Collection[Record]) -> None:
        """Count others' members as they are, beside those with which this node's memory begins."""
        members, users = self.counts
        here = MemberCounts(len(known), len({record.member.user for record in known}))
        self._floor = NOBODY
        self._here = here
        self._elsewhere = MemberCounts(max(members - here.members, 0), max(users - here.users, 0))

    def rejoin(self) -> None:
        """Go by what the store says from now on."""
        self._here, self._elsewhere = self.counts, NOBODY

    @property
    def is_held(self) -> bool:
        """Whether the store has lost the room, and nodes may still be entering their members again."""
        return self._floor != NOBODY

    def hold(self, counts: MemberCounts) -> None:
        """Let the numbers not fall below these."""
        self._floor = counts

    def release(self) -> bool:
        """Go by what the store says; return whether that makes a difference."""
        before, self._floor = self.counts, NOBODY
        self.changed = self.changed or self.counts != before
        return self.counts != before

    def note_joins(self, joins: Iterable[Record]) -> None:
        """Remember the epochs of connections that have resumed."""
        for record in joins:
            if record.epoch > 1:
                self._epochs.pop(record.member.cid, None)
                self._epochs[record.member.cid] = record.epoch
                if len(self._epochs) > EPOCHS_MAX:
                    del self._epochs[next(iter(self._epochs))]

    def is_outdated(self, cid: str, epoch: int) -> bool:
        """Tell whether a later life of a connection has joined."""
        return epoch < self._epochs.get(cid, 0)
