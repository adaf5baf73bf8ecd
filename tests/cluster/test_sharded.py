"""Nodes on a Redis Cluster: rooms are spread over servers, and what happens to one is nothing to the others."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path

import anyio
import pytest

from presence_server.client import Left, Message, Synced, connect
from presence_server.redis_io.scripts import slot_of, slot_of_tag
from tests.cluster.company import EVENTS_MAX, Visitor
from tests.cluster.failover import BUSY_S, HEARTBEAT_MS, two_nodes
from tests.cluster.hits import hitting
from tests.support.api import call
from tests.support.metrics import scrape, value
from tests.support.node import Node
from tests.support.tcp_servers import SLOTS, ServerCluster, TcpServer
from tests.support.waiting import eventually, until

pytestmark = pytest.mark.anyio
USERS = 4
ROOMS_OF_EACH = 3
MANY_ROOMS = 120
CHANGED = '"event": "connectivity"'
"""In the log: some parts of the store have changed their state together."""
CHANGES_MAX = 40
"""A third of the rooms change theirs at least three times; one by one that would be more than this five times over."""


@pytest.fixture
def cluster(kind: str) -> Iterator[ServerCluster]:
    with ServerCluster(kind) as running:
        yield running


@pytest.fixture
async def nodes(cluster: ServerCluster, tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with two_nodes(cluster.url, tmp_path) as started:
        yield started


def rooms_of(cluster: ServerCluster, server: TcpServer) -> list[str]:
    """Return the first rooms whose slots a server has."""
    owned = cluster.slots_of(server)
    assert owned, "a server without slots has no rooms: another has taken over from it"
    names = (name for name in (f"room-{n}" for n in count()) if slot_of_tag(name) in owned)
    return [*islice(names, ROOMS_OF_EACH)]


class Company:
    """Users that are all in the same rooms."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[Visitor]] = {}

    def is_settled(self) -> bool:
        """Tell whether all know each other in every room, and nothing is stale."""
        return all(
            len(visitor.roster) == len(visitors)
            and visitor.roster == visitors[0].roster
            and not visitor.room.stale
            for visitors in self.rooms.values()
            for visitor in visitors
        )

    def state(self) -> object:
        """Say how each room is seen."""
        return {
            room: [(v.client.user, len(v.roster), v.room.stale) for v in visitors]
            for room, visitors in self.rooms.items()
        }

    def forget_events(self) -> None:
        for visitors in self.rooms.values():
            for visitor in visitors:
                visitor.forget_events()

    def leaves(self) -> list[object]:
        return [e for visitors in self.rooms.values() for v in visitors for e in v.all(Left) + v.all(Synced)]

    def stale_rooms(self) -> set[str]:
        return {room for room, visitors in self.rooms.items() if any(v.room.stale for v in visitors)}

    @asynccontextmanager
    async def noting_stale(self) -> AsyncIterator[set[tuple[str, str]]]:
        """Gather the rooms that are stale for somebody, with each user, while the block runs."""
        stale: set[tuple[str, str]] = set()

        async def note() -> None:
            while True:
                stale.update(
                    (room, v.client.user) for room, vs in self.rooms.items() for v in vs if v.room.stale
                )
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
            yield stale
            tasks.cancel_scope.cancel()

    def in_each(self, rooms: list[str]) -> set[tuple[str, str]]:
        """Return some rooms, each with every user that is in it."""
        return {(room, visitor.client.user) for room in rooms for visitor in self.rooms[room]}

    async def hears(self, text: str, rooms: Iterable[str] = ()) -> None:
        """Have one speak in each room, or in each of some, and wait until all others have heard it."""
        some = [self.rooms[room] for room in rooms or self.rooms]
        for visitors in some:
            await visitors[0].room.publish(text)
        for visitors in some:
            for visitor in visitors[1:]:
                await until(lambda: [m for m in visitor.all(Message) if m.data == text], self.state)  # noqa: B023 - awaited here


