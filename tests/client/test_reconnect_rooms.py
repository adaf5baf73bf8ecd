"""What becomes of rooms, and of requests in them, when a connection ends and the client comes back."""

import anyio
import pytest

from presence_server.client import (
    Connected,
    ConnectionLost,
    Disconnected,
    Joined,
    Left,
    RequestFailed,
    RoomLost,
    Synced,
    Updated,
    connect,
)
from tests.client.peer import DEADLINE_S, Conversation, Peer, member, sync, until

pytestmark = pytest.mark.anyio


async def test_after_a_loss_the_room_is_entered_again_and_what_changed_comes_as_events() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c-me"), member("c1"), member("c2")))
        await talk.answer(t="ok", v=2)
        await talk.vanish()

    async def second(talk: Conversation) -> None:
        await talk.welcome(resumed=True, resume="token-2")
        mine = member("c-me", state={"n": 2}, v=2)
        request = await talk.answer(**sync(mine, member("c1", state={"away": True}, v=2), member("c3")))
        assert request == {
            "t": "join",
            "room": "lobby",
            "state": {"n": 2},
            "mode": "full",
            "id": request["id"],
        }
        await talk.until_closed()

    async with Peer(first, second) as peer, connect(peer.url) as client:
        room = await client.join("lobby", state={"n": 1}, mode="full")
        await until(aiter(room), Synced)
        await room.update({"n": 2})
        events = await until(aiter(room), Synced)
        assert {
            (type(event), event.member.cid)
            for event in events[:-1]
            if isinstance(event, Joined | Updated | Left)
        } == {
            (Updated, "c-me"),
            (Updated, "c1"),
            (Joined, "c3"),
            (Left, "c2"),
        }
        assert len(events) == 5
        assert set(room.members) == {"c-me", "c1", "c3"}
        assert client.resumed
        assert client.resume_token == "token-2"
        assert not room.stale
        assert peer.requests[1].headers["Sec-WebSocket-Protocol"] == "presence.v1.json, resume.token-1"


async def test_requests_in_flight_are_lost_with_the_connection_but_a_join_is_asked_again() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(room="lobby"))
        kinds = sorted([(await talk.receive())["t"] for _ in range(3)])
        assert kinds == ["join", "publish", "update"]
        await talk.vanish()

    async def second(talk: Conversation) -> None:
        await talk.welcome()
        for _ in range(2):
            request = await talk.receive()
            mine = member("c-me", state=request["state"])
            await talk.send({**sync(mine, room=request["room"]), "id": request["id"]})
        await talk.until_closed()

    outcomes: dict[str, str] = {}
    async with Peer(first, second) as peer, connect(peer.url) as client:
        lobby = await client.join("lobby", state={"n": 1})

        async def publish() -> None:
            with pytest.raises(ConnectionLost):
                await lobby.publish("x")
            outcomes["publish"] = "lost"

        async def update() -> None:
            with pytest.raises(ConnectionLost):
                await lobby.update({"n": 2})
            outcomes["update"] = "lost"

        async def join() -> None:
            room = await client.join("yard", state={"n": 3})
            outcomes["join"] = str(room.me and room.me.state)

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                for request in (publish, update, join):
                    tasks.start_soon(request)
            await until(aiter(lobby), Synced)
            await until(aiter(lobby), Synced)
        assert outcomes == {"publish": "lost", "update": "lost", "join": "{'n': 3}"}
        assert lobby.me is not None
        assert lobby.me.state == {"n": 2}


async def test_while_there_is_no_connection_requests_say_so_and_the_roster_stays() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c1")))
        await talk.close(4100, reconnect_ms=60_000)

    async with Peer(first) as peer, connect(peer.url) as client:
        room = await client.watch("lobby")
        await until(aiter(client), Disconnected)
        assert not client.connected
        assert room.stale
        assert set(room.members) == {"c1"}
        with pytest.raises(ConnectionLost):
            await room.publish(1)
        with pytest.raises(ConnectionLost):
            await client.ping()
        await room.leave()


