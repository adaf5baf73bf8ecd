"""Which server of a Cluster has which slot, and what is wrong with one that cannot be used."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from redis.asyncio import Connection

from presence_server.config.store_url import Address, parse_store_url
from presence_server.redis_io.cluster_slots import (
    ClusterServers,
    Range,
    SlotMap,
    cluster_problem,
    read_slots,
)
from presence_server.redis_io.enquiry import Enquiry
from presence_server.redis_io.scripts import SLOTS, slot_of, slot_of_tag
from presence_server.redis_io.starting import start_problem
from presence_server.rooms.rules import ROOM_NAME
from tests.support.node import PROJECT
from tests.support.tcp_servers import HOST, ServerCluster, TcpServer, slots_seen
from tests.support.waiting import eventually

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def test_a_slot_has_the_owner_of_its_range() -> None:
    slots = SlotMap([Range(100, 200, B), Range(0, 99, A), Range(300, SLOTS - 1, A)], [A, B])
    assert [slots.owner(n) for n in (0, 99, 100, 200, 201, 299, 300, SLOTS - 1)] == [
        A,
        A,
        B,
        B,
        None,
        None,
        A,
        A,
    ]
    assert slots.uncovered() == ["201-299"]
    assert slots.primaries == (A, B)


def test_slots_that_nobody_has_are_named() -> None:
    assert SlotMap([], []).uncovered() == ["0-16383"]
    assert SlotMap([Range(0, SLOTS - 1, A)], []).uncovered() == []
    assert SlotMap([Range(1, SLOTS - 2, A)], []).uncovered() == ["0", "16383"]


@pytest.mark.parametrize(
    ("after", "lost", "takes_over"),
    [
        ([Range(0, 99, A), Range(100, 200, B)], set(), False),
        ([Range(0, 98, A), Range(99, 200, B)], set(), False),
        ([Range(0, 98, A), Range(99, 200, B)], {A}, True),
        ([Range(0, 98, A), Range(99, 200, B)], {B}, False),
        ([Range(0, 99, A), Range(100, 200, C)], set(), True),
        ([Range(0, 99, A)], {B}, False),
        ([Range(0, 99, A), Range(100, 201, B)], set(), True),
    ],
)
def test_slots_are_taken_over_from_a_server_that_is_lost_or_no_primary_any_more(
    after: list[Range], lost: set[Address], takes_over: bool
) -> None:
    before = SlotMap([Range(0, 99, A), Range(100, 200, B)], [])
    assert SlotMap(after, []).takes_over(before, lost) is takes_over


def test_a_tag_is_found_for_each_server() -> None:
    slots = SlotMap([Range(0, 5, A), Range(6, SLOTS - 1, B)], [])
    for owner in (A, B):
        assert slots.owner(slot_of_tag(slots.tag(owner))) == owner
        assert slot_of(f"ps:{{{slots.tag(owner)}}}:x") == slot_of_tag(slots.tag(owner))
        assert ROOM_NAME.fullmatch(slots.tag(owner)) is None


def test_another_tag_of_a_server_has_another_slot_or_there_is_none() -> None:
    first = SlotMap([Range(0, SLOTS - 1, A)], []).tag(A)
    assert SlotMap([Range(0, SLOTS - 1, A)], []).tag(A, after=first) == "!1"
    only = slot_of_tag(first)
    assert not SlotMap([Range(only, only, A), Range(only + 1, SLOTS - 1, B)], []).tag(A, after=first)
    assert not SlotMap([Range(0, SLOTS - 1, B)], []).tag(A)


def test_servers_that_do_not_say_where_they_are_are_where_they_were_asked() -> None:
    answer = [[0, 99, [None, 7, b"id"], [b"", 8, b"id"]], [100, 200, [b"h", 9, b"id", [b"hostname", b"x"]]]]
    slots = read_slots(answer, A)
    assert slots.ranges == [Range(0, 99, Address("a", 7)), Range(100, 200, Address("h", 9))]
    assert slots.servers == (Address("a", 7), Address("a", 8), Address("h", 9))


def test_nobody_has_the_slots_of_a_server_whose_port_is_not_known_yet() -> None:
    answer = [[0, 99, [b"h", 7, b"id"], [b"i", 0, b"id"]], [100, SLOTS - 1, [b"127.0.0.1", 0, b"id"]]]
    slots = read_slots(answer, A)
    assert slots.uncovered() == [f"100-{SLOTS - 1}"]
    assert slots.servers == (Address("h", 7),)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_the_answer_of_the_highest_epoch_counts_and_dead_servers_cost_nothing(kind: str) -> None:
    with ServerCluster(kind, replicas=False) as cluster:
        source, target, other = cluster.servers
        slot = slot_of_tag("lobby")
        source, target = (source, target) if cluster.owner(slot) is source else (cluster.owner(slot), source)
        cluster.migrate(slot, target)
        other = next(server for server in cluster.servers if server not in (source, target))
        other.kill()
        servers = ClusterServers(parse_store_url(cluster.url))
        moved_to = Address(HOST, target.port)
        slots = await slots_seen(servers, lambda slots: slots.owner(slot) == moved_to)
        problem = await eventually(lambda: start_problem(f"redis://{target.address}"), bool)
        assert problem == (
            f"the server at {target.address} is part of a Cluster of 3: write redis+cluster:// in its place"
        )
        assert not await start_problem(f"redis://{other.address}"), "nobody is there to say so"
        assert len(slots.servers) == 3
        await servers.aclose()


@pytest.fixture
def lone_server() -> Iterator[TcpServer]:
    server = TcpServer("valkey", {"cluster-enabled": "yes"})
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_slots_that_no_server_has_end_the_start(lone_server: TcpServer) -> None:
    lone_server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 100)
    command = [sys.executable, "-m", "presence_server", "serve", "--port", "0", "--api-port", "0"]
    url = f"redis+cluster://{lone_server.address}"
    done = subprocess.run(
        [*command, "--redis.url", url], check=False, cwd=PROJECT, capture_output=True, timeout=60
    )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line == (
        f"presence-server: redis.url: the Cluster at {lone_server.address} has slots that no server has: 101-16383"
    )


@pytest.mark.anyio
async def test_a_server_in_cluster_mode_is_not_used_as_a_standalone_one(lone_server: TcpServer) -> None:
    url = f"redis://{lone_server.address}"
    said = f"the server at {lone_server.address} runs in Cluster mode: write redis+cluster:// in its place"
    assert await eventually(lambda: start_problem(url), bool) == said
    lone_server.ask("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
    assert await eventually(lambda: start_problem(url), bool) == said


class Closing(Connection):
    """A connection whose server goes away in the handshake: uvloop raises this, and it ended a node."""

    async def connect(self) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


@pytest.mark.anyio
async def test_a_server_that_goes_away_while_it_is_asked_has_not_answered() -> None:
    enquiry = Enquiry({}, tls=False)
    enquiry._connection_class = Closing
    replies = await enquiry.ask_all([A, B], [("CLUSTER", "SLOTS")], lambda _: False)
    assert (replies.answers, replies.refusals, len(replies.failures)) == ([], [], 2)


@pytest.mark.anyio
async def test_a_server_that_is_part_of_no_cluster_is_said_and_one_that_is_away_is_not() -> None:
    plain = TcpServer("valkey", {})
    try:
        plain.start()
        problem = await cluster_problem(parse_store_url(f"redis+cluster://{plain.address}"))
        assert problem.startswith(f"this is no Cluster: {plain.address}: ")
        assert "cluster support disabled" in problem
    finally:
        plain.close()
    assert not await cluster_problem(parse_store_url(f"redis+cluster://{plain.address}"))