@asynccontextmanager
async def company(nodes: list[Node], rooms: list[str]) -> AsyncIterator[Company]:
    """Let users into all of the rooms, over the nodes in turn."""
    async with AsyncExitStack() as stack:
        here = Company()
        for i in range(USERS):
            url = nodes[i % len(nodes)].ws_url
            client = await stack.enter_async_context(connect(url, user=f"user-{i}", events_max=EVENTS_MAX))
            for room in rooms:
                here.rooms.setdefault(room, []).append(
                    Visitor(client, await client.join(room, state={"n": i}))
                )
        await until(here.is_settled, here.state)
        here.forget_events()
        yield here


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_rooms_are_spread_over_the_servers_and_seen_from_every_node(
    cluster: ServerCluster, nodes: list[Node]
) -> None:
    rooms = [room for server in cluster.servers[:3] for room in rooms_of(cluster, server)]
    async with company(nodes, rooms) as here:
        await here.hears("hello")
        for server in cluster.servers[:3]:
            assert any(key.endswith(b":members") for key in server.ask("KEYS", "*"))
        for node in nodes:
            found = await scrape(node)
            for name in ("memory_used_bytes", "pipeline_seconds_count"):
                servers = [
                    dict(labels)["server"] for exposed, labels in found if exposed == f"presence_redis_{name}"
                ]
                assert sorted(servers) == sorted(server.address for server in cluster.servers[:3])
        assert here.leaves() == []


async def is_whole(here: Company, *, within_s: float) -> None:
    """Wait until all know each other everywhere, and hear each other."""
    took_s = await until(here.is_settled, here.state)
    assert took_s < within_s + BUSY_S, took_s
    await here.hears(f"whole after {took_s}")


@pytest.mark.parametrize(
    ("kind", "fail"), [("redis", TcpServer.kill), ("valkey", TcpServer.freeze)], ids=["killed", "frozen"]
)
async def test_only_rooms_of_a_primary_that_fails_are_stale_and_nobody_leaves(
    cluster: ServerCluster, nodes: list[Node], fail: Callable[[TcpServer], None]
) -> None:
    failing, *others = cluster.servers[:3]
    theirs = rooms_of(cluster, failing)
    rooms = [*theirs, *(room for server in others for room in rooms_of(cluster, server))]
    async with hitting(cluster.url, [f"key-{n}" for n in range(6)]) as hits, company(nodes, rooms) as here:
        cluster.allow_failover(failing)
        async with here.noting_stale() as stale:
            fail(failing)
            await until(lambda: cluster.owner(slot_of_tag(theirs[0])) is not failing)
            # What is published before a node has noticed may be heard on that node alone.
            await until(lambda: stale >= here.in_each(theirs), here.state)
            await is_whole(here, within_s=HEARTBEAT_MS / 1000 + 5)
        # A machine with every core busy may keep one node from another server for a moment, but not all nodes.
        assert {room for room in rooms if here.in_each([room]) <= stale} == set(theirs)
        assert here.leaves() == []
        await hits.check()
        if failing.is_frozen:
            failing.thaw()
        else:
            failing.start()
        await anyio.to_thread.run_sync(cluster.settle)
        await anyio.sleep(HEARTBEAT_MS / 1000)
        await is_whole(here, within_s=0)
        assert here.leaves() == []


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_slot_that_moves_under_load_costs_nobody_their_place(
    cluster: ServerCluster, nodes: list[Node]
) -> None:
    source, target, _ = cluster.servers[:3]
    moved, *stays = rooms_of(cluster, source)
    rooms = [moved, *stays, *rooms_of(cluster, target)]
    async with company(nodes, rooms) as here, anyio.create_task_group() as tasks:
        tasks.start_soon(updating, here)
        async with here.noting_stale() as stale:
            await anyio.to_thread.run_sync(cluster.migrate, slot_of_tag(moved), target)
            await until(lambda: stale and not here.stale_rooms(), here.state)
        assert {room for room, _ in stale} == {moved}
        tasks.cancel_scope.cancel()
    assert not here.leaves()


async def test_a_server_that_gives_all_its_slots_away_is_left_and_nobody_notices(tmp_path: Path) -> None:
    with ServerCluster("valkey", replicas=False, lasts=(8_191, SLOTS - 3, SLOTS - 1)) as cluster:
        leaving, staying = cluster.servers[2], cluster.servers[0]
        rooms = [*rooms_of(cluster, leaving), *rooms_of(cluster, staying)]
        async with two_nodes(cluster.url, tmp_path) as nodes, company(nodes, rooms) as here:
            for slot in (SLOTS - 2, SLOTS - 1):
                await anyio.to_thread.run_sync(cluster.migrate, slot, staying)
            await until(lambda: subscribers(leaving) == 0, here.state)
            leaving.kill()
            await is_whole(here, within_s=HEARTBEAT_MS / 1000 + 5)
            assert here.leaves() == []
            for node in nodes:
                assert (await call(node, "GET", "/v1/rooms")).status == 200
                assert (await call(node, "GET", "/readyz")).status == 200


