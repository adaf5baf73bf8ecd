"""What every registry promises, on memory, Redis and Valkey."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from presence_server.clock import SystemClock
from presence_server.errors import BansFullError, StoreAwayError
from presence_server.grants import Grant
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Document
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.registry import local as local_module
from presence_server.registry import redis as redis_module
from presence_server.registry.bans import BanEntry, Bans
from presence_server.registry.local import LocalRegistry
from presence_server.registry.orders import Ban, Disconnect, Kick, Order, Regrant, Remove, Revoke
from presence_server.registry.port import (
    Connections,
    Located,
    NodeStatus,
    Present,
    Registry,
    UserConnection,
    UserStatus,
)
from presence_server.registry.redis import RedisRegistry
from tests.support.asking import asking
from tests.support.handclock import HandClock
from tests.support.redis_server import KINDS, RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

KEYS = Keys("ps")
DAY_MS = 86_400_000
TTL_MS = 30_000


class Subject:
    """A registry, what it was told to do, and a way to let all that is on its way arrive.

    `new_registry(connections)` makes the registry.
    """

    def __init__(
        self,
        new_registry: Callable[[Connections], Registry],
        clock: HandClock | SystemClock,
        arrive: Callable[[Registry], Awaitable[object]],
    ) -> None:
        self.registry = new_registry(self)
        self.clock = clock
        self._arrive = arrive
        self.orders: list[Order] = []
        self.messages: list[tuple[str, Any, int]] = []
        self.here: dict[str, Present] = {}

    async def arrive(self) -> None:
        await self._arrive(self.registry)

    def obey(self, order: Order) -> None:
        self.orders.append(order)

    def deliver(self, user: str, data: Document, at: int) -> None:
        self.messages.append((user, msgspec.json.decode(data), at))

    def find(self, cid: str) -> Present | None:
        return self.here.get(cid)

    async def status(self, user: str = "ann") -> UserStatus:
        await self.arrive()
        (status,) = await self.registry.users([user])
        return status


class Obedient:
    """Connections that only record the orders for them."""

    def __init__(self, orders: list[Order]) -> None:
        self.orders = orders

    def obey(self, order: Order) -> None:
        self.orders.append(order)

    def deliver(self, user: str, data: Document, at: int) -> None:
        raise AssertionError("no message was sent")

    def find(self, cid: str) -> Present | None:
        raise AssertionError("nobody was looked for")


def local_registry(
    clock: HandClock, connections: Connections, *, last_seen_ms: int = DAY_MS
) -> LocalRegistry:
    return LocalRegistry(
        lambda: NodeStatus("n1", "1"), lambda: connections, node="n1", clock=clock, last_seen_ms=last_seen_ms
    )


class Shared:
    """Registries of several nodes on one server."""

    def __init__(self, server: RedisServer, queries: Queries) -> None:
        self.server = server
        self.queries = queries
        self.forgotten: list[str] = []
        """Nodes that the store had forgotten."""
        self.silences: list[int] = []
        """For how long all others had been silent when a node began, ms."""

    def node(self, name: str, connections: Connections | None = None) -> RedisRegistry:
        """Make a node's registry; without connections it is one that nobody may ask for them."""
        return RedisRegistry(
            self.queries,
            KEYS,
            SystemClock(),
            lambda: NodeStatus(name, "1"),
            forgotten=lambda: self.forgotten.append(name),
            others_silent=self.silences.append,
            connections=lambda: connections or Obedient([]),
            node=name,
            ttl_ms=TTL_MS,
            last_seen_ms=DAY_MS,
        )

    async def register(self, registry: RedisRegistry) -> str:
        (answer,) = await self.queries.ask(registry.register("", DAY_MS))
        return registry.registered(answer)

    def time_ms(self) -> int:
        """Return the server's time."""
        seconds, micros = self.server.ask("TIME")
        return int(seconds) * 1_000 + int(micros) // 1_000

    def commands(self) -> int:
        """Return how many commands the server has run, those of scripts too."""
        stats = self.server.ask("INFO", "commandstats")
        return sum(int(stat["calls"]) for name, stat in stats.items() if name.startswith("cmdstat_"))

    def die(self, name: str) -> None:
        """Let a node's record end, as time would."""
        self.server.ask("ZADD", KEYS.nodes()[0], self.time_ms() - 1_000, name)

    def note_at(self, user: str, cid: str, noted_ms: int) -> None:
        """Let a connection have been noted at that time."""
        key = KEYS.user(user)[0]
        node, at, _, *rest = self.server.ask("HGET", key, cid).decode().split(" ")
        self.server.ask("HSET", key, cid, " ".join((node, at, str(noted_ms), *rest)))

    async def restored(self, registry: RedisRegistry) -> None:
        """Let a node return, and note everything anew."""
        await self.register(registry)
        registry.renew_all()
        registry.sweep()
        await registry.nodes()
        await self.register(registry)


