"""The connection of a subscriber, to a real server."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ResponseError

from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.subscriber_connection import WAITING_MAX, TakenConnection
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]

PUBLISH_MANY = (
    """for n = 1, ARGV[1] do redis.call("PUBLISH", "lobby", string.format("%06d", n) .. ARGV[2]) end"""
)


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[TakenConnection]:
    client = RedisClient(server.url)
    connection = await client.new_subscriber()
    yield connection
    await connection.disconnect(nowait=True)
    await client.aclose()


async def ask(connection: TakenConnection, *command: str) -> Any:
    await connection.send_command(*command, check_health=False)
    with anyio.fail_after(60):
        return await connection.read_response(disable_decoding=True, timeout=math.inf)


async def test_what_has_come_before_the_connection_ends_is_read_before_the_error(server: RedisServer) -> None:
    async with connected(server) as connection:
        assert await ask(connection, "SUBSCRIBE", "lobby") == [b"subscribe", b"lobby", 1]
        server.ask("PUBLISH", "lobby", "one")
        server.ask("PUBLISH", "lobby", "two")
        server.kill()
        await until(lambda: connection._lost is not None)
        read = [await connection.read_response(disable_decoding=True, timeout=math.inf) for _ in range(2)]
        assert [message[2] for message in read] == [b"one", b"two"]
        with pytest.raises(RedisConnectionError):
            await connection.read_response(disable_decoding=True, timeout=math.inf)
        with pytest.raises(RedisConnectionError):
            await connection.send_command("PING", check_health=False)


async def test_who_waits_is_told_when_the_connection_ends(server: RedisServer) -> None:
    async with connected(server) as connection, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(RedisConnectionError):
                await connection.read_response(disable_decoding=True, timeout=math.inf)

        tasks.start_soon(wait)
        await until(lambda: connection._arrived is not None)
        server.kill()


async def test_an_error_is_raised_as_that_of_the_library(shared_server: RedisServer) -> None:
    async with connected(shared_server) as connection:
        with pytest.raises(ResponseError, match="wrong number of arguments"):
            await ask(connection, "SUBSCRIBE")
        connection.data_received(b"-MOVED 12 h:7000\r\n")
        with pytest.raises(MovedError) as moved:
            await connection.read_response(disable_decoding=True, timeout=math.inf)
        assert moved.value.slot_id == 12


async def test_the_socket_is_not_read_while_too_much_waits_and_nothing_is_lost(
    shared_server: RedisServer,
) -> None:
    async with connected(shared_server) as connection:
        await ask(connection, "SUBSCRIBE", "lobby")
        sent = 40 * WAITING_MAX  # 10 MB: more than sockets hold, less than cuts a slow subscriber off
        shared_server.ask("EVAL", PUBLISH_MANY, 0, sent, b"x" * 1_000)
        await until(lambda: not connection._transport.is_reading())
        assert WAITING_MAX < len(connection._replies) < sent
        with anyio.fail_after(60):
            for number in range(1, sent + 1):
                message = await connection.read_response(disable_decoding=True, timeout=math.inf)
                assert message[2][:6] == b"%06d" % number
