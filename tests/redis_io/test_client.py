"""The command side against servers that restart, forget and freeze."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from presence_server.presence import script_calls
from presence_server.presence.operations import Sent
from presence_server.presence.paging import FIRST_PAGE
from presence_server.presence.redis import CLAIM, END_TOKENS, SCRIPTS
from presence_server.redis_io.client import AWAY, RedisClient, RedisLane, is_away
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Call, script_call
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

FAR_BELOW_A_LIBRARYS_DEFAULT_S = 10


@pytest.fixture
async def lane(client: RedisClient) -> AsyncIterator[RedisLane]:
    lane = client.lane()
    yield lane
    await lane.aclose()


def claim(cid: str) -> Call:
    return script_call(CLAIM, [f"ps:{{{cid}}}:claim"], (1, "n1", "n1", 60_000, "ps:node:", ":bus", cid, ""))


async def test_scripts_that_the_server_has_forgotten_run_again_each_once(
    lane: RedisLane, server: RedisServer
) -> None:
    assert await lane.pipeline([claim("a"), claim("a")]) == [2, 3]
    server.ask("SCRIPT", "FLUSH")
    increment = Call(("INCR", "counted"))
    assert await lane.pipeline([claim("a"), increment, claim("a"), claim("b")]) == [4, 1, 5, 2]


async def test_a_script_that_a_new_connection_calls_is_known_before_anything_runs(
    lane: RedisLane, client: RedisClient, server: RedisServer
) -> None:
    await lane.pipeline([claim("a")])
    server.kill()
    server.start()
    other = client.lane()
    await other.pipeline([claim("b")])  # which makes one script known, and not the others
    await other.aclose()
    with contextlib.suppress(*AWAY):  # whether it is noticed before something is sent, or after
        await lane.pipeline([Call(("PING",))])
    end = script_call(END_TOKENS, [Keys("ps").claim("a")], (60_000,))
    assert await lane.pipeline([claim("a"), end, claim("a")]) == [2, 1, 0]
    assert b"NOSCRIPT" not in server.ask("INFO", "errorstats")


async def test_what_ran_beside_a_forgotten_script_does_not_run_again(
    lane: RedisLane, server: RedisServer
) -> None:
    end = script_call(END_TOKENS, [Keys("ps").claim("a")], (60_000,))
    await lane.pipeline([end, claim("b")])
    server.ask("SCRIPT", "FLUSH")
    server.ask("SCRIPT", "LOAD", CLAIM.text)
    after = Call(("HGET", Keys("ps").claim("a"), "ended"))
    published = Call(("PUBLISH", "news", "x"))
    answers = await lane.pipeline([claim("b"), end, after, published, claim("b"), claim("c")])
    assert answers == [3, 1, b"1", 0, 4, 2]
    assert await lane.pipeline([claim("b"), claim("c")]) == [5, 3]


async def test_scripts_run_for_a_user_who_must_not_load_them(lane: RedisLane, server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "default", "-script")
    assert await lane.pipeline([claim("a"), claim("b")]) == [2, 2]
    assert await lane.pipeline([claim("a"), claim("b")]) == [3, 3]


async def test_a_script_that_was_forgotten_still_runs_before_what_comes_after_it(
    lane: RedisLane, server: RedisServer
) -> None:
    def of_room(verb: str, rows: list[Any]) -> Call:
        arguments = script_calls.arguments("channel", "77", 60_000, Sent(0, 60_000, 0), rows)
        return script_call(SCRIPTS[verb], Keys("ps").room("lobby"), arguments)

    page = script_calls.page_row(FIRST_PAGE, 10, bytes_max=1_000)
    await lane.pipeline([of_room("page", [page])])
    row = ("cid", "ann", "{}", "{}", 1, "n1", 60_000, 0, 0, 0)
    entered, read = await lane.pipeline([of_room("enter", [row]), of_room("page", [page])])
    assert not isinstance(entered, Exception)
    assert [found.member.cid for found in script_calls.page_answer(read).records] == ["cid"]


async def test_a_server_that_was_restarted_is_used_again(lane: RedisLane, server: RedisServer) -> None:
    assert await lane.pipeline([claim("a")]) == [2]
    server.kill()
    with pytest.raises(AWAY):
        await lane.pipeline([claim("a")])
    server.start()
    assert await lane.pipeline([claim("a"), claim("b")]) == [2, 2]


async def test_a_frozen_server_costs_a_second_and_not_a_minute(
    client: RedisClient, server: RedisServer
) -> None:
    await client.execute("PING")
    server.freeze()
    begun = time.monotonic()
    with pytest.raises(AWAY):
        await client.execute("PING")
    assert time.monotonic() - begun < FAR_BELOW_A_LIBRARYS_DEFAULT_S
    server.thaw()
    assert await client.execute("PING")


async def test_a_frozen_server_lets_nobody_wait_for_its_greeting(
    client: RedisClient, server: RedisServer
) -> None:
    server.freeze()
    for connect in (lambda: client.lane().pipeline([claim("a")]), client.new_subscriber):
        begun = time.monotonic()
        with pytest.raises(AWAY), anyio.fail_after(3 * FAR_BELOW_A_LIBRARYS_DEFAULT_S):
            await connect()
        assert time.monotonic() - begun < FAR_BELOW_A_LIBRARYS_DEFAULT_S


async def test_a_connection_that_died_in_the_pool_fails_no_later_call(server: RedisServer) -> None:
    async with Proxy(server) as network:
        client = RedisClient(network.url)
        await client.execute("PING")
        network.cut()
        network.heal()
        await anyio.sleep(0.1)
        assert await client.execute("PING")
        await client.aclose()


@pytest.mark.parametrize(
    ("setting", "value"), [("maxmemory", "1"), ("min-replicas-to-write", "1"), ("replicaof", "")]
)
async def test_a_server_that_takes_no_writes_is_away(
    lane: RedisLane, server: RedisServer, setting: str, value: str
) -> None:
    if setting == "replicaof":
        server.ask("REPLICAOF", "127.0.0.1", "1")
    else:
        server.ask("CONFIG", "SET", setting, value)
    (answer,) = await lane.pipeline([claim("a")])
    assert isinstance(answer, Exception)
    assert is_away(answer), answer


async def test_a_call_that_is_wrong_is_not_an_outage(lane: RedisLane, server: RedisServer) -> None:
    server.ask("SET", "ps:{a}:claim", "a string", "PX", 60_000)
    wrong, right = await lane.pipeline([claim("a"), claim("b")])
    assert isinstance(wrong, Exception)
    assert not is_away(wrong)
    assert right == 2


async def test_a_connection_that_cannot_be_closed_in_time_is_given_up(server: RedisServer) -> None:
    """It ended a node whose loop was busy when a server of its Cluster was replaced."""
    client = RedisClient(server.url)
    assert await client.execute("PING")
    (connection,) = client._pool._available_connections
    connection.socket_connect_timeout = 0
    await client.aclose()
    assert not connection.is_connected


async def test_a_connection_that_closes_while_it_is_written_to_says_that_the_store_is_away(
    lane: RedisLane, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop raises RuntimeError for it, which ended a node whose servers were killed."""

    async def send(*_: object, **__: object) -> None:
        raise RuntimeError("the handler is closed")

    await lane.pipeline([claim("a")])
    assert lane._connection is not None
    monkeypatch.setattr(lane._connection, "send_packed_command", send)
    with pytest.raises(AWAY, match="the handler is closed"):
        await lane.pipeline([claim("a")])
    assert await lane.pipeline([claim("a")]) == [3]
    await client.execute("PING")
    (connection,) = client._pool._available_connections
    monkeypatch.setattr(connection, "send_packed_command", send)
    with pytest.raises(AWAY, match="the handler is closed"):
        await client.execute("PING")
