"""The bus over a real server, and a network that loses what it chooses: watchers here hear each event once."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from presence_server.bus.redis import LATE_MAX, RedisBus
from presence_server.presence.port import everything
from presence_server.redis_io import store_errors
from presence_server.redis_io.batcher import PipelineBatcher, Work
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.monitor import ConnectivityMonitor
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.subscriber import Subscriber
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_kind]


@pytest.fixture
async def network(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server) as network:
        yield network


class Lines:
    """Events are texts of one line."""

    def pack(self, event: str) -> bytes:
        return event.encode()

    def join(self, packed: list[bytes]) -> bytes:
        return b"\n".join(packed)

    def unpack(self, payload: bytes) -> list[str]:
        return payload.decode().split("\n")


class Node:
    """A bus with what it needs, what its watchers heard, and what was said to be out."""

    def __init__(self, name: str, url: str) -> None:
        self.client = RedisClient(url)
        self.heard: list[str] = []
        self.sent: list[str] = []
        self.subscriber = Subscriber(self.client.new_subscriber)
        self.monitor = ConnectivityMonitor(
            self.client.lane(),
            self.subscriber,
            f"nonce-{name}",
            register=lambda: [Call(("SET", "written", "1", "PX", 60_000))],
            registered=lambda answer: None,
            lost=self._lost,
            restored=lambda without_s, same_server: None,
            now_s=time.monotonic,
            rng=random.SystemRandom(),
            interval_s=0.1,
            patience_s=60,
        )
        self.batcher = PipelineBatcher(self.client.lane(), 1.0, lambda: None)
        self.bus: RedisBus[str] = RedisBus(
            self.batcher,
            self.subscriber,
            Keys("ps"),
            Lines(),
            is_isolated=lambda _: self.monitor.away,
            mark_away=lambda *_: self.monitor.mark_unreachable(),
            contact_s=self.monitor.contact_s,
        )

    def _lost(self) -> None:
        self.bus.isolate(everything)

    def publish(self, event: str) -> None:
        self.bus.publish("lobby", event, lambda: self.sent.append(event))

    async def ready(self) -> Self:
        """Wait until there is contact, and the room is heard."""
        await until(lambda: not self.monitor.away)
        ready: list[bool] = []
        self.bus.subscribe("lobby", self.heard.append, lambda: ready.append(True))
        await until(lambda: ready)
        return self


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for node in nodes:
            tasks.start_soon(node.monitor.run)
            tasks.start_soon(node.batcher.run)
        for node in nodes:
            await node.ready()
        yield
        tasks.cancel_scope.cancel()
    for node in nodes:
        await node.client.aclose()


async def test_what_came_back_before_its_answer_was_lost_is_not_delivered_twice(
    server: RedisServer, network: Proxy
) -> None:
    here, there = Node("n1", network.url), Node("n2", server.url)
    async with running(here, there):
        network.hold_answers_to(b"first")
        here.publish("first")
        await until(lambda: here.heard == ["first"])
        assert here.sent == []
        network.cut_held()
        await until(lambda: here.monitor.losses == 1 and not here.monitor.away)
        here.publish("second")
        await until(lambda: "second" in here.heard)
        assert here.heard == there.heard == here.sent == ["first", "second"]


async def test_what_did_not_come_back_before_its_answer_was_lost_is_delivered_here(
    server: RedisServer, network: Proxy
) -> None:
    here, there = Node("n1", network.url), Node("n2", server.url)
    async with running(here, there):
        network.eaten = lambda message: b"first" in message
        network.hold_answers_to(b"first")
        here.publish("first")
        await until(lambda: there.heard == ["first"])
        assert here.heard == []
        network.cut_held()
        await until(lambda: here.heard == here.sent == ["first"])


async def test_what_is_carried_out_long_after_it_failed_is_not_delivered_twice(
    server: RedisServer, network: Proxy
) -> None:
    here, there = Node("n1", network.url), Node("n2", server.url)
    async with running(here, there):
        network.hold_command(b"first")
        here.publish("first")
        await until(lambda: here.heard == here.sent == ["first"])
        await until(lambda: not here.monitor.away)
        assert there.heard == []
        network.release_commands()
        await until(lambda: there.heard == ["first"])
        here.publish("second")
        await until(lambda: there.heard == ["first", "second"])
        await until(lambda: "second" in here.heard)
        here.publish("first")  # the same again is another event
        await until(lambda: there.heard == ["first", "second", "first"])
        await until(lambda: here.sent == ["first", "second", "first"])
        assert here.heard == ["first", "second", "first"]


async def test_what_was_gathered_when_contact_was_lost_is_delivered_here_in_order(network: Proxy) -> None:
    node = Node("n1", network.url)
    async with running(node):
        network.hang()
        node.publish("first")
        await anyio.lowlevel.checkpoint()
        node.publish("second")
        await until(lambda: node.monitor.away)
        node.publish("third")
        await until(lambda: len(node.sent) == 3)
        assert node.heard == node.sent == ["first", "second", "third"]


async def test_what_an_answer_says_is_out_is_delivered_here_where_the_subscriber_was_lost(
    server: RedisServer, network: Proxy
) -> None:
    here, there = Node("n1", network.url), Node("n2", server.url)
    async with running(here, there):
        network.eaten = lambda message: b"first" in message
        network.hold_answers_to(b"first")
        here.publish("first")
        await until(lambda: there.heard == ["first"])
        network.cut_subscribers()
        await until(lambda: here.heard == ["first"])
        network.cut_held()
        network.heal()
        await until(lambda: not here.monitor.away)
        here.publish("second")
        await until(lambda: "second" in here.heard)
        assert here.heard == here.sent == ["first", "second"]
        assert here.bus._under_way == {}


def published_without_a_server(events: list[str]) -> tuple[Node, list[Work]]:
    """Publish each event with a payload of its own, on a node that believes to be in contact; return what it sends."""
    node = Node("n1", "unix:///nowhere")
    node.monitor.away = False
    node.bus.subscribe("lobby", node.heard.append, lambda: None)
    work: list[Work] = []
    for event in events:
        node.publish(event)
        work += node.bus.take()
    return node, work


async def test_a_publish_that_the_store_refuses_ends_no_contact_and_is_delivered_here() -> None:
    node, (refused, failed) = published_without_a_server(["first", "second"])
    before = store_errors.counts["PUBLISH"]
    refused.done(ResponseError("ERR wrong in some way"))
    assert (node.monitor.away, node.heard, node.sent) == (False, ["first"], ["first"])
    assert store_errors.counts["PUBLISH"] == before + 1
    node.bus._receive_payload(
        "lobby", node.heard.append, b"first"
    )  # another one: the refused was not carried out
    failed.done(OutOfMemoryError("no room"))
    assert (node.monitor.away, node.monitor.losses) == (True, 1)
    assert node.heard == ["first", "first", "second"]


async def test_of_many_that_failed_the_newest_are_not_delivered_twice() -> None:
    events = [f"event {n}" for n in range(LATE_MAX + 1)]
    node, work = published_without_a_server(events)
    work[0].done(OutOfMemoryError("no room"))
    assert node.heard == node.sent == events
    node.monitor.away = False
    for event in events:
        node.bus._receive_payload("lobby", node.heard.append, event.encode())
    assert node.heard == [*events, events[0]]
    assert len(node.bus._late) == 0
