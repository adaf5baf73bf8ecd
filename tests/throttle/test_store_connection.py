"""The limiter's connection by itself: one try to connect, what it hears, and when it is given up and made again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest

from presence_server.config.store_url import Address
from presence_server.redis_io.client import RedisClient
from presence_server.throttle import store_connection
from presence_server.throttle.flight_calls import SCRIPT
from presence_server.throttle.store_connection import StoreConnection, ignore_answer
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

CHANNEL = "forget"
NOBODY = "redis://127.0.0.1:1"


class Owner:
    """The owner of a connection, which records every callback."""

    def __init__(self, client: RedisClient | str) -> None:
        self.forgotten: list[tuple[str | None, bool]] = []
        self.events: list[str] = []
        self.unwanted = False
        self.connection = StoreConnection(
            RedisClient(client) if isinstance(client, str) else client,
            CHANNEL,
            forget=lambda place, given_back: self.forgotten.append((place, given_back)),
            is_unwanted=lambda: self.unwanted,
            on_connected=lambda: self.events.append("connected"),
            on_failed=lambda: self.events.append("failed"),
            on_lost=lambda: self.events.append("lost"),
        )


@asynccontextmanager
async def connected(client: RedisClient | str) -> AsyncIterator[Owner]:
    owner = Owner(client)
    owner.connection.begin_connecting()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await owner.connection.wait_connected()
        yield owner
    finally:
        await owner.connection.end_connecting()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection be judged, and another one tried, within a moment."""
    monkeypatch.setattr(store_connection, "IDLE_PING_S", 0.05)
    monkeypatch.setattr(store_connection, "LONGEST_RETRY_S", 0.02)


async def test_one_try_connects_subscribes_and_brings_the_script(empty_server: RedisServer) -> None:
    empty_server.ask("SCRIPT", "FLUSH")
    owner = Owner(empty_server.url)
    async with asyncio.timeout(DEADLINE_S):
        connection, lost = await owner.connection._connect()
    assert owner.connection.listens
    assert owner.forgotten == [(None, False)], "what was to be forgotten before may have been missed"
    assert empty_server.ask("PUBSUB", "NUMSUB", CHANNEL) == [CHANNEL.encode(), 1]
    assert empty_server.ask("SCRIPT", "EXISTS", SCRIPT.digest) == [1]
    assert (owner.events, owner.connection.live, lost.done()) == ([], None, False)
    connection.abort()
    async with asyncio.timeout(DEADLINE_S):
        await lost


async def test_a_try_that_fails_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner(NOBODY)
    for _ in range(3):
        assert await owner.connection._try_to_connect() is None
    (warned,) = caplog.messages
    assert "cannot reach its store: " in warned
    assert not warned.endswith(": ")


async def test_a_server_that_accepts_and_says_nothing_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_connection, "CONNECT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        owner = Owner(RedisClient(f"redis://127.0.0.1:{silent.getsockname()[1]}", DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            assert await owner.connection._try_to_connect() is None
    assert caplog.messages == ["the limiter cannot reach its store: TimeoutError"]


