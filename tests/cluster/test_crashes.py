"""Nodes that die or freeze: their members leave once, and nobody leaves who comes back in time."""

import time
from contextlib import AsyncExitStack

import anyio
import pytest

from presence_server.client import Joined, Left
from tests.cluster.company import ROOM, TTL_S, StartNode, agreed, counts, raw_members, visiting
from tests.support.rawclient import EndedError, RawClient, speaking
from tests.support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.anyio

MANY = 200
SLACK_S = 1.0
"""What a busy machine may take on top of what is promised."""


async def test_a_killed_nodes_members_leave_once_by_ttl(start_node: StartNode) -> None:
    dying, *living = [await start_node() for _ in range(3)]
    users = [f"user-{i}" for i in range(MANY)]
    async with raw_members(dying, users) as members, visiting(living, ["ann", "bob"]) as watchers:
        await until(agreed(watchers, MANY + 2), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        dying.kill()
        killed = time.monotonic()
        await dying.wait()
        await until(lambda: all(len(w.all(Left)) >= MANY for w in watchers), counts(watchers))
        assert time.monotonic() - killed < TTL_S + 1 + SLACK_S
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


async def test_a_sync_shows_no_ghost_once_its_time_is_over(start_node: StartNode) -> None:
    dying, living = await start_node(), await start_node()
    async with raw_members(dying, [f"user-{i}" for i in range(MANY)]), visiting([living], ["ann"]) as (ann,):
        await until(agreed([ann], MANY + 1), counts([ann]))
        dying.kill()
        killed = time.monotonic()
        await dying.wait()
        shown = []
        while time.monotonic() - killed < TTL_S + 3:
            begun = time.monotonic() - killed
            async with speaking(living.port, "/ws?user=looks") as client:
                sync = await client.request(t="join", room=ROOM, id=1)
                users = {member["user"] for member in sync["members"]}
                shown.append((begun, len(users - {"ann", "looks"})))
                await client.request(t="leave", room=ROOM, id=2)
            await anyio.sleep(0.05)
        assert shown[-1][1] == 0
        ghosts = [at for at, number in shown if number]
        assert max(ghosts, default=0) < TTL_S + 1 + SLACK_S, shown


async def test_nobody_sees_clients_of_a_killed_node_that_resume_elsewhere(start_node: StartNode) -> None:
    dying, *living = [await start_node() for _ in range(3)]
    users = [f"user-{i}" for i in range(20)]
    async with (
        AsyncExitStack() as stack,
        raw_members(dying, users) as members,
        visiting(living, ["ann", "bob"]) as watchers,
    ):
        await until(agreed(watchers, 22), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        dying.kill()
        await dying.wait()
        resumed = []
        for i, (member, user) in enumerate(zip(members, users, strict=True)):
            path = f"/ws?user={user}&resume={member.welcome['resume']}"
            again = await stack.enter_async_context(speaking(living[i % 2].port, path))
            assert again.welcome["resumed"]
            assert again.cid == member.cid
            assert (await again.request(t="join", room=ROOM, id=1))["count"] == 22
            resumed.append(again)
        # Longer than anything that was going to expire; then something to wait for that comes after it.
        await anyio.sleep(TTL_S + 1)
        await resumed[0].request(t="update", room=ROOM, state={"after": "all"}, id=2)
        cid = resumed[0].cid
        await until(lambda: all(w.room.members[cid].state == {"after": "all"} for w in watchers))
        for watcher in watchers:
            assert watcher.comings_and_goings == []


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
            await anyio.sleep(TTL_S + 1)
            await second.request(t="update", room=ROOM, state={"after": "all"}, id=2)
            cid = second.cid
            await until(lambda: all(w.room.members[cid].state == {"after": "all"} for w in watchers))
            for watcher in watchers:
                assert watcher.comings_and_goings == []


async def test_of_two_resumes_at_once_one_wins(start_node: StartNode) -> None:
    nodes = [await start_node() for _ in range(3)]
    async with visiting(nodes, ["ann", "bob", "cem"]) as watchers, raw_members(nodes[0], ["eve"]) as (first,):
        await until(agreed(watchers, 4), counts(watchers))
        for watcher in watchers:
            watcher.forget_events()
        path = f"/ws?user=eve&resume={first.welcome['resume']}"
        open_, losers, entered = {1: True, 2: True}, [], []
        async with RawClient(nodes[1].port) as second, RawClient(nodes[2].port) as third:
            rivals = {1: second, 2: third}

            async def resume(number: int) -> None:
                rival = rivals[number]
                try:
                    await rival.upgrade(path)
                    assert rival.cid == first.cid
                    assert rival.welcome["resumed"]
                    await rival.say(t="join", room=ROOM, id=1)
                    entered.append(number)
                    losers.append((await rival.ending()).code)
                except EndedError:
                    losers.append(None)
                open_[number] = False

            with anyio.move_on_after(DEADLINE_S) as patience:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(resume, 1)
                    tasks.start_soon(resume, 2)
                    await until(lambda: losers and entered)
                    await anyio.sleep(TTL_S + 1)
                    tasks.cancel_scope.cancel()
            assert not patience.cancelled_caught
            assert losers == [4010]
            (winner,) = [rivals[number] for number, is_open in open_.items() if is_open]
            await winner.say(t="update", room=ROOM, state={"after": "all"}, id=2)
            cid = first.cid
            await until(lambda: all(w.room.members[cid].state == {"after": "all"} for w in watchers))
            assert (await first.ending()).code == 4010
            for watcher in watchers:
                assert watcher.comings_and_goings == []


async def test_a_frozen_nodes_members_leave_once_and_come_back_once(start_node: StartNode) -> None:
    freezing, living = await start_node(), await start_node()
    async with (
        visiting([living], ["ann", "bob"]) as watchers,
        visiting([freezing], [f"user-{i}" for i in range(20)]) as members,
    ):
        everybody = [*watchers, *members]
        await until(agreed(everybody, 22), counts(everybody))
        for watcher in watchers:
            watcher.forget_events()
        freezing.freeze()
        await until(agreed(watchers, 2), counts(watchers))
        freezing.thaw()
        await until(agreed(everybody, 22), counts(everybody))
        await until(lambda: not any(v.room.stale for v in everybody), counts(everybody))
        await anyio.sleep(TTL_S + 1)
        assert agreed(everybody, 22)()
        cids = sorted(member.client.cid for member in members)
        for watcher in watchers:
            assert sorted(event.member.cid for event in watcher.all(Left)) == cids
            assert {event.reason for event in watcher.all(Left)} == {"timeout"}
            assert sorted(event.member.cid for event in watcher.all(Joined)) == cids
