"""A connection may end in any way; the client comes back, or says clearly why not."""

from typing import TYPE_CHECKING

import anyio
import pytest

from presence_server.client import (
    Client,
    Connected,
    ConnectionEnded,
    ConnectionRefused,
    Disconnected,
    Event,
    ProtocolViolation,
    Removed,
    RoomLost,
    Synced,
    connect,
)
from tests.client.peer import DEADLINE_S, Conversation, Peer, Refusal, diff, during, member, stay, sync, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


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
