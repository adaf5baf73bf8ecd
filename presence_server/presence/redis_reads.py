"""Rosters read from the shared store: rooms in parts, and pages, in each tick what one pipeline has time for."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from presence_server.clock import Clock
from presence_server.presence import script_calls
from presence_server.presence.port import MemberPage
from presence_server.presence.roster import Delta, Record, Snapshot, json_bytes
from presence_server.presence.roster_read import WAIT_MS, RosterRead
from presence_server.presence.sweeps import SweepSchedule
from presence_server.redis_io.batcher import WEIGHT_MAX, PipelineBatcher, Work
from presence_server.redis_io.client import is_away
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.store_errors import log_refused_call

READS_MAX: Final = 100
"""Rooms read in one pipeline; the others wait, so that a return from an outage does not become one."""
READ_WEIGHT: Final = 100
"""The weight of reading a room of which nothing is known; of another one it is the number of its members."""
READ_WEIGHT_MIN: Final = 20
"""The least weight of a read: it is a call of a script, and a room may have grown since."""
PART_MEMBERS_MAX: Final = 500
"""Members in one part of a room that is read: a millisecond of the store's time. Few rooms have more."""
PART_STEP: Final = 50
"""Members of a part that are read before its bytes are looked at."""
PART_BYTES_MAX: Final = 262_144
"""Bytes in one part."""
log = structlog.get_logger()


class PageRead(NamedTuple):
    """A page that is being read, and what has been read of it."""

    room: str
    cursor: str
    limit: int
    bytes_max: int
    done: Callable[[MemberPage | None], None]
    records: Sequence[Record] = ()


