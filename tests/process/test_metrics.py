"""The metrics page: what is on it is so, has its name and unit, and is in the reference."""

import re
from pathlib import Path

import pytest

from presence_server.metrics import FAMILIES, reference
from tests.support.api import call
from tests.support.metrics import Samples, scrape, value
from tests.support.node import PROJECT, Node
from tests.support.rawclient import RawClient, speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info")
LABEL_VALUES_MAX = 30


async def test_the_page_counts_what_happens(tmp_path: Path) -> None:
    flags = ("--throttle.publishes", "2/600s", "--server.origins", "https://app.example")
    async with Node(tmp_path, *flags) as node:
        async with speaking(node.port, "/ws?user=ann") as ann, speaking(node.port, "/ws?user=bob") as bob:
            for client in (ann, bob):
                await client.request(t="join", room="lobby", id=1)
            for n in range(3):
                await ann.request(t="publish", room="lobby", data="x" * 100, id=10 + n)
            await bob.until("message")
            await call(node, "GET", "/v1/rooms/lobby")
            async with RawClient(node.port) as stranger:
                assert (
                    await stranger.ask("/ws", {"Origin": "https://evil.example", "Upgrade": "websocket"})
                ).status >= 400
            during = await scrape(node)
            await bob.close()
            ann.reset()
        assert value(during, "presence_connections") == 2
        assert (value(during, "presence_rooms"), value(during, "presence_members")) == (1, 2)
        assert value(during, "presence_handshakes_total", status="101") == 2
        assert value(during, "presence_handshakes_total", status="403") == 1
        assert value(during, "presence_handshake_seconds_count") == 2
        assert value(during, "presence_messages_received_total", type="join") == 2
        assert value(during, "presence_messages_received_total", type="publish") == 3
        assert value(during, "presence_message_handling_seconds_count") == 1
        assert value(during, "presence_errors_sent_total", code="throttled") == 1
        denied = {"rule": "publishes", "outcome": "denied", "source": "local"}
        assert value(during, "presence_throttle_decisions_total", **denied) == 1
        allowed = denied | {"outcome": "allowed"}
        assert value(during, "presence_throttle_decisions_total", **allowed) == 2
        assert value(during, "presence_events_total", type="message") == 2
        assert value(during, "presence_deliveries_total") >= 4
        assert value(during, "presence_received_bytes_total") > 300
        assert value(during, "presence_sent_bytes_total") > 200
        assert value(during, "presence_tick_seconds_count") > 0
        call_labels = {"method": "GET", "path": "/v1/rooms/{room}", "status": "200"}
        assert value(during, "presence_api_requests_total", **call_labels) == 1
        assert value(during, "presence_ready", check="store") == 1

        def gone(samples: Samples) -> bool:
            return value(samples, "presence_connections") == 0 and value(samples, "presence_members") == 0

        after = await eventually(lambda: scrape(node), gone)
        assert value(after, "presence_closes_total", code="1000") == 1
        assert value(after, "presence_closes_total", code="1006") == 1

        def left(samples: Samples) -> bool:
            return value(samples, "presence_leaves_total", reason="closed") >= 1

        await eventually(lambda: scrape(node), left)


async def test_what_the_store_says_of_itself_is_there_with_a_store(tmp_path: Path) -> None:
    with RedisServer("valkey") as server:
        async with Node(tmp_path, "--redis.url", server.url) as node:
            async with speaking(node.port, "/ws?user=ann") as ann:
                await ann.request(t="join", room="lobby", id=1)
                found = await scrape(node)
            assert value(found, "presence_redis_contact") == 1
            assert value(found, "presence_redis_memory_used_bytes", server="") > 100_000
            assert value(found, "presence_redis_connected_clients", server="") >= 3
            assert value(found, "presence_redis_pipeline_seconds_count", server="") > 0
            assert value(found, "presence_pubsub_round_trip_seconds_count", server="") > 0
            server.freeze()

            def lost(samples: Samples) -> bool:
                return value(samples, "presence_redis_contact") == 0

            found = await eventually(lambda: scrape(node), lost)
            assert ("presence_redis_memory_used_bytes", frozenset({("server", "")})) not in found
            assert value(found, "presence_redis_losses_total") == 1
            server.thaw()


async def test_every_name_on_the_page_is_in_the_table_and_labels_stay_few(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        for n in range(3 * LABEL_VALUES_MAX):
            async with speaking(node.port, f"/ws?user=user-{n}") as client:
                await client.request(t="join", room=f"room-{n}", id=1)
                await client.say(t=f"type-{n}")
                await call(node, "GET", f"/v1/users/user-{n}")
                await call(node, "GET", f"/v1/nothing/{n}")
                await client.close(3_000 + n)
        found = await scrape(node)
    exposed = {family.exposed for family in FAMILIES}
    for name in {name for name, _ in found}:
        assert re.sub("_(bucket|count|sum)$", "", name) in exposed or name in exposed, name
    for name in {name for name, _ in found if not name.endswith("_bucket")}:
        assert sum(sampled == name for sampled, _ in found) <= LABEL_VALUES_MAX, name


def test_names_and_units_are_those_of_prometheus() -> None:
    names = [family.exposed for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch("presence_[a-z_]+", family.name)
        assert not family.name.endswith("_total")
        assert family.meaning
        if family.kind == "histogram":
            assert family.name.endswith(UNITS)
        if "millis" in family.name or family.name.endswith("_ms"):
            raise AssertionError("seconds are the unit of time")


def test_the_committed_page_is_the_generated_one() -> None:
    assert (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8") == reference()