async def test_a_request_right_after_a_reconnect_waits_for_the_room() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        await talk.close(4200, reconnect_ms=1)

    async def second(talk: Conversation) -> None:
        await talk.welcome()
        assert (await talk.answer(**sync()))["t"] == "join"
        assert (await talk.answer(t="ok", at=5))["t"] == "publish"
        await talk.close(4200, reconnect_ms=1)

    async def third(talk: Conversation) -> None:
        await talk.welcome()
        assert (await talk.receive())["t"] == "join"
        await talk.close(4100, reconnect_ms=60_000)

    async with Peer(first, second, third) as peer, connect(peer.url) as client:
        room = await client.join("lobby")
        await until(aiter(client), Connected)
        await until(aiter(client), Connected)
        assert room.stale
        assert await room.publish("first words") == 5
        await until(aiter(client), Connected)
        with anyio.fail_after(DEADLINE_S), pytest.raises(ConnectionLost):
            await room.publish("last words")


async def test_a_room_that_was_left_while_away_is_not_entered_again() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(room="lobby"))
        await talk.answer(**sync(room="yard"))
        await talk.close(4200, reconnect_ms=100)

    async def second(talk: Conversation) -> None:
        await talk.welcome()
        request = await talk.answer(**sync(room="yard"))
        assert (request["t"], request["room"]) == ("watch", "yard")
        request = await talk.answer(t="pong", time=1)
        assert request["t"] == "ping"
        await talk.until_closed()

    async with Peer(first, second) as peer, connect(peer.url) as client:
        lobby, yard = await client.join("lobby"), await client.watch("yard")
        await until(aiter(yard), Synced)
        await until(aiter(client), Disconnected)
        await lobby.leave()
        await until(aiter(yard), Synced)
        await client.ping()


async def test_a_join_that_was_under_way_is_asked_once_on_the_next_connection() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.receive()
        await talk.close(4200, reconnect_ms=1)

    async def second(talk: Conversation) -> None:
        await talk.welcome()
        assert (await talk.answer(**sync()))["t"] == "join"
        assert (await talk.answer(t="pong", time=1))["t"] == "ping"
        await talk.until_closed()

    async with Peer(first, second) as peer, connect(peer.url) as client:
        await client.join("lobby")
        await client.ping()


async def test_a_throttled_reentry_is_tried_again_and_a_forbidden_one_loses_the_room() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(room="lobby"))
        await talk.answer(**sync(room="yard"))
        await talk.vanish()

    async def second(talk: Conversation) -> None:
        await talk.welcome()
        for _ in range(2):
            request = await talk.receive()
            code = "throttled" if request["room"] == "yard" else "forbidden"
            await talk.send(
                {"t": "error", "id": request["id"], "code": code, "message": "no", "retry_after_ms": 1}
            )
        assert (await talk.answer(**sync(member("c-me"), room="yard")))["room"] == "yard"
        await talk.until_closed()

    async with Peer(first, second) as peer, connect(peer.url) as client:
        lobby, yard = await client.join("lobby"), await client.join("yard")
        await until(aiter(yard), Synced)
        await until(aiter(yard), Synced)
        assert yard.me is not None
        events = [event async for event in lobby]
        assert events[-1] == RoomLost("lobby", "forbidden", "no")


async def test_a_page_of_an_older_roster_does_not_complete_a_newer_one() -> None:
    both_are_asked_for = anyio.Event()

    async def script(talk: Conversation) -> None:
        await talk.welcome()
        join = await talk.receive()
        await talk.send({**sync(member("c1"), cursor="old"), "id": join["id"]})
        old = await talk.receive()
        await talk.send(sync(member("c1"), cursor="new"))
        new = await talk.receive()
        assert (old["cursor"], new["cursor"]) == ("old", "new")
        await talk.send({"t": "page", "id": old["id"], "room": "lobby", "members": [], "cursor": None})
        both_are_asked_for.set()
        await talk.answer(t="pong", time=1)
        await talk.send(
            {"t": "page", "id": new["id"], "room": "lobby", "members": [member("c2")], "cursor": None}
        )
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        rosters: list[set[str]] = []

        async def join() -> None:
            room = await client.join("lobby")
            rosters.append(set(room.members))

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(join)
                await both_are_asked_for.wait()
                await client.ping()
                assert rosters == []
        assert rosters == [{"c1", "c2"}]


async def test_a_page_that_is_refused_for_good_fails_the_join() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c1"), cursor="more"))
        await talk.answer(t="error", code="forbidden", message="no rosters for you")
        await talk.until_closed()

    async with Peer(script) as peer, connect(peer.url) as client:
        with pytest.raises(RequestFailed, match="no rosters"), anyio.fail_after(DEADLINE_S):
            await client.join("lobby")
