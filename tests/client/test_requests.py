"""What a client asks for, and what it is told."""

import anyio
import pytest

from presence_server.client import (
    Joined,
    Message,
    Overflow,
    Removed,
    RequestFailed,
    Signal,
    StaleChanged,
    Synced,
    connect,
)
from presence_server.client.errors import ClientClosed, ConnectionLost
from tests.client.peer import DEADLINE_S, Conversation, Peer, diff, member, sync

pytestmark = pytest.mark.anyio


async def test_join_returns_once_the_whole_roster_is_there() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        request = await talk.answer(**sync(member("c1"), cursor="after-c1", count=3))
        assert request == {"t": "join", "room": "lobby", "state": {"n": 1}, "id": request["id"]}
        await talk.send(diff(joins=[member("c9")], count=4))
        request = await talk.answer(t="page", members=[member("c2")], cursor="after-c2")
        assert (request["t"], request["cursor"]) == ("members", "after-c1")
        request = await talk.answer(t="page", members=[member("c3"), member("c1")], cursor=None)
        assert request["cursor"] == "after-c2"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby", state={"n": 1})
        assert set(room.members) == {"c1", "c2", "c3", "c9"}
        assert not room.stale
        assert room.count == 4


async def test_a_client_names_itself_in_the_url_and_its_token_in_a_header() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.until_closed()

    async with Peer(script) as peer:
        url = f"{peer.url}?zone=a%26b"
        async with connect(url, user="Zoë & co", info={"name": "Zoë"}, token="t0", headers={"X-Via": "test"}):
            pass
        request = peer.requests[0]
        assert (
            request.path == "/ws?zone=a%26b&user=Zo%C3%AB%20%26%20co&info=%7B%22name%22%3A%22Zo%C3%AB%22%7D"
        )
        assert request.headers["Authorization"] == "Bearer t0"
        assert request.headers["X-Via"] == "test"


async def test_a_refused_request_says_why() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c-me")))
        await talk.answer(t="error", code="conflict", message="not at 1", v=4)
        await talk.answer(t="error", code="throttled", message="too fast", retry_after_ms=1200)
        await talk.answer(t="ok", v=5)
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby", state={"n": 0})
        with pytest.raises(RequestFailed) as conflict:
            await room.update({"n": 1}, if_version=1)
        assert (conflict.value.code, conflict.value.v) == ("conflict", 4)
        assert room.state == {"n": 0}
        with pytest.raises(RequestFailed) as throttled:
            await room.publish("x")
        assert throttled.value.retry_after_ms == 1200
        assert await room.update({"n": 2}) == 5
        assert room.state == {"n": 2}


async def test_replies_find_their_requests_in_any_order() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        requests = [await talk.receive() for _ in range(3)]
        for request in reversed(requests):
            await talk.send({"t": "ok", "id": request["id"], "at": request["data"] * 1000})
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.watch("lobby")
        times: dict[int, int] = {}

        async def publish(n: int) -> None:
            times[n] = await room.publish(n)

        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(publish, n)
        assert times == {0: 0, 1: 1000, 2: 2000}


async def test_a_refused_join_leaves_nothing_behind() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(t="error", code="forbidden", message="members only")
        await talk.answer(**sync())
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        with pytest.raises(RequestFailed, match="forbidden"):
            await client.join("lobby")
        await client.watch("lobby")


async def test_a_join_that_was_cancelled_is_taken_back() -> None:
    asked, given_up, left = anyio.Event(), anyio.Event(), anyio.Event()

    async def script(talk: Conversation) -> None:
        await talk.welcome()
        join = await talk.receive()
        asked.set()
        await given_up.wait()
        await talk.send({**sync(), "id": join["id"]})
        assert await talk.receive() == {"t": "leave", "room": "lobby"}
        left.set()
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.join, "lobby")
                await asked.wait()
                tasks.cancel_scope.cancel()
            given_up.set()
            await left.wait()


async def test_what_happens_in_a_room_comes_to_its_iterator_and_to_the_clients() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c-me")))
        await talk.send(
            diff(joins=[member("c1", "ann")], count=2),
            {"t": "message", "room": "lobby", "cid": "c1", "user": "ann", "data": ["hi"], "at": 5},
            {"t": "signal", "room": "lobby", "cid": "c1", "user": "ann", "key": "cursor", "data": {"x": 1}},
            {"t": "stale", "room": "lobby", "stale": True},
            {"t": "message", "room": None, "cid": None, "user": None, "data": "to you", "at": 6},
            {"t": "from-a-newer-server", "room": "lobby"},
        )
        assert (await talk.answer(t="ok"))["t"] == "leave"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby")
        events = []
        with anyio.fail_after(DEADLINE_S):
            async for event in room:
                events.append(event)
                if isinstance(event, StaleChanged):
                    break
        assert [type(event) for event in events] == [Synced, Joined, Message, Signal, StaleChanged]
        assert events[2] == Message("lobby", "c1", "ann", ["hi"], 5)
        assert room.stale
        await room.leave()
        assert [event async for event in room] == []
        await client.close()
        seen = [event async for event in client]
        assert [event for event in seen if event in events] == events
        assert Message(None, None, None, "to you", 6) in seen


