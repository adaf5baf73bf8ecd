"""Nodes that die or freeze: their members leave once, and nobody leaves who comes back in time."""

import anyio
import pytest

from presence_server.client import Joined, Left
from tests.cluster.company import (
    QUICK,
    ROOM,
    TTL_S,
    StartNode,
    agreed,
    counts,
    raw_members,
    settled,
    visiting,
)
from tests.support.rawclient import speaking
from tests.support.waiting import until

# These faults are not the server's: one kind will do.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", ["redis"], indirect=True),
    pytest.mark.parametrize("pace", [QUICK], ids=["quick"]),
]

MANY = 200


async def test_a_killed_nodes_members_leave_once(start_node: StartNode) -> None:
    dying, *living = [await start_node() for _ in range(3)]
    users = [f"user-{i}" for i in range(MANY)]
    async with raw_members(dying, users) as members, visiting(living, ["ann", "bob"]) as watchers:
        await until(agreed(watchers, MANY + 2), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        dying.kill()
        await dying.wait()
        await until(lambda: all(len(w.all(Left)) >= MANY for w in watchers), counts(watchers))
        async with visiting([*living, await start_node()], ["new"] * 3) as newcomers:
            await until(agreed([*watchers, *newcomers], 5), counts(newcomers))
            for newcomer in newcomers:
                assert {e.member.user for e in newcomer.all(Joined) + newcomer.all(Left)} <= {"new"}
        for watcher in watchers:
            left = watcher.all(Left)
            gone = {member.cid: user for member, user in zip(members, users, strict=True)}
            seen = [(e.member.cid, e.member.user, e.reason) for e in left if e.member.user != "new"]
            assert sorted(seen) == sorted((cid, user, "timeout") for cid, user in gone.items())
            assert {e.member.user for e in watcher.all(Joined)} == {"new"}


async def test_a_resume_elsewhere_closes_the_first_connection_unseen(start_node: StartNode) -> None:
    here, there = await start_node(), await start_node()
    async with visiting([here, there], ["ann", "bob"]) as watchers, raw_members(here, ["eve"]) as (first,):
        await until(agreed(watchers, 3), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        async with speaking(there.port, f"/ws?user=eve&resume={first.welcome['resume']}") as second:
            assert second.welcome["resumed"]
            assert second.cid == first.cid
            assert (await first.ending()).code == 4010, "the claim alone closes it"
            await second.request(t="join", room=ROOM, id=1)
            await second.request(t="update", room=ROOM, state={"after": "all"}, id=2)
            cid = second.cid
            await until(lambda: all(w.room.members[cid].state == {"after": "all"} for w in watchers))
            for watcher in watchers:
                assert watcher.comings_and_goings == []


async def test_a_frozen_nodes_members_leave_once_and_come_back_once(start_node: StartNode) -> None:
    freezing, living = await start_node(), await start_node()
    async with (
        visiting([living], ["ann", "bob"]) as watchers,
        visiting([freezing], [f"user-{i}" for i in range(20)]) as members,
    ):
        everybody = [*watchers, *members]
        await until(settled(everybody, 22), counts(everybody))
        for watcher in watchers:
            watcher.forget_events()
        freezing.freeze()
        await until(agreed(watchers, 2), counts(watchers))
        freezing.thaw()
        await until(settled(everybody, 22), counts(everybody))
        await anyio.sleep(TTL_S + 1)
        assert agreed(everybody, 22)()
        cids = sorted(member.client.cid for member in members)
        for watcher in watchers:
            assert sorted(event.member.cid for event in watcher.all(Left)) == cids
            assert {event.reason for event in watcher.all(Left)} == {"timeout"}
            assert sorted(event.member.cid for event in watcher.all(Joined)) == cids
