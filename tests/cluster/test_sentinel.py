"""A primary that Sentinels watch is killed, or frozen, and another takes over: nobody is said to leave."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from presence_server.client import Joined, Left, Message, Synced
from tests.cluster.company import counts, settled, visiting
from tests.cluster.failover import BUSY_S, HEARTBEAT_MS, two_nodes
from tests.cluster.hits import hitting
from tests.support.node import PROJECT, UNTHROTTLED, Node
from tests.support.tcp_servers import SentinelSet, TcpServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
MEMBERS = 8


@pytest.fixture
def sentinels(kind: str) -> Iterator[SentinelSet]:
    with SentinelSet(kind) as running:
        yield running


@pytest.fixture
async def nodes(sentinels: SentinelSet, tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with two_nodes(sentinels.url, tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    ("kind", "fail"), [("redis", TcpServer.kill), ("valkey", TcpServer.freeze)], ids=["killed", "frozen"]
)
async def test_a_primary_that_fails_costs_nobody_their_place(
    sentinels: SentinelSet, nodes: list[Node], fail: Callable[[TcpServer], None]
) -> None:
    async with (
        hitting(sentinels.url) as hits,
        visiting(nodes, [f"user-{i}" for i in range(MEMBERS)]) as visitors,
    ):
        await until(settled(visitors, MEMBERS), counts(visitors))
        for visitor in visitors:
            visitor.forget_events()
        before = sentinels.primary()
        fail(before)
        await until(lambda: sentinels.primary() is not before)
        # Late ones make the rosters differ from what they were.
        async with visiting(nodes, ["late-0", "late-1"]) as late:
            everybody = [*visitors, *late]
            took_s = await until(settled(everybody, MEMBERS + 2), counts(everybody))
            assert took_s < HEARTBEAT_MS / 1000 + 5 + BUSY_S
            if before.is_frozen:
                before.thaw()
            already = hits.sources["redis"]
            await until(lambda: hits.sources["redis"] > already)
            await anyio.sleep(HEARTBEAT_MS / 1000)  # what would follow wrongly from the old primary's return
            await until(settled(everybody, MEMBERS + 2), counts(everybody))
            await visitors[0].room.publish("together")
            for visitor in everybody[1:]:
                await until(lambda: [m for m in visitor.all(Message) if m.data == "together"])  # noqa: B023 - awaited here
            for visitor in visitors:
                assert visitor.all(Left) == []
                assert sorted(event.member.user for event in visitor.all(Joined)) == ["late-0", "late-1"]
                assert visitor.all(Synced) == []
            await hits.check()


def test_a_name_that_no_sentinel_knows_ends_the_start() -> None:
    with SentinelSet("valkey") as sentinels:
        url = sentinels.url.replace("/mymaster", "/nobody")
        command = [sys.executable, "-m", "presence_server", "serve", "--port", "0", "--api-port", "0"]
        done = subprocess.run(
            [*command, *UNTHROTTLED, "--redis.url", url],
            check=False,
            cwd=PROJECT,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 2
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith('presence-server: redis.url: no primary is named "nobody" at 127.0.0.1:')


async def test_a_node_whose_sentinels_are_away_starts_isolated_and_says_so(tmp_path: Path) -> None:
    async with Node(tmp_path, "--redis.url", "redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster") as node:
        async with visiting([node], ["ann", "bob"]) as visitors:
            await until(lambda: all(len(v.roster) == 2 and v.room.stale for v in visitors), counts(visitors))
        assert "the store cannot be reached" in node.log
        assert "no Sentinel answers" in node.log