async def test_a_room_that_nobody_listens_to_does_not_stop_the_others() -> None:
    total = 300

    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(room="lobby"))
        for n in range(total):
            await talk.send({"t": "message", "room": "lobby", "cid": "c1", "user": "a", "data": n, "at": n})
        await talk.send(diff(joins=[member("c1")]))
        await talk.answer(t="pong", time=1)
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url, events_max=10) as client:
        room = await client.watch("lobby")
        with anyio.fail_after(DEADLINE_S):
            assert await client.ping() > 0
        assert set(room.members) == {"c1"}
        await client.close()
        events = [event async for event in room]
        assert events[0] == Overflow(total + 2 - 10)
        assert events[-1] == Joined("lobby", room.members["c1"])
        assert len(events) == 11


async def test_what_json_cannot_say_and_what_is_too_large_is_not_sent() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome(limits={"message_bytes": 200})
        await talk.answer(**sync())
        assert (await talk.answer(t="pong", time=1))["t"] == "ping"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby")
        with pytest.raises(ValueError, match="finite"):
            await room.publish(float("nan"))
        with pytest.raises(ValueError, match="bytes"):
            await room.update({"picture": b"..."})
        with pytest.raises(RequestFailed, match="too_large"):
            await room.publish("x" * 200)
        await client.ping()


async def test_after_close_everything_says_closed() -> None:
    codes: list[int | None] = []

    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        codes.append(await talk.until_closed())

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby")
        await client.close()
        assert not client.connected
        for refused in (
            room.publish(1),
            room.update({}),
            room.signal("k", 1),
            client.ping(),
            client.join("b"),
        ):
            with pytest.raises(ClientClosed):
                await refused
    assert codes == [1000]


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.until_closed()

    async with Peer(script) as peer:
        with pytest.raises(KeyError, match="mine"):
            async with connect(peer.url):
                raise KeyError("mine")


async def test_no_server_in_time_is_an_error(free_tcp_port: int) -> None:
    with pytest.raises(ConnectionLost, match="ConnectionRefusedError"):
        async with connect(f"ws://127.0.0.1:{free_tcp_port}/ws", first_connection_s=0.3):
            pytest.fail("there is nothing to connect to")


@pytest.mark.parametrize("arguments", [{"url": "http://x/ws"}, {"resume": "a b"}, {"encoding": "xml"}])
async def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"not a|no encoding"):
        async with connect(**({"url": "ws://127.0.0.1:1/ws"} | arguments)):  # type: ignore[arg-type]  # by name
            pytest.fail("connected")


async def test_who_is_removed_from_a_room_is_told_and_stays_connected() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c-me")))
        await talk.answer(**sync(member("c-me"), room="hall"))
        await talk.send({"t": "message", "room": "lobby", "cid": "c1", "user": "u", "data": 1, "at": 1})
        await talk.send({"t": "removed", "room": "lobby", "reason": "forbidden"})
        assert (await talk.answer(t="ok", at=5))["room"] == "hall"
        assert (await talk.answer(**sync(member("c-me"))))["t"] == "join"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        room = await client.join("lobby", state={"n": 1})
        hall = await client.join("hall")
        events = aiter(room)
        with anyio.fail_after(DEADLINE_S):
            assert [event async for event in events][-2:] == [
                Message("lobby", "c1", "u", 1, 1),
                Removed("lobby", "forbidden"),
            ]
        assert room.stale
        with pytest.raises(RequestFailed, match="removed from lobby"):
            await room.publish(1)
        assert await hall.publish(1) == 5
        again = await client.join("lobby")  # a fresh one: nothing of the old one is announced
        assert set(again.members) == {"c-me"}
        assert again.state is None


@pytest.mark.parametrize("known", [False, True])
async def test_a_join_that_meets_a_removal_is_refused(known: bool) -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        if known:
            await talk.answer(**sync(member("c-me")))
        request = await talk.receive()
        await talk.send({"t": "removed", "room": "lobby", "reason": "kicked"})
        await talk.send(
            {"t": "error", "id": request["id"], "room": "lobby", "code": "forbidden", "message": "no"}
        )
        assert (await talk.answer(t="pong", time=1))["t"] == "ping"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        if known:
            await client.join("lobby")
        with anyio.fail_after(DEADLINE_S), pytest.raises(RequestFailed, match="forbidden"):
            await client.join("lobby", state={"n": 1})
        await client.ping()


async def test_a_join_that_waits_for_its_roster_is_refused_by_a_removal() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c1"), cursor="after-c1", count=3))
        await talk.receive()
        await talk.send({"t": "removed", "room": "lobby", "reason": "kicked"})
        assert (await talk.answer(t="pong", time=1))["t"] == "ping"
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        with anyio.fail_after(DEADLINE_S), pytest.raises(RequestFailed, match="removed from lobby: kicked"):
            await client.join("lobby")
        await client.ping()