@pytest.fixture
async def shared(server: RedisServer) -> AsyncIterator[Shared]:
    async with asking(server) as asked:
        yield Shared(asked.server, asked.queries)


@pytest.fixture(params=["memory", *KINDS])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        clock = HandClock()
        yield Subject(partial(local_registry, clock), clock, lambda _: anyio.lowlevel.checkpoint())
        return
    with RedisServer(request.param) as server:
        async with asking(server) as asked:
            shared = Shared(asked.server, asked.queries)
            subject = Subject(partial(shared.node, "n1"), SystemClock(), lambda registry: registry.nodes())
            assert isinstance(subject.registry, RedisRegistry)
            await shared.register(subject.registry)
            yield subject


async def test_a_user_s_connections_come_and_go(subject: Subject) -> None:
    registry = subject.registry
    assert await subject.status() == UserStatus([], None)
    registry.opened("ann", "c1", 1_000)
    registry.opened("ann", "c2", 2_000)
    registry.opened("bob", "c3", 3_000)
    status = await subject.status()
    assert status.connections == [UserConnection("c1", "n1", 1_000), UserConnection("c2", "n1", 2_000)]
    assert status.last_seen is not None
    assert abs(status.last_seen - subject.clock.wall_ms()) < 60_000
    registry.closed("ann", "c1")
    assert [c.cid for c in (await subject.status()).connections] == ["c2"]
    registry.closed("ann", "c2")
    gone = await subject.status()
    assert gone.connections == []
    assert gone.last_seen is not None
    assert len((await subject.status("bob")).connections) == 1


async def test_many_users_are_answered_in_their_places(subject: Subject) -> None:
    for n in range(0, 1_000, 2):
        subject.registry.opened(f"u{n}", f"c{n}", n)
    await subject.arrive()
    found = await subject.registry.users([f"u{n}" for n in range(1_000)])
    assert [bool(status.connections) for status in found] == [n % 2 == 0 for n in range(1_000)]


@pytest.mark.parametrize("user", ["zoë", "{x}", "a}b{", "#tag", "x" * 128, "with space", "é" * 128])
async def test_users_of_any_name_are_told_apart(subject: Subject, user: str) -> None:
    subject.registry.opened(user, "c1", 1)
    assert [c.cid for c in (await subject.status(user)).connections] == ["c1"]
    assert (await subject.status(user + "2")).connections == []


@pytest.mark.parametrize(
    "order",
    [
        Disconnect("zoë", 1, None),
        Disconnect("ann", 5, 2**52),
        Kick("c1", 1_700_000_000_000),
        Remove("a/b", "c1", 1_700_000_000_000),
        Remove("lobby", "c1", 5, "zoë", 2**52),
        Ban("zoë", "", 5, 2**52),
        Ban("zoë", "lobby", 5, 0),
        Revoke("s", 1),
        Regrant("s", 1, None, 60_000),
        Regrant("s", 1, [Grant("a:*", ["join"])], 60_000),
    ],
)
async def test_an_order_is_obeyed_as_it_was_given(subject: Subject, order: Order) -> None:
    await subject.registry.order(order)
    await subject.arrive()
    assert subject.orders == [order]


