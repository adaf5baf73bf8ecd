"""The client and the real server, as two processes: what each sees of the other."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from presence_server.client import (
    Client,
    Connected,
    ConnectionEnded,
    Disconnected,
    Event,
    Joined,
    Left,
    Message,
    RequestFailed,
    Room,
    Signal,
    Synced,
    Updated,
    connect,
)
from presence_server.client.message_codec import Encoding
from tests.support.node import Node

pytestmark = pytest.mark.anyio

DEADLINE_S = 20
POLL_S = 0.01


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node(tmp_path, "--presence.grace_lost_ms", "5000") as node:
        yield node


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what it looks at has no event to wait for
            await anyio.sleep(POLL_S)


async def until(events: AsyncIterator[Event], kind: type[Event]) -> list[Event]:
    """Take events up to the first of a kind."""
    taken: list[Event] = []
    with anyio.fail_after(DEADLINE_S):
        async for event in events:
            taken.append(event)
            if isinstance(event, kind):
                break
    return taken


def same(*rooms: Room) -> bool:
    return all(dict(room.members) == dict(rooms[0].members) for room in rooms)


async def drop(client: Client) -> None:
    """Lose the connection as a network does: no close frame."""
    link = client._reconnector.link
    assert link is not None
    link._socket._connection.transport.abort()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_two_clients_see_each_other_join_move_type_update_and_leave(
    node: Node, encoding: Encoding
) -> None:
    async with (
        connect(node.ws_url, user="alice", info={"name": "Alice"}) as alice,
        connect(node.ws_url, user="bob", encoding=encoding) as bob,
    ):
        hers = await alice.join("lobby", state={"status": "here"})
        his = await bob.join("lobby")
        assert his.members[alice.cid].state == {"status": "here"}
        assert his.users["alice"].info == {"name": "Alice"}
        assert his.me is not None
        assert (his.count, his.user_count, his.mode, his.stale) == (2, 2, "full", False)
        joined = (await until(aiter(hers), Joined))[-1]
        assert isinstance(joined, Joined)
        assert joined.member == his.me

        assert await bob_updates(his) == 2
        updated = (await until(aiter(hers), Updated))[-1]
        assert isinstance(updated, Updated)
        assert (updated.member.state, updated.previous.state) == ({"status": "away", "näme": [1, 2.5]}, {})

        at = await his.publish({"text": "hi"})
        assert (await until(aiter(hers), Message))[-1] == Message("lobby", bob.cid, "bob", {"text": "hi"}, at)
        await his.signal("cursor", {"x": 1})
        assert (await until(aiter(hers), Signal))[-1] == Signal("lobby", bob.cid, "bob", "cursor", {"x": 1})

        await his.leave()
        left = (await until(aiter(hers), Left))[-1]
        assert isinstance(left, Left)
        assert (left.member.user, left.reason) == ("bob", "left")
        assert list(hers.users) == ["alice"]


async def bob_updates(room: Room) -> int:
    return await room.update({"status": "away", "näme": [1, 2.5]})


async def test_a_second_tab_is_the_same_user(node: Node) -> None:
    async with (
        connect(node.ws_url, user="alice") as first,
        connect(node.ws_url, user="alice") as second,
        connect(node.ws_url, user="bob") as bob,
    ):
        await first.join("lobby")
        await second.join("lobby")
        room = await bob.watch("lobby")
        assert (room.count, room.user_count) == (2, 1)
        assert {member.cid for member in room.users["alice"].members} == {first.cid, second.cid}
        assert room.me is None


async def test_a_lost_connection_resumes_and_nobody_sees_it(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice, connect(node.ws_url, user="bob") as bob:
        hers = await alice.join("lobby", state={"n": 1})
        his = await bob.join("lobby")
        await until(aiter(his), Synced)
        await hers.update({"n": 2})
        await until(aiter(his), Updated)
        cid = alice.cid
        await until(aiter(alice), Connected)
        await drop(alice)
        await until(aiter(alice), Connected)
        assert alice.resumed
        assert alice.cid == cid
        await eventually(lambda: not hers.stale)
        await hers.publish("back")
        assert [type(event) for event in await until(aiter(his), Message)] == [Message]
        assert his.members[cid].state == {"n": 2}
        assert same(hers, his)


async def test_what_happened_meanwhile_comes_as_events_after_the_reconnect(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice, connect(node.ws_url, user="bob") as bob:
        his = await bob.join("lobby")
        hers = await alice.watch("lobby")
        await until(aiter(hers), Synced)
        await until(aiter(alice), Connected)
        await drop(alice)
        await until(aiter(alice), Disconnected)
        await his.update({"away": True})
        async with connect(node.ws_url, user="carol") as carol:
            await carol.join("lobby")
            await until(aiter(hers), Synced)
            await eventually(lambda: {"bob", "carol"} == set(hers.users))
            assert hers.members[bob.cid].state == {"away": True}


async def test_a_killed_server_that_comes_back_finds_its_clients_again(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice, connect(node.ws_url, user="bob") as bob:
        hers = await alice.join("lobby", state={"n": 1})
        his = await bob.join("lobby", state={"n": 2})
        before = node.id
        node.kill()
        await node.wait()
        await eventually(lambda: hers.stale and his.stale)
        await node.start()
        await eventually(
            lambda: not hers.stale and not his.stale and len(hers.members) == 2 and same(hers, his)
        )
        assert alice.node == node.id != before
        assert {member.state["n"] for member in hers.members.values()} == {1, 2}


async def test_a_drained_server_sends_its_clients_on_their_way(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice:
        await alice.join("lobby")
        await node.stop()
        events = await until(aiter(alice), Disconnected)
        assert isinstance(events[-1], Disconnected)
        assert events[-1].code == 4200


async def test_a_roster_of_several_pages_is_complete(tmp_path: Path) -> None:
    everybody = 600
    args = ("--throttle.connect", "", "--throttle.concurrent_per_ip", "100000")
    async with Node(tmp_path, *args) as big, connect(big.ws_url, user="watcher") as watcher:
        async with anyio.create_task_group() as tasks:
            leave = anyio.Event()
            inside = 0

            async def visit(n: int) -> None:
                nonlocal inside
                async with connect(big.ws_url, user=f"u{n % 50}", events_max=10) as client:
                    await client.join("lobby", state={"n": n}, mode="none")
                    inside += 1
                    await leave.wait()

            for n in range(everybody):
                tasks.start_soon(visit, n)
                if n % 50 == 0:
                    await anyio.sleep(POLL_S)
            await eventually(lambda: inside == everybody)
            room = await watcher.watch("lobby")
            assert len(room.members) == room.count == everybody
            assert len(room.users) == room.user_count == 50
            leave.set()
        await eventually(lambda: not room.members)


async def test_counts_without_a_roster(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice, connect(node.ws_url, user="bob") as bob:
        room = await alice.watch("lobby", mode="count")
        await bob.join("lobby")
        await eventually(lambda: (room.count, room.user_count) == (1, 1))
        assert room.mode == "count"
        assert not room.members


async def test_a_stale_version_is_a_conflict(node: Node) -> None:
    async with connect(node.ws_url, user="alice") as alice:
        room = await alice.join("lobby")
        assert await room.update({"n": 1}, if_version=1) == 2
        with pytest.raises(RequestFailed) as conflict:
            await room.update({"n": 2}, if_version=1)
        assert (conflict.value.code, conflict.value.v) == ("conflict", 2)
        assert room.state == {"n": 1}


async def test_a_resume_token_continues_in_another_process(node: Node) -> None:
    async with connect(node.ws_url, user="bob") as bob:
        room = await bob.join("lobby")
        await until(aiter(room), Synced)
        async with connect(node.ws_url, user="alice") as alice:
            await alice.join("lobby")
            await until(aiter(room), Joined)
        async with connect(node.ws_url, user="alice", resume=alice.resume_token) as heir:
            assert heir.resumed
            assert heir.cid == alice.cid
            hers = await heir.join("lobby")
            await hers.publish("it is me")
            assert [type(event) for event in await until(aiter(room), Message)] == [Message]


async def test_of_two_connections_with_one_token_the_later_wins(node: Node) -> None:
    later: list[str] = []

    async def replace() -> None:
        async with (
            connect(node.ws_url, user="alice") as first,
            connect(node.ws_url, user="alice", resume=first.resume_token) as second,
        ):
            later.append(second.cid)
            assert second.cid == first.cid
            await anyio.sleep_forever()

    with pytest.raises(ConnectionEnded, match="4010"), anyio.fail_after(DEADLINE_S):
        await replace()
    assert later


async def test_round_trips_are_measured(node: Node) -> None:
    async with connect(node.ws_url) as guest:
        assert guest.user.startswith("guest-")
        assert 0 < await guest.ping() < DEADLINE_S
        assert guest.limits["message_bytes"] == 16384
