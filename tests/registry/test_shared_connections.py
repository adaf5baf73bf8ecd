"""Nodes that share a registry: what each knows of the others, and of their connections."""

import pytest

from presence_server.errors import StoreAwayError
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.queries import ServerQueries
from presence_server.registry import own_connections
from presence_server.registry.commands import Kick
from presence_server.registry.noted_users import LEASE_MS
from presence_server.registry.port import (
    Located,
    UserConnection,
    UserStatus,
)
from tests.registry.registries import DAY_MS, KEYS, TTL_MS, Shared
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


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
    two.renew_due()
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
    shared.server.ask("ZADD", KEYS.registry().expiry, heard_ms + TTL_MS, "n2")
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
    shared.note_at("ann", "c1", shared.time_ms() - LEASE_MS)
    assert (await one.users(["ann"]))[0].connections == []
    one.opened("ann", "c2", 6)
    await one.nodes()
    assert shared.server.ask("HLEN", KEYS.user("ann")[0]) == 1, "it is forgotten with the next that comes"


@pytest.mark.one_kind
async def test_a_thousand_nodes_that_died_cost_a_question_nothing(shared: Shared) -> None:
    one = shared.node("n1")
    await shared.register(one)
    time_ms = shared.time_ms()
    dead = [field for n in range(1_000) for field in (time_ms, f"dead-{n}")]
    shared.server.ask("ZADD", KEYS.registry().gone, *dead)
    shared.server.ask("PEXPIRE", KEYS.registry().gone, DAY_MS)
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
    shared.server.ask("ZADD", KEYS.registry().expiry, shared.time_ms() + 3_600_000, "n2")
    shared.server.ask("PEXPIRE", KEYS.registry().expiry, 60_000)
    await shared.register(one)
    assert float(shared.server.ask("ZSCORE", KEYS.registry().expiry, "n2")) <= shared.time_ms() + TTL_MS


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


async def test_a_first_life_is_noted_over_its_like_and_never_over_a_later_one(shared: Shared) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    for epoch, node, at in ((1, "n2", 8), (2, "n1", 7)):
        cid = f"c{epoch}"
        one.opened("ann", cid, 7, epoch)
        await one.nodes()
        two.opened("ann", cid, 8, 1)
        await two.nodes()
        await two.nodes()
        (status,) = await one.users(["ann"])
        assert UserConnection(cid, node, at) in status.connections
        assert await one.locate(cid) == Located("ann", node)


async def test_a_connection_that_is_withheld_is_noted_no_more_and_its_end_leaves_another_s_alone(
    shared: Shared,
) -> None:
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.register(registry)
    two.opened("ann", "c1", 8, 2)
    await two.nodes()
    one.opened("ann", "c1", 7, 2)
    one.withhold("c1")
    two.opened("ann", "c1", 8, 2)
    await one.nodes()
    one.renew_all()
    one.renew_due()
    one.closed("ann", "c1")
    await one.nodes()
    (status,) = await one.users(["ann"])
    assert status.connections == [UserConnection("c1", "n2", 8)]


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
        shared.server.ask("RESTORE", key, LEASE_MS, dumped)
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
    monkeypatch.setattr(own_connections, "RENEWALS_MAX", 2)
    one, two = shared.node("n1"), shared.node("n2")
    for registry in (one, two):
        await shared.restored(registry)
    cids = [f"c{n}" for n in range(5)]
    for n, cid in enumerate(cids):
        one.opened("ann", cid, n)
    await one.nodes()
    one.renew_all()
    for _ in range(4):
        one.renew_due()
        await one.nodes()
        await shared.register(one)
        (status,) = await two.users(["ann"])
        assert [c.cid for c in status.connections] == cids


async def test_a_node_that_could_not_note_everything_lets_nothing_end(shared: Shared) -> None:
    away = False
    queries = ServerQueries(shared.queries._batcher, lambda: away, slot_refused=lambda: None)
    registry = Shared(shared.server, queries).node("n1")
    registry.opened("ann", "c1", 1)
    await registry.nodes()
    registry.renew_all()
    away = True
    registry.renew_due()
    assert registry._own.least_incarnation == 0
    away = False
    registry.renew_due()
    await registry.nodes()
    assert registry._own.least_incarnation == registry._own._incarnation > 0


async def test_without_contact_nothing_is_asked_and_what_is_noted_is_kept() -> None:
    batcher = PipelineBatcher(RedisClient("unix:///nowhere").lane(), 1.0, lambda: None)
    registry = Shared(None, ServerQueries(batcher, lambda: True, slot_refused=lambda: None)).node("n1")  # type: ignore[arg-type]  # nobody asks it
    registry.opened("ann", "c1", 1)
    with pytest.raises(StoreAwayError):
        await registry.users(["ann"])
    with pytest.raises(StoreAwayError):
        await registry.send_command(Kick("c1", 1))
    assert list(registry._own._here) == ["c1"]


async def test_who_left_while_the_store_was_away_is_told_on_its_return(shared: Shared) -> None:
    away = False
    queries = ServerQueries(shared.queries._batcher, lambda: away, slot_refused=lambda: None)
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
    registry.renew_due()
    (status,) = await registry.users(["ann"])
    assert sorted(c.cid for c in status.connections) == ["c2", "c3", "c4"]


async def test_what_could_not_be_noted_is_noted_with_the_next_sweep(shared: Shared) -> None:
    away = True
    queries = ServerQueries(shared.queries._batcher, lambda: away, slot_refused=lambda: None)
    registry = Shared(shared.server, queries).node("n1")
    registry.opened("ann", "c1", 1)
    registry.opened("ann", "c2", 2)
    away = False
    registry.opened("ann", "c3", 3)
    registry.renew_due()
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
    shared.server.ask("ZREM", KEYS.registry().expiry, "n3", "n4")
    begins = shared.node("n5")
    for _ in range(2):
        await shared.register(begins)
    assert [silence > TTL_MS for silence in shared.silences] == [False, True, False, True]
