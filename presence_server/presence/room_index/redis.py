"""The room index that nodes share.

The index is a hint: nodes note the rooms that they have members in, now and then, and who reads it asks each room.
"""

from typing import Any, Final, Protocol

from presence_server.clock import Clock
from presence_server.presence import script_calls
from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.redis import PACKAGE
from presence_server.presence.redis_reads import read_page
from presence_server.presence.room_index.port import RoomCounts
from presence_server.presence.roster import Record
from presence_server.redis_io.keys import ROOM_SHARDS, Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call, Script, script_call

INDEX_ADD: Final = Script(PACKAGE, "index_add")
INDEX_NAMES: Final = Script(PACKAGE, "index_names")
LEASE_MS: Final = 1_800_000
"""A room is noted anew after a third of this; without that the note ends."""
NOTED_MAX: Final = 500
"""Rooms in one call to the index."""
EMPTY_PAGES_MAX: Final = 20
"""The most pages of empty rooms alone that are read on, before a page is returned as it is."""
PAGE_BYTES_MAX: Final = 1_048_576
"""Bytes of members that one call reads."""


class MakesReadCalls(Protocol):
    """Makes calls of scripts that only read a room."""

    def read_call(self, room: str, verb: str, *operations: Any) -> Call:
        """Return a call of a script that only reads, to be run beside the presence pipeline."""


class RedisRoomIndex:
    """Reads Redis or Valkey; see `RoomIndex` for what it promises."""

    def __init__(self, queries: Queries, store: MakesReadCalls, keys: Keys, clock: Clock) -> None:
        self._queries = queries
        self._store = store
        self._keys = keys
        self._clock = clock
        self._noted_ms: dict[str, int] = {}
        self._waiting: dict[tuple[int, int], list[str]] = {}

    # --- the index ---

    def note_room(self, room: str, lease_ms: int = 0) -> None:
        """Note a room, unless this node has done so lately."""
        now_ms = self._clock.now_ms()
        lease_ms = max(LEASE_MS, lease_ms)
        if now_ms - self._noted_ms.get(room, -LEASE_MS) >= LEASE_MS // 3 or lease_ms > LEASE_MS:
            self._noted_ms.pop(room, None)
            self._noted_ms[room] = now_ms
            self._waiting.setdefault((self._keys.shard_of(room), lease_ms), []).append(room)

    def note_all_anew(self) -> None:
        """Note every room anew, each with its next beat: the store has lost some."""
        self._noted_ms.clear()

    def send_noted(self) -> None:
        """Send what has been noted; forget what was noted long ago, which is noted again if it is still there."""
        waiting, self._waiting = self._waiting, {}
        for (shard, lease_ms), rooms in waiting.items():
            for i in range(0, len(rooms), NOTED_MAX):
                arguments: list[str | bytes | int] = [lease_ms, *rooms[i : i + NOTED_MAX]]
                self._queries.tell(
                    script_call(INDEX_ADD, self._keys.room_index(shard), arguments), self.note_all_anew
                )
        oldest_ms = self._clock.now_ms() - LEASE_MS
        for room, noted_ms in list(self._noted_ms.items())[:NOTED_MAX]:
            if noted_ms > oldest_ms:
                break
            del self._noted_ms[room]

    # --- what can be asked ---

    async def rooms(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[RoomCounts], str | None]:
        """Return a page of the rooms that have members."""
        self.send_noted()
        found: list[RoomCounts] = []
        after: str | None = cursor or ""
        for _ in range(EMPTY_PAGES_MAX):
            names, after = await self._names(prefix, after or "", limit - len(found))
            counts = await self._queries.ask(*(self._store.read_call(room, "counts") for room in names))
            found += [
                room
                for room in (_counts(name, answer) for name, answer in zip(names, counts, strict=True))
                if room.count
            ]
            if after is None or len(found) >= limit:
                break
        return found, after

    async def counts(self, room: str) -> RoomCounts:
        """Return how many members and users a room has."""
        (answer,) = await self._queries.ask(self._store.read_call(room, "counts"))
        return _counts(room, answer)

    async def members(self, room: str, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """Return a page of a room's members, in the order of the store's hash; no call of it reads more than a few."""
        records: list[Record] = []
        following = cursor or FIRST_PAGE
        while following and len(records) < limit:
            some = min(limit - len(records), script_calls.PAGE_MAX)
            row = script_calls.page_row(following, some, bytes_max=PAGE_BYTES_MAX)
            (answered,) = await self._queries.ask(self._store.read_call(room, "page", row))
            page = read_page(room, answered)
            records += page.records
            following = page.following
        return records, following or None

    async def _names(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
        """Return names from all parts of the index, and from where to go on."""
        lowest = f"({after}" if after >= prefix and after else f"[{prefix}"
        highest = f"[{prefix}\x7f" if prefix else "+"
        parts: list[list[Any]] = await self._queries.ask(
            *(
                script_call(INDEX_NAMES, self._keys.room_index(shard)[:1], (lowest, highest, limit + 1))
                for shard in range(ROOM_SHARDS)
            )
        )
        names = sorted(bytes(name).decode() for part in parts for name in part)
        return names[:limit], names[limit - 1] if len(names) > limit else None


def _counts(room: str, answer: bytes) -> RoomCounts:
    count, users = script_calls.decode_answer(answer).results
    return RoomCounts(room, count, users)
