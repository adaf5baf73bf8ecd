"""A connection may end in any way; the room goes on, or the client says clearly why not."""

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from presence_server.client import (
    Client,
    Connected,
    ConnectionEnded,
    ConnectionLost,
    ConnectionRefused,
    Disconnected,
    Event,
    Joined,
    Left,
    ProtocolViolation,
    Removed,
    RequestFailed,
    RoomLost,
    Synced,
    Updated,
    connect,
)
from tests.client.peer import DEADLINE_S, Conversation, Peer, Refusal, diff, member, sync

pytestmark = pytest.mark.anyio


async def until(events: AsyncIterator[Event], kind: type[Event]) -> list[Event]:
    """Take events up to the first of a kind."""
    taken: list[Event] = []
    with anyio.fail_after(DEADLINE_S):
        async for event in events:
            taken.append(event)
            if isinstance(event, kind):
                break
    return taken


async def during(peer: Peer, body: Callable[[Client], Awaitable[None]]) -> None:
    """Do something with a client, for a limited time."""
    with anyio.fail_after(DEADLINE_S):
        async with connect(peer.url) as client:
            await body(client)


async def stay(talk: Conversation) -> None:
    await talk.welcome()
    await talk.until_closed()


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


async def test_the_newest_resume_token_is_used() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.send({"t": "resume", "resume": "renewed"})
        await talk.close(4200, reconnect_ms=1)

    async with Peer(first, stay) as peer, connect(peer.url, resume="older") as client:
        await until(aiter(client), Disconnected)
        await until(aiter(client), Connected)
        offered = [request.headers["Sec-WebSocket-Protocol"] for request in peer.requests]
        assert offered == ["presence.v1.json, resume.older", "presence.v1.json, resume.renewed"]


async def test_a_client_waits_as_long_as_the_bye_says() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.close(4200, reconnect_ms=120)

    async with Peer(first, stay) as peer, connect(peer.url) as client:
        event = (await until(aiter(client), Disconnected))[-1]
        assert isinstance(event, Disconnected)
        assert (event.code, event.retry_in) == (4200, 0.12)
        since = anyio.current_time()
        await until(aiter(client), Connected)
        assert anyio.current_time() - since > 0.1


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4100, 4102, 4201])
async def test_a_client_comes_back_after(code: int) -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.close(code)

    async with Peer(first, stay) as peer, connect(peer.url) as client:
        await until(aiter(client), Disconnected)
        await until(aiter(client), Connected)
        assert peer.unplayed == 0


@pytest.mark.parametrize("code", [1002, 1009, 4001, 4003, 4008, 4009, 4010])
async def test_a_client_stops_after(code: int) -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        await talk.close(code, reconnect_ms=1)

    async with Peer(script) as peer:
        clients: list[Client] = []

        async def join(client: Client) -> None:
            clients.append(client)
            await client.join("lobby")
            await anyio.sleep_forever()

        with pytest.raises(ConnectionEnded) as ended:
            await during(peer, join)
        assert ended.value.code == code
        assert clients[0].resume_token == (None if code == 4010 else "token-1")
        with pytest.raises(ConnectionEnded):
            await clients[0].ping()


async def test_a_request_under_which_the_server_said_stop_says_so_too() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        await talk.receive()
        await talk.close(4003)

    async with Peer(script) as peer:

        async def publish(client: Client) -> None:
            room = await client.join("lobby")
            await room.publish(1)

        with pytest.raises(ConnectionEnded, match="4003"):
            await during(peer, publish)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_handshake_ends_the_client(status: int) -> None:
    async with Peer(Refusal(status)) as peer:
        with pytest.raises(ConnectionRefused, match="refused by the script") as refused:
            async with connect(peer.url):
                pytest.fail("connected")
        assert refused.value.status == status


@pytest.mark.parametrize("status", [429, 503])
async def test_a_client_that_is_told_to_wait_waits(status: int) -> None:
    async with Peer(Refusal(status, Retry_After="1"), stay) as peer:
        since = anyio.current_time()
        async with connect(peer.url) as client:
            assert anyio.current_time() - since >= 1
            event = await anext(aiter(client))
            assert isinstance(event, Disconnected)
            assert event.code is None
            assert event.retry_in >= 1


async def test_a_client_that_is_throttled_with_a_bye_comes_back() -> None:
    async def throttled(talk: Conversation) -> None:
        await talk.close(4101, reconnect_ms=50)

    async with Peer(throttled, stay) as peer, connect(peer.url) as client:
        assert client.connected
        assert peer.unplayed == 0


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


async def test_who_heard_of_its_kick_and_lost_the_connection_does_not_come_back() -> None:
    async def first(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync(member("c-me")))
        await talk.answer(**sync(member("c-me"), room="hall"))
        await talk.send(diff(leaves=[{"cid": "c-me", "user": "me", "reason": "kicked"}], count=0))
        await talk.vanish()

    async def second(talk: Conversation) -> None:
        await talk.welcome(resumed=True)
        assert (await talk.answer(**sync(member("c-me"), room="hall")))["room"] == "hall"
        assert (await talk.answer(t="pong", time=1))["t"] == "ping"
        await talk.until_closed()

    async with Peer(first, second) as peer, connect(peer.url) as client:
        room = await client.join("lobby")
        hall = await client.join("hall")
        with anyio.fail_after(DEADLINE_S):
            assert [event async for event in room][-1] == Removed("lobby", "kicked")
            await until(aiter(hall), Synced)
            await until(aiter(hall), Synced)
        await client.ping()


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


@pytest.mark.parametrize(
    "message",
    [sync(), {"t": "welcome", "cid": 7}, {"no": "type"}],
    ids=["sync before welcome", "wrong type", "no type"],
)
async def test_what_is_not_this_protocol_ends_the_client(message: dict[str, object]) -> None:
    codes: list[int | None] = []

    async def script(talk: Conversation) -> None:
        await talk.send(message)
        codes.append(await talk.until_closed())

    async with Peer(script) as peer:
        with pytest.raises(ProtocolViolation), anyio.fail_after(DEADLINE_S):
            async with connect(peer.url):
                await anyio.sleep_forever()
    assert codes == [1002]


async def test_an_iteration_ends_with_what_ended_the_client() -> None:
    async def script(talk: Conversation) -> None:
        await talk.welcome()
        await talk.answer(**sync())
        await talk.close(4001)

    async with Peer(script) as peer:
        iterators: list[AsyncIterator[Event]] = []

        async def listen(client: Client) -> None:
            iterators.append(aiter(await client.join("lobby")))
            await until(iterators[0], RoomLost)

        with pytest.raises(ConnectionEnded, match="4001"):
            await during(peer, listen)
        with pytest.raises(ConnectionEnded, match="4001"):
            await until(iterators[0], RoomLost)


async def test_a_cancelled_block_closes_its_connection() -> None:
    codes: list[int | None] = []

    async def script(talk: Conversation) -> None:
        await talk.welcome()
        codes.append(await talk.until_closed())

    async with Peer(script) as peer:
        with anyio.CancelScope() as scope:
            async with connect(peer.url):
                scope.cancel()
                await anyio.sleep_forever()
    assert codes == [1000]
