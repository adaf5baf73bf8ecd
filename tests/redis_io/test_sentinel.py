"""Where Sentinels say that the primary is: from a majority, and from nobody."""

import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.config.store_url import Address, parse_store_url
from presence_server.redis_io.client import AWAY, RedisClient
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.sentinel import FRESH_S, Sentinels, Sighting, UnknownPrimaryError, agreed
from presence_server.redis_io.starting import start_problem
from tests.support.redis_server import KINDS
from tests.support.tcp_servers import DEADLINE_S, HOST, SERVICE, SentinelSet, TcpServer, free_port, wait_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio
BUSY_S = 5


@pytest.fixture
def sentinel_set() -> Iterator[SentinelSet]:
    with SentinelSet("valkey") as running:
        yield running


@pytest.fixture
async def sentinels(sentinel_set: SentinelSet) -> AsyncIterator[Sentinels]:
    asked = Sentinels(parse_store_url(sentinel_set.url))
    yield asked
    await asked.aclose()


async def test_sentinels_that_freeze_die_and_come_back_are_asked_again(
    sentinel_set: SentinelSet, sentinels: Sentinels
) -> None:
    primary = Address("127.0.0.1", sentinel_set.servers[0].port)
    assert await sentinels.locate() == primary
    sentinel_set.sentinels[0].freeze()
    sentinels._asked_s -= FRESH_S
    began_s = time.monotonic()
    assert await sentinels.locate() == primary
    assert time.monotonic() - began_s < BUSY_S
    assert not await sentinels.has_moved(primary)
    assert await sentinels.has_moved(Address("127.0.0.1", 1))
    for sentinel in sentinel_set.sentinels:
        sentinel.kill()
    sentinels._asked_s -= FRESH_S
    assert await sentinels.locate() == primary, "without Sentinels none takes over"


async def test_a_lane_goes_to_the_new_primary_when_sentinels_name_it(sentinel_set: SentinelSet) -> None:
    client = RedisClient(sentinel_set.url)
    lane = client.lane()
    before = sentinel_set.primary()
    (answer,) = await lane.pipeline([Call(("CONFIG", "GET", "port"))])
    assert answer == {b"port": str(before.port).encode()}
    assert not await lane.has_moved()
    before.freeze()
    wait_for(lambda: sentinel_set.primary() is not before, lambda: "nobody takes over")
    before.thaw()
    await eventually(lane.has_moved, bool)
    (answer,) = await lane.pipeline([Call(("CONFIG", "GET", "port"))])
    assert answer != {b"port": str(before.port).encode()}, "the lane goes on with the old one"
    await lane.aclose()
    await client.aclose()


async def test_a_name_that_nobody_knows_is_told_from_sentinels_that_are_away(
    sentinel_set: SentinelSet,
) -> None:
    unknown = Sentinels(parse_store_url(sentinel_set.url.replace("mymaster", "nobody")))
    with pytest.raises(UnknownPrimaryError, match='no primary is named "nobody" at 127'):
        await unknown.locate()
    await unknown.aclose()
    away = Sentinels(parse_store_url("redis+sentinel://127.0.0.1:1/mymaster"))
    with pytest.raises(RedisConnectionError, match="no Sentinel answers"):
        await away.locate()


@pytest.mark.parametrize("kind", KINDS)
async def test_servers_that_are_no_sentinels_end_the_start_and_those_that_are_away_do_not(kind: str) -> None:
    plain = TcpServer(kind, {})
    try:
        plain.start()
        url = f"redis+sentinel://{plain.address}/{SERVICE}"
        problem = await eventually(lambda: start_problem(url), bool)
        assert problem.startswith(f"no Sentinel is at {plain.address}: servers answer there; ")
        away = f"{HOST}:{free_port()}"
        assert not await start_problem(f"redis+sentinel://{plain.address},{away}/{SERVICE}"), (
            "that may be one"
        )
    finally:
        plain.close()
    assert not await start_problem(url), "nobody is there to say so"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "credentials"),
    [
        ({"requirepass": "p@ss/word"}, "sentinel_password=p%40ss%2Fword"),
        (
            {"user": "asker on >p@ss/word -@all +sentinel|master +ping"},
            "sentinel_username=asker&sentinel_password=p%40ss%2Fword",
        ),
    ],
    ids=["password", "user"],
)
async def test_a_sentinel_is_asked_with_credentials_of_its_own(
    kind: str, options: dict[str, str], credentials: str
) -> None:
    primary = TcpServer(kind, {})
    watching = f"sentinel monitor {SERVICE} {HOST} {primary.port} 1\n"
    sentinel = TcpServer(kind, {"protected-mode": "no"} | options, sentinel_config=watching)
    try:
        primary.start()
        sentinel.start()
        url = f"redis+sentinel://{sentinel.address}/{SERVICE}"
        client = RedisClient(f"{url}?{credentials}", DEADLINE_S)
        (answer,) = await eventually(lambda: config_port(client), bool)
        assert answer == {b"port": str(primary.port).encode()}
        await client.aclose()
        wrong = Sentinels(parse_store_url(f"{url}?sentinel_username=asker&sentinel_password=wrong"))
        with pytest.raises(RedisConnectionError, match="no Sentinel answers"):
            await wrong.locate()
        await wrong.aclose()
    finally:
        sentinel.close()
        primary.close()


async def config_port(client: RedisClient) -> list[object]:
    """Return which port the primary has; nothing where a busy machine has missed a deadline."""
    lane = client.lane()
    try:
        return await lane.pipeline([Call(("CONFIG", "GET", "port"))])
    except AWAY:
        return []
    finally:
        await lane.aclose()


ONE, OTHER = Address("10.0.0.1", 6379), Address("10.9.9.9", 6379)


@pytest.mark.parametrize(
    ("sightings", "address", "count"),
    [
        ([(0, ONE), (0, OTHER), (0, ONE)], ONE, 2),
        ([(0, OTHER), (0, OTHER), (0, ONE)], OTHER, 2),
        ([(4, ONE), (3, OTHER), (3, OTHER)], ONE, 1),
        ([(4, ONE)], ONE, 1),
    ],
)
def test_of_those_that_know_of_the_latest_failover_the_most_count(
    sightings: list[tuple[int, Address]], address: Address, count: int
) -> None:
    for is_up in (True, False):
        chosen, agreeing = agreed([Sighting(epoch, is_up, where) for epoch, where in sightings])
        assert (chosen.address, agreeing) == (address, count)
    assert agreed([])[1] == 0


def test_of_two_opinions_the_one_counts_that_sees_its_primary_up() -> None:
    chosen, _ = agreed([Sighting(2, False, OTHER), Sighting(2, True, ONE)])
    assert chosen.address == ONE


async def test_one_sentinel_that_watches_another_server_takes_nobody_there(
    sentinel_set: SentinelSet, sentinels: Sentinels
) -> None:
    primary = Address("127.0.0.1", sentinel_set.servers[0].port)
    other = TcpServer("valkey", {})
    try:
        other.start()
        strayed = sentinel_set.sentinels[0]
        strayed.ask("SENTINEL", "REMOVE", "mymaster")
        strayed.ask("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", other.port, 2)
        for _ in range(10):
            sentinels._asked_s -= FRESH_S
            assert await sentinels.locate() == primary
    finally:
        other.close()
