"""The subscriber on a connection whose server answers when the test says so, and on one with very many channels."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import ClusterDownError, MovedError, TryAgainError

from presence_server import faults
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.scripts import slot_of
from presence_server.redis_io.subscriber import LOOK_S, LOOKS_MAX, Subscriber
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

MANY = 24_000


class HeldServer:
    """A server in memory: it keeps what was written until `answer` is called."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []
        """Each channel with the verb that it was written with, while it is not answered."""
        self._responses: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> "HeldServer":
        """Return itself, as a connection."""
        self.written.clear()
        return self

    async def send_command(self, *command: str | bytes, check_health: bool) -> None:
        del check_health
        verb, *channels = command
        if verb == "PING":
            self._responses.put_nowait([b"pong", b""])
        self.written += [(str(verb), bytes(channel).decode()) for channel in channels]  # type: ignore[arg-type]  # are bytes

    async def read_response(self, *, disable_decoding: bool, timeout: float) -> Any:  # noqa: ASYNC109 - redis-py's
        del disable_decoding, timeout
        response = await self._responses.get()
        if isinstance(response, Exception):
            raise response
        return response

    async def disconnect(self, *, nowait: bool) -> None:
        del nowait

    async def settle(self) -> None:
        """Wait until nothing more is written."""
        for _ in range(10):
            await anyio.lowlevel.checkpoint()

    def answer(self, number: int = 1) -> None:
        """Answer so many channels."""
        for _ in range(number):
            verb, channel = self.written.pop(0)
            self._responses.put_nowait([verb.lower().encode(), channel.encode(), 1])

    def refuse(self, error: Exception) -> None:
        """Answer the next channel with an error."""
        del self.written[0]
        self._responses.put_nowait(error)

    def end(self, channel: str) -> None:
        """End a sharded channel unasked: its slot has gone."""
        self._responses.put_nowait([b"sunsubscribe", channel.encode(), 0])

    def publish(self, channel: str, payload: bytes, kind: bytes = b"message") -> None:
        self._responses.put_nowait([kind, channel.encode(), payload])


def moved(channel: str) -> MovedError:
    """Return the error of a server that does not have a channel's slot."""
    return MovedError(f"{slot_of(channel)} h:1")


class Listener:
    """A subscriber on such a server, and what it was told."""

    def __init__(self) -> None:
        self.server = HeldServer()
        self.dropped: list[str] = []
        self.subscriber = Subscriber(self.server.connect, self.dropped.append)
        self.heard: list[tuple[str, bytes]] = []
        self.told: list[str] = []
        self.complete = anyio.Event()

    def subscribe(self, channel: str, told: str = "", *, sharded: bool = False) -> None:
        def hear(payload: bytes) -> None:
            self.heard.append((channel, payload))

        self.subscriber.subscribe(channel, hear, lambda: self.told.append(told or channel), sharded=sharded)

    async def stay(self) -> None:
        await self.subscriber.stay(self._subscribed)

    async def _subscribed(self) -> None:
        self.complete.set()
        await anyio.sleep_forever()


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.stay)
        await listener.server.settle()
        yield
        tasks.cancel_scope.cancel()


async def test_the_answer_to_a_subscription_that_was_taken_back_is_not_taken_for_the_next_one() -> None:
    listener = Listener()
    server, subscriber = listener.server, listener.subscriber
    async with listening(listener):
        listener.subscribe("lobby", "first")
        await server.settle()
        subscriber.unsubscribe("lobby")
        await server.settle()
        listener.subscribe("lobby", "second")
        await server.settle()
        assert [verb for verb, _ in server.written] == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]
        server.answer(2)
        await server.settle()
        assert listener.told == []
        server.answer()
        await server.settle()
        assert listener.told == ["second"]