def subscribers(server: TcpServer) -> int:
    """Return how many connections hear channels of the server's slots."""
    clients: bytes = server.ask("CLIENT", "LIST")
    return len([line for line in clients.splitlines() if b"ssub=0" not in line])


async def updating(here: Company) -> None:
    """Have everybody change their state, for ever."""
    for n in count():
        for visitors in list(here.rooms.values()):
            for visitor in visitors:
                await visitor.room.update({"n": n})
        await anyio.sleep(0.01)


@pytest.mark.parametrize("kind", ["valkey"])
async def test_a_cluster_that_starts_again_with_nothing_costs_nobody_their_place(
    cluster: ServerCluster, nodes: list[Node]
) -> None:
    rooms = [room for server in cluster.servers[:3] for room in rooms_of(cluster, server)[:2]]
    async with company(nodes, rooms) as here:
        for server in cluster.servers:
            server.kill()
        await until(lambda: here.stale_rooms() == set(rooms), here.state)
        await anyio.to_thread.run_sync(cluster.start)
        await anyio.to_thread.run_sync(cluster.settle)
        await is_whole(here, within_s=HEARTBEAT_MS / 1000 + 5)
        assert here.leaves() == []


async def test_the_slots_of_a_server_move_to_its_replica_together_however_many_rooms_they_have(
    tmp_path: Path,
) -> None:
    """Handled one by one, the slots of 2,000 rooms kept a node from answering for half a minute."""
    with ServerCluster("valkey") as cluster:
        async with two_nodes(cluster.url, tmp_path, "--limits.rooms", "1000") as nodes:
            rooms = [f"room-{n}" for n in range(MANY_ROOMS)]
            async with company(nodes, rooms) as here:
                logged = [node.log.count(CHANGED) for node in nodes]
                replica = cluster.servers[3]
                async with here.noting_stale() as stale:
                    replica.ask("CLUSTER", "FAILOVER")
                    await until(lambda: stale, here.state)
                    await is_whole(here, within_s=HEARTBEAT_MS / 1000 + 5)
                assert cluster.owner(0) is replica
                assert {room for room, _ in stale} < set(rooms)
                assert here.leaves() == []
                for node, before in zip(nodes, logged, strict=True):
                    assert 0 < node.log.count(CHANGED) - before < CHANGES_MAX, node.log


def proofs(server: TcpServer) -> set[int]:
    """Return the slots by which nodes prove their contact with a server."""
    return {slot_of(key.decode()) for key in server.ask("KEYS", "ps:link:*")}


async def test_slots_that_stay_half_moved_or_are_nowhere_cost_only_their_own_rooms(tmp_path: Path) -> None:
    with ServerCluster("valkey", replicas=False) as cluster:
        async with two_nodes(cluster.url, tmp_path) as nodes:
            registry = cluster.owner(slot_of_tag("ps:nodes"))
            source, target = (server for server in cluster.servers if server is not registry)
            rooms = [room for server in cluster.servers for room in rooms_of(cluster, server)]
            moved = rooms_of(cluster, source)[0]
            async with company(nodes, rooms) as here, here.noting_stale() as stale:
                await until(lambda: len(proofs(source)) == 1)
                (proof,) = proofs(source)
                assert proof != slot_of_tag(moved)
                half_moved = (proof, slot_of_tag(moved))
                for slot in half_moved:
                    await anyio.to_thread.run_sync(cluster.begin_migration, slot, target)
                cluster.drop_slot(slot_of_tag("ps:nodes"))
                await until(lambda: stale == here.in_each([moved]), here.state)
                await until(lambda: proofs(source) and proof not in proofs(source))
                await here.hears("still here", [room for room in rooms if room != moved])
                registry.ask("CLUSTER", "ADDSLOTS", slot_of_tag("ps:nodes"))
                for slot in half_moved:
                    await anyio.to_thread.run_sync(cluster.end_migration, slot, target)
                await is_whole(here, within_s=HEARTBEAT_MS / 1000 + 5)
                for node in nodes:
                    assert value(await scrape(node), "presence_redis_losses_total") == 0
                    await eventually(
                        partial(call, node, "GET", "/v1/nodes"), lambda answer: answer.status == 200
                    )
                assert {room for room, _ in stale} == {moved}
                assert here.leaves() == []
