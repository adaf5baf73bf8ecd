"""What others write into the store: records and messages of another version, junk, and a kick."""

import anyio
import msgspec
import pytest

from presence_server.client import Joined, Left
from presence_server.presence import calls
from presence_server.presence.redis import SCRIPTS
from presence_server.presence.state import Leave, Operation, Sent
from presence_server.redis_io.keys import Keys
from tests.cluster.company import ROOM, TTL_S, StartNode, agreed, counts, raw_members, visiting
from tests.support.rawclient import speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["redis"], indirect=True)]

KEYS = Keys("ps")
TTL_MS = int(TTL_S * 1_000)
EXPIRY, MEMBERS = KEYS.room(ROOM)[:2]
NEWER = calls.FORMAT + 1


def carry_out(store: RedisServer, operation: Operation) -> None:
    """Do as another node would."""
    packed = calls.pack(operation)
    seconds, micros = store.ask("TIME")
    sent = Sent(seconds * 1_000 + micros // 1_000, late_ms=TTL_MS, hold_ms=TTL_MS)
    arguments = calls.arguments(KEYS.channel(ROOM), "77", TTL_MS, sent, packed.rows)
    store.ask("EVAL", SCRIPTS[packed.verb].text, 6, *KEYS.room(ROOM), *arguments)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"d" + msgspec.msgpack.encode([NEWER, "1", 9]), f"format {NEWER}"),
        (b"e" + bytes([NEWER]) + msgspec.msgpack.encode([["p", "c", "u", 1, "{}", 0]]), f"format {NEWER}"),
        (b"d" + msgspec.msgpack.encode([calls.FORMAT, "not a delta"]), "cannot be read"),
        (b"e" + bytes([calls.FORMAT]) + msgspec.msgpack.encode([["?", 1]]), "cannot be read"),
        (b"e", "cannot be read"),
        (b"\xff\x00", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
async def test_what_another_version_says_is_refused_by_name(
    start_node: StartNode, store: RedisServer, payload: bytes, named: str
) -> None:
    node = await start_node()
    async with visiting([node], ["ann", "bob"]) as visitors:
        await until(agreed(visitors, 2), counts(visitors))
        store.ask("PUBLISH", KEYS.channel(ROOM), payload)
        await until(lambda: named in node.log, lambda: node.log)
        await visitors[0].room.update({"still": "here"})
        cid = visitors[0].client.cid
        await until(lambda: visitors[1].room.members[cid].state == {"still": "here"})
        assert visitors[1].all(Left) == []


@pytest.mark.parametrize("packed", [[NEWER, "eve", 1, {"another": "shape"}], "junk"])
async def test_a_member_that_another_version_wrote_harms_nobody_and_expires(
    start_node: StartNode, store: RedisServer, packed: object
) -> None:
    node = await start_node()
    seconds, micros = store.ask("TIME")
    async with visiting([node], ["ann"]) as (ann,):
        store.ask("HSET", MEMBERS, "stranger", msgspec.msgpack.encode(packed))
        store.ask("ZADD", EXPIRY, seconds * 1_000 + micros // 1_000 + 5 * TTL_MS, "stranger")
        fresh = await start_node()
        async with visiting([fresh], ["bob"]) as (bob,):
            await until(lambda: {ann.client.cid, bob.client.cid} == set(bob.roster), counts([bob]))
            await until(lambda: store.ask("HEXISTS", MEMBERS, "stranger") == 0)
            assert {ann.client.cid, bob.client.cid} == set(bob.roster) == set(ann.roster)
        if packed != "junk":
            assert f"format {NEWER}" in fresh.log


async def test_a_room_that_cannot_be_used_harms_no_other(start_node: StartNode, store: RedisServer) -> None:
    node = await start_node()
    for part in KEYS.room("poisoned"):
        store.ask("SET", part, "not what it should be", "PX", 60_000)
    async with visiting([node], ["ann"]) as (ann,), speaking(node.port, "/ws?user=eve") as eve:
        refused = await eve.request(t="join", room="poisoned", id=1)
        assert refused["code"] == "internal"
        assert (await eve.request(t="join", room=ROOM, id=2))["count"] == 2
        assert (await eve.request(t="watch", room="poisoned", id=3))["count"] == 0
        await until(agreed([ann], 2), counts([ann]))
        assert not ann.room.stale
        assert "poisoned" in node.log


async def test_who_was_kicked_while_its_node_was_frozen_does_not_come_back(
    start_node: StartNode, store: RedisServer
) -> None:
    frozen, living = await start_node(), await start_node()
    async with visiting([living], ["ann"]) as (ann,), raw_members(frozen, ["eve", "bob"]) as (eve, bob):
        await until(agreed([ann], 3), counts([ann]))
        ann.forget_events()
        frozen.freeze()
        carry_out(store, Leave(eve.cid, 1, "kicked", fence=True))
        await until(lambda: ann.all(Left))
        frozen.thaw()
        assert (await eve.ending()).code == 4010
        await bob.request(t="update", room=ROOM, state={"after": "all"}, id=2)
        await until(lambda: ann.room.members[bob.cid].state == {"after": "all"})
        assert [(event.member.cid, event.reason) for event in ann.all(Left)] == [(eve.cid, "kicked")]
        assert [event.member.cid for event in ann.all(Joined)] == []


@pytest.mark.parametrize("after_s", [0.7, 0.9, 1.0, 1.1, 1.4])
async def test_a_resume_that_races_the_end_of_grace_leaves_no_ghost(
    start_node: StartNode, after_s: float
) -> None:
    here, there = await start_node(), await start_node()
    async with visiting([here, there], ["ann", "bob"]) as watchers, raw_members(here, ["eve"]) as (eve,):
        await until(agreed(watchers, 3), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        eve.reset()
        await anyio.sleep(after_s)
        async with speaking(there.port, f"/ws?user=eve&resume={eve.welcome['resume']}") as again:
            assert again.cid == eve.cid
            assert (await again.request(t="join", room=ROOM, id=1))["count"] == 3
            await until(agreed(watchers, 3), counts(watchers))
            await anyio.sleep(TTL_S + 1)
            assert agreed(watchers, 3)(), counts(watchers)()
            for watcher in watchers:
                left, joined = watcher.all(Left), watcher.all(Joined)
                assert len(left) == len(joined) <= 1


@pytest.mark.parametrize(
    "payload", [b"", b"nonsense", b"1-1 nonsense", b"9999999999999-0 \xc1", b"\xff\xfe", b"\x00"]
)
async def test_what_no_node_would_say_ends_no_node(
    start_node: StartNode, store: RedisServer, payload: bytes
) -> None:
    node = await start_node()
    async with visiting([node], ["ann"]) as (ann,):
        for channel in (KEYS.orders_channel(), KEYS.node_channel(node.id), KEYS.channel(ROOM)):
            assert store.ask("PUBLISH", channel, payload) == 1
        orders = KEYS.nodes()[4]
        store.ask("XADD", orders, "*", "o", payload)
        store.ask("PEXPIRE", orders, 60_000)
        await until(lambda: node.log.count('"warning"') >= 3, lambda: node.log)
        await ann.room.update({"still": "here"})
        assert not ann.room.stale