async def test_sharded_channels_are_written_one_by_one_and_heard() -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        for channel in ("a", "b"):
            listener.subscribe(channel, sharded=True)
        listener.subscribe("all")
        await server.settle()
        assert sorted(server.written) == [("SSUBSCRIBE", "a"), ("SSUBSCRIBE", "b"), ("SUBSCRIBE", "all")]
        server.answer(3)
        server.publish("a", b"1", b"smessage")
        server.publish("all", b"2")
        await server.settle()
        assert (sorted(listener.told), listener.heard) == (["a", "all", "b"], [("a", b"1"), ("all", b"2")])
        listener.subscriber.unsubscribe("a")
        await server.settle()
        assert server.written == [("SUNSUBSCRIBE", "a")]
        server.answer()
        await server.settle()
        assert (listener.dropped, listener.subscriber._sharded) == ([], {b"b"})


@pytest.mark.parametrize("error", [moved("a"), TryAgainError(""), ClusterDownError("down")])
async def test_a_channel_that_its_server_refuses_is_dropped_alone_and_tried_again_when_asked(
    error: Exception,
) -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("a", sharded=True)
        listener.subscribe("b", sharded=True)
        await server.settle()
        server.refuse(error)
        server.answer()
        await server.settle()
        assert (listener.dropped, listener.told) == (["a"], ["b"])
        listener.subscribe("a", "again", sharded=True)
        await server.settle()
        assert server.written == [("SSUBSCRIBE", "a")]
        server.answer()
        await server.settle()
        assert listener.told == ["b", "again"]


async def test_a_channel_that_ends_unasked_is_dropped_and_the_answer_to_an_unsubscribe_is_none_of_those() -> (
    None
):
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("a", sharded=True)
        listener.subscribe("b", sharded=True)
        await server.settle()
        server.answer(2)
        await server.settle()
        listener.subscriber.unsubscribe("b")
        await server.settle()
        server.end("a")
        server.answer()
        await server.settle()
        assert listener.dropped == ["a"]
        listener.subscribe("c", sharded=True)
        await server.settle()
        server.answer()
        await server.settle()
        assert listener.told == ["a", "b", "c"]


async def test_a_channel_that_ends_just_before_it_is_unsubscribed_costs_no_other_channel_its_answer() -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("a", sharded=True)
        listener.subscribe("b", sharded=True)
        await server.settle()
        server.answer(2)
        await server.settle()
        listener.subscriber.unsubscribe("a")
        await server.settle()
        server.end("a")
        server.refuse(moved("a"))
        await server.settle()
        listener.subscriber.unsubscribe("b")
        await server.settle()
        listener.subscribe("c", sharded=True)
        await server.settle()
        server.end("b")
        server.refuse(moved("b"))
        server.answer()
        await server.settle()
        assert (listener.dropped, listener.told) == ([], ["a", "b", "c"])
        server.publish("c", b"now", b"smessage")
        await server.settle()
        assert listener.heard == [("c", b"now")]


async def test_a_refused_unsubscribe_drops_nothing_and_a_refused_plain_channel_ends_the_connection() -> None:
    listener = Listener()
    server = listener.server

    async def refuse_both() -> None:
        async with listening(listener):
            listener.subscribe("a", sharded=True)
            await server.settle()
            server.answer()
            await server.settle()
            listener.subscriber.unsubscribe("a")
            await server.settle()
            server.refuse(moved("a"))
            await server.settle()
            assert listener.dropped == []
            listener.subscribe("plain")
            await server.settle()
            server.refuse(MovedError("7 h:1"))
            await server.settle()

    with pytest.raises(ExceptionGroup) as caught:
        await refuse_both()
    assert caught.group_contains(MovedError)


async def test_a_subscription_made_while_an_unsubscribe_waits_for_its_answer_waits_for_its_own() -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("lobby", "first")
        await server.settle()
        server.answer()
        await server.settle()
        listener.subscriber.unsubscribe("lobby")
        await server.settle()
        listener.subscribe("lobby", "second")
        await server.settle()
        server.answer()
        await server.settle()
        assert listener.told == ["first"]
        server.answer()
        await server.settle()
        assert listener.told == ["first", "second"]


