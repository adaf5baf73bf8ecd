"""What can be asked about rooms, on memory, Redis and Valkey."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import pytest

from presence_server.bus.memory import MemoryBus
from presence_server.clock import SystemClock
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import Operation, Outcome
from presence_server.presence.port import PresenceStore
from presence_server.presence.redis import Timing
from presence_server.presence.room_index.memory import MemoryRoomIndex
from presence_server.presence.room_index.port import RoomCounts, RoomIndex
from presence_server.presence.room_index.redis import RedisRoomIndex
from presence_server.redis_io.keys import ROOM_SHARDS, Keys
from tests.presence.stored import in_contact
from tests.support.asking import asking
from tests.support.operations import TTL_MS, enter, leave
from tests.support.redis_server import KINDS, RedisServer

if TYPE_CHECKING:
    from presence_server.presence.roster import Delta

pytestmark = pytest.mark.anyio

KEYS = Keys("ps")


class Subject:
    """A room index, and the store that it reads."""

    def __init__(self, room_index: RoomIndex, store: PresenceStore, server: RedisServer | None) -> None:
        self.room_index = room_index
        self.server = server
        self._store = store

    async def do(self, room: str, *operations: Operation) -> None:
        left = len(operations)
        over = anyio.Event()

        def done(outcome: Outcome) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                over.set()

        for operation in operations:
            self._store.carry_out(room, operation, done)
        self.room_index.note_room(room)
        await over.wait()

    async def all_rooms(self, prefix: str = "", limit: int = 7) -> list[str]:
        return await pages(
            lambda cursor: self.room_index.rooms(prefix, cursor, limit), lambda room: room.room
        )

    async def all_members(self, room: str, limit: int) -> list[str]:
        return await pages(
            lambda cursor: self.room_index.members(room, cursor, limit), lambda record: record.member.cid
        )


T = TypeVar("T")


async def pages(
    ask: Callable[[str | None], Awaitable[tuple[list[T], str | None]]], name: Callable[[T], str]
) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    for _ in range(10_000):
        some, cursor = await ask(cursor)
        found += map(name, some)
        if cursor is None:
            return found
    raise AssertionError("pages without end")


@pytest.fixture(params=["memory", *KINDS])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    clock = SystemClock()
    if request.param == "memory":
        bus: MemoryBus[Delta] = MemoryBus()
        memory = PresenceMemoryStore(bus, clock, ttl_ms=TTL_MS, claim_ms=1_000)
        yield Subject(MemoryRoomIndex(memory), memory, None)
        return
    with RedisServer(request.param) as server:
        async with asking(server) as asked:
            timing = Timing(ttl_ms=TTL_MS, late_ms=TTL_MS, hold_ms=TTL_MS, claim_ms=1_000)
            store = in_contact(asked.batcher, KEYS, clock, timing)
            yield Subject(RedisRoomIndex(asked.queries, store, KEYS, clock), store, asked.server)


async def test_rooms_are_listed_in_the_order_of_their_names(subject: Subject) -> None:
    rooms = [f"{kind}:{n}" for kind in "cab" for n in range(20)]
    for room in rooms:
        await subject.do(room, enter("x"), enter("y", user="u"))
    assert await subject.all_rooms() == sorted(rooms)
    assert await subject.all_rooms(limit=1_000) == sorted(rooms)
    assert await subject.all_rooms("b:") == sorted(room for room in rooms if room.startswith("b:"))
    assert await subject.all_rooms("b:1", 3) == sorted(room for room in rooms if room.startswith("b:1"))
    assert await subject.all_rooms("d") == []
    (first, *_), _ = await subject.room_index.rooms("", None, 1)
    assert first == RoomCounts("a:0", 2, 2)


async def test_a_room_without_members_is_not_listed(subject: Subject) -> None:
    for n in range(30):
        await subject.do(f"r{n:02}", enter("x"), *([leave("x")] if n % 3 else []))
    assert await subject.all_rooms(limit=2) == [f"r{n:02}" for n in range(0, 30, 3)]
    assert await subject.room_index.counts("r01") == RoomCounts("r01", 0, 0)
    assert await subject.room_index.counts("never") == RoomCounts("never", 0, 0)


async def test_a_cursor_beyond_a_prefix_is_its_end(subject: Subject) -> None:
    for room in ("a", "b", "c"):
        await subject.do(room, enter("x"))
    assert await subject.room_index.rooms("a", "b", 10) == ([], None)
    after_a, cursor = await subject.room_index.rooms("", "a", 10)
    assert ([room.room for room in after_a], cursor) == (["b", "c"], None)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1_500])
async def test_everybody_who_is_there_is_in_a_page(subject: Subject, size: int) -> None:
    if size:
        await subject.do("lobby", *(enter(f"c{n:05}", {"n": n}) for n in range(size)))
    found = await subject.all_members("lobby", 100)
    assert sorted(set(found)) == [f"c{n:05}" for n in range(size)]
    if size <= 101:
        assert len(found) == len(set(found))
        (page, _) = await subject.room_index.members("lobby", None, 100)
        assert len(page) == min(size, 100)


async def test_nobody_is_missed_while_others_come_and_go(subject: Subject) -> None:
    stay = [f"stay-{n:04}" for n in range(600)]
    await subject.do("lobby", *(enter(cid) for cid in stay))
    found: set[str] = set()
    cursor: str | None = None
    for turn in range(10_000):
        page, cursor = await subject.room_index.members("lobby", cursor, 50)
        found |= {record.member.cid for record in page}
        if cursor is None:
            break
        await subject.do("lobby", *(enter(f"new-{turn}-{n}") for n in range(20)))
        if turn:
            await subject.do("lobby", *(leave(f"new-{turn - 1}-{n}") for n in range(20)))
    assert set(stay) <= found


async def test_an_expired_member_is_in_no_number_and_no_page(subject: Subject) -> None:
    await subject.do("lobby", *(enter(f"short-{n}", ttl_ms=30) for n in range(150)), enter("long"))
    await anyio.sleep(0.1)
    assert await subject.all_members("lobby", 1_000) == ["long"]
    assert (await subject.room_index.counts("lobby")).count == 1
    assert await subject.all_rooms() == ["lobby"]


def test_rooms_spread_over_the_parts_of_the_index() -> None:
    used = {Keys.shard_of(f"room-{n}") for n in range(1_000)}
    assert used == set(range(ROOM_SHARDS))