class RosterReads:
    """The rooms and pages that a store is reading.

    `schedule` knows how large rooms are. `room_call(room, verb, rows)` makes the call of a script, in the tick that
    sends it; `is_isolated(room)` and `mark_away(room, error)`: see `PresenceRedisStore`. `note_answer(room, answer)`
    takes what every answer says, and `sweep_if_due(room)` sweeps a room whose next member has expired.
    """

    def __init__(
        self,
        batcher: PipelineBatcher,
        clock: Clock,
        schedule: SweepSchedule,
        *,
        room_call: Callable[[str, str, list[Any]], Call],
        is_isolated: Callable[[str], bool],
        mark_away: Callable[[str, Exception], None],
        note_answer: Callable[[str, script_calls.ScriptAnswer], None],
        sweep_if_due: Callable[[str], None],
    ) -> None:
        self._batcher = batcher
        self._clock = clock
        self._schedule = schedule
        self._room_call = room_call
        self._is_isolated = is_isolated
        self._mark_away = mark_away
        self._note_answer = note_answer
        self._sweep_if_due = sweep_if_due
        self._due: list[RosterRead] = []
        """Rooms of which a part is to be read with the next pipeline."""
        self._pages: list[PageRead] = []
        self._reading: dict[str, list[RosterRead]] = {}
        """Every room that is being read, by name: what its channel brings belongs to what is read."""

    def begin_read(self, room: str, members_max: int, done: Callable[[Snapshot], None]) -> None:
        """Read a whole room, or its numbers alone where it has more than `members_max` members."""
        read = RosterRead(room, members_max, done)
        self._reading.setdefault(room, []).append(read)
        self._due.append(read)
        self._batcher.wake()

    def begin_page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        """Read some members of a room."""
        self._pages.append(PageRead(room, cursor, limit, bytes_max, done))
        self._batcher.wake()

    def take_work(self) -> list[Work]:
        """Return this tick's calls."""
        reads = self._take_due()
        if self._due:
            self._batcher.wake()
        work = [
            Work(self._part_call(read), partial(self._receive_part, read), weight) for read, weight in reads
        ]
        pages, self._pages = self._pages, []
        work += [Work(self._page_call(page), partial(self._receive_page, page), page.limit) for page in pages]
        return work

    def _take_due(self) -> list[tuple[RosterRead, int]]:
        """Return the rooms to read now, with what each is worth: no more than one pipeline has time for."""
        taken: list[tuple[RosterRead, int]] = []
        left = WEIGHT_MAX
        for read in self._due[:READS_MAX]:
            members = min(self._schedule.member_count(read.room) or READ_WEIGHT, PART_MEMBERS_MAX)
            weight = max(READ_WEIGHT_MIN, members)
            left -= weight
            if taken and left < 0:
                break
            taken.append((read, weight))
        del self._due[: len(taken)]
        return taken

    def abandon(self, is_concerned: Callable[[str], bool]) -> None:
        """Give up reads of rooms that are out of reach."""
        for room in [room for room in self._reading if is_concerned(room)]:
            for read in self._reading.pop(room):
                read.is_abandoned = True
        self._due = [read for read in self._due if not read.is_abandoned]
        pages, self._pages = self._pages, []
        for page in pages:
            if is_concerned(page.room):
                page.done(None)
            else:
                self._pages.append(page)

    def receive_delta(self, room: str, delta: Delta) -> None:
        """Take what the channel of a room brings, which may complete reads of it."""
        for read in list(self._reading.get(room, ())):
            read.receive_delta(delta)
            self._end_if_complete(read)

    def begin_lost_anew(self) -> None:
        """Read rooms again whose deltas have not come: one was lost, or is late."""
        lost_ms = self._clock.now_ms() - WAIT_MS
        for read in [read for reads in self._reading.values() for read in reads]:
            if not read.cursor and read.read_at_ms <= lost_ms:
                read.begin_anew()
                self._due.append(read)
                self._batcher.wake()

    def _part_call(self, read: RosterRead) -> Call:
        row = script_calls.page_row(
            read.cursor,
            PART_MEMBERS_MAX,
            bytes_max=PART_BYTES_MAX,
            step=PART_STEP,
            members_max=read.members_max,
        )
        return self._room_call(read.room, "page", [row])

    def _receive_part(self, read: RosterRead, answered: Any) -> None:
        room = read.room
        if read.is_abandoned or self._is_isolated(room):
            self._end_read(read)
            return
        if isinstance(answered, Exception):
            self._end_read(read)
            if is_away(answered):
                self._mark_away(room, answered)
            else:
                log_refused_call(self._part_call(read), answered, room)
                read.done(Snapshot(0, 0, ()))
            return
        page = read_page(room, answered)
        self._note_answer(room, page.answer)
        self._schedule.note_members(room, page.counts.members)
        self._sweep_if_due(room)
        read.receive_part(page, self._clock.now_ms())
        if read.cursor:
            self._due.append(read)
            self._batcher.wake()
        else:
            self._end_if_complete(read)

    def _end_if_complete(self, read: RosterRead) -> None:
        """Answer a read that is complete."""
        snapshot = read.snapshot()
        if snapshot is not None:
            self._end_read(read)
            read.done(snapshot)

    def _end_read(self, read: RosterRead) -> None:
        reads = self._reading.get(read.room)
        if reads is not None and read in reads:
            reads.remove(read)
            if not reads:
                del self._reading[read.room]

    def _page_call(self, page: PageRead) -> Call:
        limit = min(page.limit, script_calls.PAGE_MAX)
        row = script_calls.page_row(page.cursor, limit, bytes_max=page.bytes_max)
        return self._room_call(page.room, "page", [row])

    def _receive_page(self, page: PageRead, answered: Any) -> None:
        """Answer with what a call has read, or read on where a page may have more than a call."""
        if isinstance(answered, Exception) or self._is_isolated(page.room):
            if isinstance(answered, Exception) and is_away(answered):
                self._mark_away(page.room, answered)
            elif isinstance(answered, Exception):
                log_refused_call(self._page_call(page), answered, page.room)
            page.done(None)
            return
        found = read_page(page.room, answered)
        self._note_answer(page.room, found.answer)
        records = [*page.records, *found.records]
        left = page.bytes_max - sum(json_bytes(record.member) for record in found.records)
        limit = page.limit - len(found.records)
        if (
            not found.following
            or limit <= 0
            or left <= page.bytes_max // 2
            or len(found.records) < script_calls.PAGE_MAX
        ):
            page.done(MemberPage(records, found.following or None))
        else:
            self._pages.append(
                page._replace(cursor=found.following, limit=limit, bytes_max=left, records=records)
            )
            self._batcher.wake()


def read_page(room: str, answered: Any) -> script_calls.PageAnswer:
    """Return what `page.lua` has answered, and log members that cannot be read."""
    page = script_calls.page_answer(answered)
    for cid, error in page.unreadable.items():
        log.warning("a member has a record of another version", room=room, cid=cid, error=error)
    return page