async def test_bans_begin_and_end(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    await subject.registry.order(Disconnect("ann", now_ms, now_ms + 600_000))
    assert subject.registry.banned_until("ann") == now_ms + 600_000
    await subject.registry.order(Disconnect("ann", now_ms, None))
    assert subject.registry.banned_until("ann") == now_ms + 600_000
    await subject.registry.order(Disconnect("ann", now_ms, now_ms))
    assert subject.registry.banned_until("ann") == 0


async def test_a_ban_from_a_room_is_one_of_its_own(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    await subject.registry.order(Remove("lobby", "c1", now_ms, "ann", now_ms + 600_000))
    assert subject.registry.banned_until("ann", "lobby") == now_ms + 600_000
    assert subject.registry.banned_until("ann", "hall") == subject.registry.banned_until("ann") == 0
    assert not await subject.registry.order(Ban("ann", "", now_ms, 0))
    assert subject.registry.banned_until("ann", "lobby") == now_ms + 600_000
    assert await subject.registry.order(Ban("ann", "lobby", now_ms, 0))
    assert subject.registry.banned_until("ann", "lobby") == 0
    assert not await subject.registry.order(Ban("ann", "lobby", now_ms, 0))


async def test_bans_in_force_are_listed_page_by_page(subject: Subject) -> None:
    now_ms = subject.clock.wall_ms()
    wanted = []
    for n in range(7):
        room, until = ("", "lobby")[n % 2], now_ms + 600_000 + n // 3  # some end together
        await subject.registry.order(Ban(f"zoë {n}", room, now_ms, until))
        wanted.append(BanEntry(f"zoë {n}", room, until))
    found: list[BanEntry] = []
    cursor = None
    for _ in range(4):
        page, cursor = await subject.registry.bans(cursor, 2)
        assert len(page) <= 2
        found += page
    assert cursor is None
    assert sorted(found) == sorted(wanted)
    assert [entry.until for entry in found] == sorted(entry.until for entry in wanted)
    assert await subject.registry.bans(None, 7) == (found, None)
    # The last one of a page is lifted before the next page is read.
    page, cursor = await subject.registry.bans(None, 3)
    await subject.registry.order(Ban(page[-1].user, page[-1].room, now_ms, 0))
    rest, _ = await subject.registry.bans(cursor, 100)
    assert {*page, *rest} == set(wanted)


@pytest.mark.parametrize("cursor", ["", "!", "nonsense", "1:abc", "é"])
async def test_a_cursor_that_no_page_gave_is_refused(subject: Subject, cursor: str) -> None:
    with pytest.raises(ValueError, match="no page of bans"):
        await subject.registry.bans(cursor, 10)


async def test_there_are_no_more_bans_than_may_be(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (local_module, redis_module):
        monkeypatch.setattr(module, "BANS_MAX", 3)
    now_ms = subject.clock.wall_ms()
    for n in range(3):
        await subject.registry.order(Ban(f"u{n}", "", now_ms, now_ms + 600_000))
    subject.orders.clear()
    with pytest.raises(BansFullError):
        await subject.registry.order(Ban("u3", "", now_ms, now_ms + 600_000))
    assert subject.orders == []
    assert subject.registry.banned_until("u3") == 0
    await subject.registry.order(Ban("u0", "", now_ms, now_ms + 700_000))  # a longer one is no more
    await subject.registry.order(Ban("u1", "", now_ms, 0))
    await subject.registry.order(Ban("u3", "", now_ms, now_ms + 600_000))
    assert len((await subject.registry.bans(None, 10))[0]) == 3


def test_bans_that_are_over_are_forgotten() -> None:
    bans = Bans()
    for n in range(10_000):
        bans.note(Disconnect(f"u{n}", n, n + 10))
    assert len(bans) <= 1_001
    assert bans.until("u9999", "", 10_005) == 10_009


async def test_where_a_connection_is_and_whose_is_known(subject: Subject) -> None:
    here = subject.here
    here["c1"] = Present("zoë x", ["hall", "lobby"])
    subject.registry.opened("zoë x", "c1", 1)
    await subject.arrive()
    assert await subject.registry.locate("c1") == Located("zoë x", "n1")
    assert await subject.registry.locate("c2") is None
    assert await subject.registry.rooms({"c1": "n1", "c2": "n1"}) == {"c1": ["hall", "lobby"], "c2": []}
    here.clear()
    subject.registry.closed("zoë x", "c1")
    await subject.arrive()
    assert await subject.registry.locate("c1") is None


# --- memory alone ---


async def test_who_left_long_ago_is_forgotten() -> None:
    clock = HandClock()
    registry = local_registry(clock, Obedient([]), last_seen_ms=60_000)
    registry.opened("ann", "c1", 1)
    registry.closed("ann", "c1")
    at = clock.wall_ms()
    clock.move(59_999)
    assert (await registry.users(["ann"]))[0].last_seen == at
    clock.move(1)
    assert (await registry.users(["ann"]))[0].last_seen is None
    registry.closed("bob", "c2")
    assert registry._seen_ms.keys() == {"bob"}


# --- shared ---


async def test_nodes_are_those_that_are_alive(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    await shared.register(one)
    await shared.register(two)
    assert [node.node for node in await one.nodes()] == ["n1", "n2"]
    shared.die("n2")
    assert [node.node for node in await one.nodes()] == ["n1"]


async def test_who_was_on_a_node_that_died_is_gone(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    two.opened("ann", "c1", 5)
    one.opened("ann", "c2", 6)
    await one.nodes()
    shared.die("n2")
    await shared.register(one)
    (status,) = await one.users(["ann"])
    assert [c.cid for c in status.connections] == ["c2"]
    assert (await one.locate("c1"), await one.locate("c2")) == (None, Located("ann", "n1"))
    # It was frozen, and comes back: it tells everything again.
    await shared.register(two)
    assert shared.forgotten == ["n2"]
    two.renew_all()
    two.sweep()
    await shared.register(one)

    async def cids() -> list[str]:
        return [c.cid for c in (await one.users(["ann"]))[0].connections]

    await eventually(cids, lambda found: found == ["c1", "c2"])


async def test_who_was_on_a_node_that_nobody_saw_die_is_gone_since_it_was_last_heard_of(
    shared: Shared,
) -> None:
    two = shared.node("n2")
    await shared.register(two)
    two.opened("ann", "c1", 5)
    await two.nodes()
    heard_ms = shared.time_ms() - 500_000
    shared.server.ask("ZADD", KEYS.nodes()[0], heard_ms + TTL_MS, "n2")
    one = shared.node("n1")
    await shared.register(one)
    noted = await one.users(["ann"])
    assert noted[0].connections == []
    shared.note_at("ann", "c1", heard_ms - 10_000)
    assert await one.users(["ann"]) == [UserStatus([], heard_ms)]
    assert await one.locate("c1") is None


async def test_who_was_on_a_node_of_which_nothing_is_known_was_last_seen_when_that_was_noted(
    shared: Shared,
) -> None:
    one, lost = shared.node("n1"), shared.node("unregistered")
    await shared.register(one)
    lost.opened("ann", "c1", 5)
    await one.nodes()
    noted_ms = shared.time_ms() - 50_000
    shared.note_at("ann", "c1", noted_ms)
    assert await one.users(["ann"]) == [UserStatus([], noted_ms)]
    shared.note_at("ann", "c1", shared.time_ms() - DAY_MS)
    assert await one.users(["ann"]) == [UserStatus([], None)]


async def test_a_connection_that_its_node_no_longer_notes_does_not_count(shared: Shared) -> None:
    one = shared.node("n1")
    await shared.register(one)
    one.opened("ann", "c1", 5)
    await one.nodes()
    shared.note_at("ann", "c1", shared.time_ms() - redis_module.LEASE_MS)
    assert (await one.users(["ann"]))[0].connections == []
    one.opened("ann", "c2", 6)
    await one.nodes()
    assert shared.server.ask("HLEN", KEYS.user("ann")[0]) == 1, "it is forgotten with the next that comes"


@pytest.mark.one_kind
async def test_a_thousand_nodes_that_died_cost_a_question_nothing(shared: Shared) -> None:
    one = shared.node("n1")
    await shared.register(one)
    for n in range(1_000):
        shared.server.ask("ZADD", KEYS.nodes()[3], shared.time_ms(), f"dead-{n}")
    shared.server.ask("PEXPIRE", KEYS.nodes()[3], DAY_MS)
    one.opened("ann", "c1", 5)
    await one.nodes()
    before = shared.commands()
    await one.users(["ann"] * 10)
    assert shared.commands() - before <= 10 * 5 + 10
    assert "dead-1" not in str(one.register("", 1).command)


async def test_a_node_is_not_taken_for_dead_where_the_store_s_clock_jumps(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    # As where the store's clock has been put forward by an hour.
    one._clock.follow(one._clock.wall_ms() - 3_600_000)
    shared.die("n2")
    await shared.register(one)
    assert [node.node for node in await one.nodes()] == ["n1", "n2"]
    shared.die("n2")
    await shared.register(one)
    assert [node.node for node in await one.nodes()] == ["n1"]


async def test_a_node_that_died_before_the_store_s_clock_went_back_is_dead_after_a_ttl(
    shared: Shared,
) -> None:
    one = shared.node("n1")
    shared.server.ask("ZADD", KEYS.nodes()[0], shared.time_ms() + 3_600_000, "n2")
    shared.server.ask("PEXPIRE", KEYS.nodes()[0], 60_000)
    await shared.register(one)
    assert float(shared.server.ask("ZSCORE", KEYS.nodes()[0], "n2")) <= shared.time_ms() + TTL_MS


async def test_an_earlier_life_s_end_does_not_end_a_later_one(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    one.opened("ann", "c1", 5)
    await one.nodes()
    two.opened("ann", "c1", 6)
    await one.nodes()
    one.closed("ann", "c1")
    await one.nodes()
    (status,) = await one.users(["ann"])
    assert status.connections == [UserConnection("c1", "n2", 6)]
    assert await one.locate("c1") == Located("ann", "n2")


async def test_of_two_lives_made_at_once_the_later_is_noted_whichever_comes_last(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    for order in ((one, 7), (two, 8)), ((two, 8), (one, 7)):
        for registry, epoch in order:
            registry.opened("ann", "c1", epoch, epoch)
            await one.nodes()
        one.closed("ann", "c1")
        await one.nodes()
        (status,) = await one.users(["ann"])
        assert status.connections == [UserConnection("c1", "n2", 8)]
        assert await one.locate("c1") == Located("ann", "n2")
        two.closed("ann", "c1")
        await two.nodes()


async def test_a_connection_that_an_older_store_brings_back_does_not_count(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.restored(registry)
    one.opened("ann b", "c1", 5)
    two.opened("ann b", "c2", 6)
    await one.nodes()
    older = {key: shared.server.ask("DUMP", key) for key in (KEYS.user("ann b")[0], KEYS.connection("c1"))}
    one.closed("ann b", "c1")
    two.opened("ann b", "c3", 7)
    await one.nodes()
    for key, dumped in older.items():
        shared.server.ask("DEL", key)
        shared.server.ask("RESTORE", key, redis_module.LEASE_MS, dumped)
    (status,) = await two.users(["ann b"])
    assert [c.cid for c in status.connections] == ["c1", "c2"]
    for registry in (one, two):
        await shared.restored(registry)
    (status,) = await two.users(["ann b"])
    assert [c.cid for c in status.connections] == ["c2", "c3"]
    assert (await two.locate("c1"), await two.locate("c3")) == (None, Located("ann b", "n2"))


async def test_what_a_node_noted_counts_until_it_has_noted_everything_anew(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "RENEWALS_MAX", 2)
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.restored(registry)
    cids = [f"c{n}" for n in range(5)]
    for n, cid in enumerate(cids):
        one.opened("ann", cid, n)
    await one.nodes()
    one.renew_all()
    for _ in range(4):
        one.sweep()
        await one.nodes()
        await shared.register(one)
        (status,) = await two.users(["ann"])
        assert [c.cid for c in status.connections] == cids


async def test_a_node_that_could_not_note_everything_lets_nothing_end(shared: Shared) -> None:
    away = False
    queries = Queries(shared.queries._batcher, lambda: away)
    registry = Shared(shared.server, queries).node("n1")
    registry.opened("ann", "c1", 1)
    await registry.nodes()
    registry.renew_all()
    away = True
    registry.sweep()
    assert registry._least_incarnation == 0
    away = False
    registry.sweep()
    await registry.nodes()
    assert registry._least_incarnation == registry._incarnation > 0


async def test_an_order_whose_message_was_lost_is_heard_with_the_next_proof(shared: Shared) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(two)
    orders = [Kick(f"c{n}", n) for n in range(5)]
    for order in orders:
        await one.order(order)
    assert heard == []
    await shared.register(two)
    assert heard == orders
    await shared.register(two)
    assert heard == orders


async def test_each_order_is_obeyed_once_however_it_comes(shared: Shared) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(two)
    messages: list[bytes] = []
    two_heard, one.heard = two.heard, messages.append  # type: ignore[method-assign, assignment]  # in a test's hands
    orders = [Kick(f"c{n}", n) for n in range(3)]
    for order in orders:
        await one.order(order)
    two_heard(messages[1])  # the first was lost, the third is late
    assert heard == [orders[1]]
    await shared.register(two)
    assert heard == [orders[1], orders[0], orders[2]]
    for message in messages:
        two_heard(message)
    assert len(heard) == 3


async def test_an_order_is_obeyed_though_the_store_was_wiped_and_its_clock_put_back(shared: Shared) -> None:
    heard: list[Order] = []
    node = shared.node("n1", Obedient(heard))
    *_, key, _ = KEYS.nodes()
    ahead_ms = shared.time_ms() + 60_000
    shared.server.ask("XADD", key, f"{ahead_ms}-0", "o", b"from before")
    shared.server.ask("PEXPIRE", key, 60_000)
    (answer,) = await shared.queries.ask(node.register("", DAY_MS))
    node.registered([ahead_ms, *answer[1:]])
    shared.server.ask("DEL", key)
    order = Kick("c1", 1)
    await shared.node("n2").order(order)
    await shared.register(node)
    assert heard == [order]


async def test_what_is_remembered_of_orders_is_bounded(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(two)
    *_, key, _ = KEYS.nodes()
    monkeypatch.setattr("presence_server.registry.redis.ORDERS_MAX", 3)
    orders = [Kick(f"c{n}", n) for n in range(5)]
    for order in orders[:2]:
        await one.order(order)
    older = shared.server.ask("DUMP", key)
    for order in orders[2:]:
        await one.order(order)
        await shared.register(two)
    shared.server.ask("RESTORE", key, 60_000, older, "REPLACE")
    await shared.register(two)
    assert heard == orders
    assert len(two._obeyed) == 3


async def test_a_node_that_begins_obeys_no_old_orders_but_knows_bans(shared: Shared) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(one)
    now_ms = one._clock.wall_ms()
    await one.order(Disconnect("ann", now_ms, now_ms + 600_000))
    await one.order(Disconnect("bob", now_ms, now_ms + 600_000))
    await one.order(Disconnect("bob", now_ms, now_ms))
    await shared.register(two)
    assert heard == []
    assert (two.banned_until("ann"), two.banned_until("bob")) == (now_ms + 600_000, 0)


async def test_an_order_of_another_version_is_passed_over(shared: Shared) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(two)
    *_, orders, _ = KEYS.nodes()
    shared.server.ask("XADD", orders, "*", "o", b"\xc1 nonsense")
    shared.server.ask("PEXPIRE", orders, 60_000)
    await one.order(Kick("c1", 1))
    await shared.register(two)
    assert heard == [Kick("c1", 1)]


async def test_a_message_goes_to_the_nodes_that_the_user_is_on(shared: Shared) -> None:
    one, two, three = shared.node("n1"), shared.node("n2"), shared.node("n3")
    del three
    one.opened("ann", "c1", 1)
    one.opened("ann", "c2", 2)
    two.opened("ann", "c3", 3)
    await one.nodes()
    server = shared.server
    before = int(server.ask("INFO", "commandstats").get("cmdstat_publish", {}).get("calls", 0))
    await one.message("ann", document({"n": 1}), 7)
    after = int(server.ask("INFO", "commandstats").get("cmdstat_publish", {}).get("calls", 0))
    assert after - before == 2


async def test_without_contact_nothing_is_asked_and_what_is_noted_is_kept() -> None:
    batcher = PipelineBatcher(RedisClient("unix:///nowhere").lane(), 1.0, lambda: None)
    registry = Shared(None, Queries(batcher, lambda: True)).node("n1")  # type: ignore[arg-type]  # nobody asks it
    registry.opened("ann", "c1", 1)
    with pytest.raises(StoreAwayError):
        await registry.users(["ann"])
    with pytest.raises(StoreAwayError):
        await registry.order(Kick("c1", 1))
    assert list(registry._here) == ["c1"]


async def test_who_left_while_the_store_was_away_is_told_on_its_return(shared: Shared) -> None:
    away = False
    queries = Queries(shared.queries._batcher, lambda: away)
    registry = Shared(shared.server, queries).node("n1")
    for cid in ("c1", "c2", "c3"):
        registry.opened("ann", cid, 1)
    await registry.nodes()
    away = True
    registry.closed("ann", "c1")
    registry.closed("ann", "c2")
    registry.opened("ann", "c2", 2)  # it was resumed
    registry.opened("ann", "c4", 3)
    away = False
    registry.renew_all()
    registry.sweep()
    (status,) = await registry.users(["ann"])
    assert sorted(c.cid for c in status.connections) == ["c2", "c3", "c4"]


async def test_what_could_not_be_noted_is_noted_with_the_next_sweep(shared: Shared) -> None:
    away = True
    queries = Queries(shared.queries._batcher, lambda: away)
    registry = Shared(shared.server, queries).node("n1")
    registry.opened("ann", "c1", 1)
    registry.opened("ann", "c2", 2)
    away = False
    registry.opened("ann", "c3", 3)
    registry.sweep()
    (status,) = await registry.users(["ann"])
    assert sorted(c.cid for c in status.connections) == ["c1", "c2", "c3"]


async def test_a_node_that_begins_learns_for_how_long_all_others_have_been_silent(shared: Shared) -> None:
    await shared.register(shared.node("n1"))
    assert shared.silences == []
    await shared.register(shared.node("n2"))
    assert [silence > TTL_MS for silence in shared.silences] == [False]
    shared.die("n1")
    shared.die("n2")
    for name in ("n3", "n4"):  # the first finds them in the registry, and takes them for dead
        await shared.register(shared.node(name))
    assert [silence > TTL_MS for silence in shared.silences] == [False, True, False]
    shared.server.ask("ZREM", KEYS.nodes()[0], "n3", "n4")
    begins = shared.node("n5")
    for _ in range(2):
        await shared.register(begins)
    assert [silence > TTL_MS for silence in shared.silences] == [False, True, False, True]


async def test_a_restored_store_has_no_order_obeyed_again(shared: Shared) -> None:
    heard: list[Order] = []
    one, two = shared.node("n1"), shared.node("n2", Obedient(heard))
    await shared.register(one)
    await one.order(Kick("c0", 0))  # before the other begins
    await shared.register(two)
    orders = [Kick(f"c{n}", n) for n in range(1, 4)]
    for order in orders:
        await one.order(order)
    await shared.register(two)
    assert heard == orders
    *_, stream, _ = KEYS.nodes()
    ((last, _),) = shared.server.ask("XREVRANGE", stream, "+", "-", "COUNT", 1)
    shared.server.ask("XDEL", stream, last)  # an older store: it lacks the last one
    await shared.register(two)
    assert heard == orders
    await one.order(Kick("c4", 4))
    await shared.register(two)
    assert heard == [*orders, Kick("c4", 4)]
