"""What others write into the store: records and messages of another version, junk, and a kick."""

import msgspec
import pytest

from presence_server.client import Left
from presence_server.presence import script_calls
from presence_server.redis_io.keys import Keys
from tests.cluster.company import ROOM, TTL_S, StartNode, agreed, counts, visiting
from tests.support.rawclient import speaking
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["redis"], indirect=True)]

KEYS = Keys("ps")
TTL_MS = int(TTL_S * 1_000)
EXPIRY, MEMBERS = KEYS.room(ROOM)[:2]
NEWER = script_calls.FORMAT + 1


async def test_what_another_version_says_is_refused_by_name(
    start_node: StartNode, store: RedisServer
) -> None:
    node = await start_node()
    said = (
        (b"d" + msgspec.msgpack.encode([NEWER, "1", 9]), f"format {NEWER}"),
        (b"e" + bytes([NEWER]) + msgspec.msgpack.encode([["p", "c", "u", 1, "{}", 0]]), f"format {NEWER}"),
        (b"d" + msgspec.msgpack.encode([script_calls.FORMAT, "not a delta"]), "cannot be read"),
        (b"e" + bytes([script_calls.FORMAT]) + msgspec.msgpack.encode([["?", 1]]), "cannot be read"),
        (b"e", "cannot be read"),
        (b"\xff\x00", "cannot be read"),
        (b"", "cannot be read"),
    )
    async with visiting([node], ["ann", "bob"]) as (ann, bob):
        await until(agreed([ann, bob], 2), counts([ann, bob]))
        for n, (payload, named) in enumerate(said):
            before = node.log.count(named)
            store.ask("PUBLISH", KEYS.channel(ROOM), payload)
            await until(lambda: node.log.count(named) > before, lambda: (payload, node.log))  # noqa: B023 - awaited here
            await ann.room.update({"still": n})
            await until(lambda: bob.room.members[ann.client.cid].state == {"still": n})  # noqa: B023 - awaited here
        assert bob.all(Left) == []


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


async def test_what_no_node_would_say_ends_no_node(start_node: StartNode, store: RedisServer) -> None:
    node = await start_node()
    commands = KEYS.registry().commands
    async with visiting([node], ["ann"]) as (ann,):
        for n, payload in enumerate(
            (b"", b"nonsense", b"1-1 nonsense", b"9999999999999-0 \xc1", b"\xff\xfe", b"\x00")
        ):
            before = node.log.count('"warning"')
            for channel in (KEYS.commands_channel(), KEYS.node_channel(node.id), KEYS.channel(ROOM)):
                assert store.ask("PUBLISH", channel, payload) == 1
            store.ask("XADD", commands, "*", "o", payload)
            store.ask("PEXPIRE", commands, 60_000)
            await until(
                lambda: node.log.count('"warning"') >= before + 3,  # noqa: B023 - awaited here
                lambda: (payload, node.log),  # noqa: B023 - awaited here
            )
            await ann.room.update({"still": n})
            assert not ann.room.stale