async def test_a_channel_that_is_taken_up_again_before_anything_was_written_never_stopped() -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("lobby", "first")
        await server.settle()
        server.answer()
        await server.settle()
        listener.subscriber.unsubscribe("lobby")
        listener.subscribe("lobby", "second")
        assert listener.told == ["first", "second"]
        await server.settle()
        assert server.written == []
        server.publish("lobby", b"news")
        await server.settle()
        assert listener.heard == [("lobby", b"news")]


async def test_what_is_unsubscribed_is_neither_heard_nor_told_to_be_ready() -> None:
    listener = Listener()
    server = listener.server
    async with listening(listener):
        listener.subscribe("lobby")
        await server.settle()
        listener.subscriber.unsubscribe("lobby")
        listener.subscriber.unsubscribe("never")
        await server.settle()
        server.publish("lobby", b"late")
        server.answer(2)
        await server.settle()
        assert (listener.heard, listener.told, len(listener.subscriber)) == ([], [], 0)
        assert listener.subscriber._numbers == {}


async def test_what_came_and_went_without_a_connection_leaves_nothing_behind() -> None:
    subscriber = Subscriber(HeldServer().connect)
    for n in range(100):
        subscriber.subscribe(f"room-{n}", lambda payload: None, lambda: None)
        subscriber.unsubscribe(f"room-{n}")
    assert (subscriber._handlers, subscriber._changed, subscriber._waiting) == ({}, {}, {})


async def test_a_handler_that_raises_loses_no_later_message() -> None:
    listener = Listener()
    server = listener.server
    before = faults.counts["subscriber"]

    def refuse(payload: bytes) -> None:
        raise KeyError(payload)

    def refuse_to_be_ready() -> None:
        raise KeyError

    async with listening(listener):
        listener.subscriber.subscribe("wrong", refuse, refuse_to_be_ready)
        listener.subscribe("right")
        await server.settle()
        server.answer(2)
        server.publish("wrong", b"1")
        server.publish("right", b"2")
        await until(lambda: listener.heard)
        assert listener.heard == [("right", b"2")]
        assert listener.told == ["right"]
        assert faults.counts["subscriber"] == before + 2


async def test_a_connection_is_given_up_when_answers_stop_and_not_when_they_are_slow() -> None:
    listener = Listener()
    for n in range(2 * LOOKS_MAX):
        listener.subscribe(f"room-{n}")

    async def answer_some() -> None:
        async with listening(listener):
            for _ in range(LOOKS_MAX + 2):  # one each look, for longer than a connection without answers has
                listener.server.answer()
                await anyio.sleep(LOOK_S)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup, match="unhandled") as failed:
        await answer_some()
    assert failed.group_contains(TimeoutError, match="3 channels are not acknowledged")


async def test_a_subscriber_with_very_many_channels_comes_back_and_takes_more() -> None:
    with RedisServer("valkey") as server:
        client = RedisClient(server.url)
        subscriber = Subscriber(client.new_subscriber)
        heard: list[int] = []
        ready: list[int] = []
        for n in range(MANY):
            subscriber.subscribe(f"room-{n}", partial(_append, heard, n), partial(ready.append, n))
        complete = anyio.Event()

        async def subscribed() -> None:
            complete.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscriber.stay, subscribed)
            with anyio.fail_after(60):
                await complete.wait()
            assert ready == list(range(MANY))
            for n in range(MANY, 2 * MANY):
                subscriber.subscribe(f"room-{n}", partial(_append, heard, n), partial(ready.append, n))
                if n % 3 == 0:
                    await anyio.lowlevel.checkpoint()
            await until(lambda: len(ready) == 2 * MANY)
            for n in (0, MANY, 2 * MANY - 1):
                server.ask("PUBLISH", f"room-{n}", "now")
            await until(lambda: heard == [0, MANY, 2 * MANY - 1])
            tasks.cancel_scope.cancel()
        await client.aclose()


def _append(heard: list[int], n: int, payload: bytes) -> None:
    assert payload == b"now"
    heard.append(n)
