"""What every session store promises, on memory, Redis and Valkey."""

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from presence_server.errors import StoreAwayError
from presence_server.grants import Grant
from presence_server.opaque_sessions.memory import MemorySessions
from presence_server.opaque_sessions.port import (
    SessionData,
    SessionStore,
    StoredSession,
    VersionConflict,
    new_token,
    session_id,
)
from presence_server.opaque_sessions.redis import RedisSessions
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import ServerQueries
from tests.support.asking import asking
from tests.support.handclock import HandClock
from tests.support.redis_server import KINDS, RedisServer

pytestmark = pytest.mark.anyio

KEYS = Keys("ps")
HOUR_MS = 3_600_000
DATA = SessionData("ann", HOUR_MS, {"name": "Ann"}, [Grant("a:*", ["join", "watch"])])
PassTime = Callable[[int], Awaitable[None]]


class Subject:
    """A store, and a way to let time pass for it."""

    def __init__(self, store: SessionStore, pass_ms: PassTime, server: RedisServer | None) -> None:
        self.store = store
        self.pass_ms = pass_ms
        self.server = server


@pytest.fixture(params=["memory", *KINDS])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        clock = HandClock()

        async def pass_here(ms: int) -> None:
            clock.move(ms)

        yield Subject(MemorySessions(clock), pass_here, None)
        return
    with RedisServer(request.param) as server:
        async with asking(server) as asked:

            async def pass_there(ms: int) -> None:
                for key in server.ask("KEYS", "*"):
                    left = server.ask("PTTL", key)
                    assert left > 0
                    server.ask("PEXPIRE", key, max(left - ms, 0))

            yield Subject(RedisSessions(asked.queries, KEYS), pass_there, server)


async def test_a_session_is_what_was_put_there(subject: Subject) -> None:
    await subject.store.create("s", DATA)
    assert await subject.store.read("s") == StoredSession(DATA, 1)
    assert await subject.store.read("another") is None


async def test_a_change_is_made_at_the_version_that_was_read(subject: Subject) -> None:
    await subject.store.create("s", DATA)
    other = SessionData("ann", HOUR_MS, {"name": "Anna"}, None)
    assert await subject.store.change("s", 1, other) == 2
    assert await subject.store.read("s") == StoredSession(other, 2)


async def test_a_change_at_another_version_changes_nothing(subject: Subject) -> None:
    await subject.store.create("s", DATA)
    other = SessionData("ann", HOUR_MS, {"name": "Anna"})
    assert await subject.store.change("s", 1, other) == 2
    for version in (0, 1, 3, 2**53):
        assert await subject.store.change("s", version, DATA) == VersionConflict(2)
    assert await subject.store.read("s") == StoredSession(other, 2)
    assert await subject.store.change("another", 1, DATA) is None


async def test_every_use_lets_it_live_on(subject: Subject) -> None:
    store = subject.store
    await store.create("s", DATA)
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read("s"),
        lambda: store.touch(["s"]),
        lambda: store.change("s", 1, DATA),
        lambda: store.change("s", 1, DATA),  # also one that is refused
        lambda: store.read("s"),
    ]
    for use in uses:
        await subject.pass_ms(HOUR_MS - 60_000)
        assert await use()
    await subject.pass_ms(HOUR_MS + 1)
    assert await store.read("s") is None
    assert await store.change("s", 2, DATA) is None
    assert await store.touch(["s"]) == [False]
    assert not await store.revoke("s")


async def test_a_change_changes_how_long_it_lives(subject: Subject) -> None:
    await subject.store.create("s", DATA)
    assert await subject.store.change("s", 1, SessionData("ann", 60_000)) == 2
    await subject.pass_ms(60_001)
    assert await subject.store.read("s") is None
    await subject.store.create("t", SessionData("ann", 60_000))
    assert await subject.store.change("t", 1, DATA) == 2
    await subject.pass_ms(HOUR_MS - 60_000)
    assert await subject.store.read("t") is not None


async def test_what_is_revoked_is_gone_at_once(subject: Subject) -> None:
    await subject.store.create("s", DATA)
    await subject.store.create("t", DATA)
    assert await subject.store.revoke("s")
    assert not await subject.store.revoke("s")
    assert await subject.store.read("s") is None
    assert await subject.store.change("s", 1, DATA) is None
    assert await subject.store.touch(["t", "s", "never"]) == [True, False, False]


async def test_of_a_hundred_writers_none_overwrites_another_unnoticed(subject: Subject) -> None:
    store = subject.store
    await store.create("s", SessionData("ann", HOUR_MS, {"count": 0}))
    conflicts = 0

    async def write() -> None:
        nonlocal conflicts
        while True:
            stored = await store.read("s")
            assert stored is not None
            await anyio.lowlevel.checkpoint()  # so that others come between
            data = SessionData("ann", HOUR_MS, {"count": stored.data.info["count"] + 1})
            if isinstance(await store.change("s", stored.version, data), int):
                return
            conflicts += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(write)
    stored = await store.read("s")
    assert stored is not None
    assert (stored.data.info["count"], stored.version) == (100, 101)
    assert conflicts > 0


async def test_the_store_holds_no_token(subject: Subject) -> None:
    token = new_token()
    await subject.store.create(session_id(token), DATA)
    if subject.server is not None:
        server = subject.server
        held = [(key, server.ask("HGETALL", key)) for key in server.ask("KEYS", "*")]
        assert len(held) == 1
        assert token not in repr(held)
        assert session_id(token) in repr(held)


async def test_ended_sessions_are_not_kept_in_memory() -> None:
    clock = HandClock()
    store = MemorySessions(clock)
    for n in range(100):
        await store.create(f"s{n}", SessionData("ann", 1_000 + n))
    await store.read("s0")
    clock.move(2_000)
    await store.create("later", DATA)
    assert len(store) == 1


async def test_sessions_that_come_and_go_or_change_do_not_pile_up_in_memory() -> None:
    store = MemorySessions(HandClock())
    await store.create("kept", DATA)
    for n in range(2_000):
        await store.create(f"s{n}", DATA)
        await store.revoke(f"s{n}")
        await store.change("kept", n + 1, DATA)
    assert len(store._ends._heap) <= 100


async def test_without_contact_nothing_is_asked() -> None:
    batcher = PipelineBatcher(RedisClient("unix:///nowhere").lane(), 1.0, lambda: None)
    store = RedisSessions(ServerQueries(batcher, lambda: True, slot_refused=lambda: None), KEYS)
    with pytest.raises(StoreAwayError):
        await store.read("s")


def test_tokens_are_long_and_each_another() -> None:
    tokens = {new_token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert all(len(token) >= 43 for token in tokens)