async def test_a_user_who_may_neither_subscribe_nor_look_nor_load_is_connected_and_remembers_nothing(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask(
        "ACL", "SETUSER", "limited", "on", ">secret", "~*", "resetchannels", "+@all", "-config", "-script"
    )
    url = server.url.replace("unix://", "unix://limited:secret@")
    async with connected(url) as owner:
        assert not owner.connection.listens
        assert owner.connection.live is not None
    assert "may not subscribe, so it remembers no refusals: NOPERM" in caplog.text


async def test_who_has_a_connection_hears_when_it_begins_and_ends_and_another_is_made(
    server: RedisServer, impatient: None
) -> None:
    async with connected(server.url) as owner:
        connection = owner.connection
        assert owner.events == ["connected"]
        first = connection.live
        assert first is not None
        server.kill()
        await until(lambda: "lost" in owner.events)
        assert connection.live is None
        assert first.closing
        await until(lambda: owner.events.count("failed") >= 3)
        assert owner.events[:3] == ["connected", "lost", "failed"]
        server.start()
        async with asyncio.timeout(DEADLINE_S):
            await connection.wait_connected()
        assert connection.live is not first
        assert owner.forgotten == [(None, False)] * 2
        assert owner.events[-1] == "connected"
    assert owner.events[-1] == "lost"
    assert connection.live is None


async def test_a_connection_that_is_unwanted_is_given_up_for_another(
    empty_server: RedisServer, impatient: None
) -> None:
    async with connected(empty_server.url) as owner:
        owner.unwanted = True
        await until(lambda: owner.events.count("lost") >= 2)
        owner.unwanted = False
        await until(lambda: owner.connection.live is not None and owner.events[-1] == "connected")


async def test_a_server_that_is_frozen_is_given_up_and_one_that_is_idle_is_kept(
    server: RedisServer, impatient: None
) -> None:
    async with connected(server.url) as owner:
        pings = server.ask("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
        await until(lambda: server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"] >= pings + 3)
        assert owner.events == ["connected"]
        server.freeze()
        await until(lambda: "lost" in owner.events)
        server.thaw()
        await until(lambda: owner.events[-1] == "connected")


class Lost(RedisClient):
    """A client whose Sentinels fail as none should, once."""

    failures = 1

    async def has_moved(self, address: Address | None) -> bool:
        self.failures -= 1
        if self.failures >= 0:
            raise AttributeError("'NoneType' object has no attribute 'write'")
        return await super().has_moved(address)


async def test_whatever_a_connection_is_lost_by_another_is_made(
    empty_server: RedisServer, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(Lost(empty_server.url)) as owner:
        await until(lambda: owner.events.count("connected") == 2)
        assert owner.events[:2] == ["connected", "lost"]
        assert "gives its connection up" in caplog.text
        assert "NoneType" in caplog.text


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": u}) for u in (True, False)], ids=["uvloop", "asyncio"]
)
async def test_a_connection_that_the_server_closes_is_lost_without_an_error(
    empty_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(empty_server.url) as owner:
        assert empty_server.ask("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await until(lambda: owner.events.count("connected") == 2)
    assert owner.events[:3] == ["connected", "lost", "failed"]
    assert caplog.text == ""


def test_what_the_server_says_unasked_is_what_to_forget() -> None:
    owner = Owner(NOBODY)
    for message in ([b"message", b"forget", b"k"], [b"message", b"forget", b"+k"]):
        owner.connection._take_push(message)
    assert owner.forgotten == [("k", False), ("k", True)]
    owner.connection._take_push([b"subscribe", b"forget", 1])
    owner.connection._take_push(hiredis.ReplyError("NOPERM"))
    assert owner.forgotten[2:] == [(None, False)] * 2
    owner.connection._take_push([b"unsubscribe", b"forget", 0])
    assert len(owner.forgotten) == 4
    ignore_answer("PONG")


async def test_it_ends_in_the_loop_in_which_it_began_and_begins_again_in_another(
    empty_server: RedisServer,
) -> None:
    owner = Owner(empty_server.url)

    async def begin() -> None:
        owner.connection.begin_connecting()
        async with asyncio.timeout(DEADLINE_S):
            await owner.connection.wait_connected()

    def in_two_loops() -> None:
        asyncio.run(begin())
        assert owner.connection.live is None, "the loop that ended has cancelled its tasks"
        asyncio.run(begin())

    await asyncio.to_thread(in_two_loops)
    assert owner.events == ["connected", "lost"] * 2
    await begin()
    task = owner.connection._task
    assert task is not None
    await owner.connection.end_connecting()
    assert task.cancelled()
    await owner.connection.end_connecting()
    assert owner.events == ["connected", "lost"] * 3
