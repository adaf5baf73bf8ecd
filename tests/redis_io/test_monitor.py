"""The monitor and its subscriber with servers that die and networks that fail: all is heard again afterwards."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from presence_server import faults
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.monitor import ConnectivityMonitor
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.subscriber import Subscriber
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

CHANNELS = [f"channel-{n}" for n in range(700)]


class Ear:
    """A monitor with its subscriber, and what happened to it."""

    def __init__(self, url: str, patience_s: float = 60) -> None:
        self.client = RedisClient(url)
        self.happened: list[str] = []
        self.without_s: list[float] = []
        self.same_server: list[bool] = []
        self.heard: list[tuple[str, bytes]] = []
        self.acknowledged: list[str] = []
        self.subscriber = Subscriber(self.client.new_subscriber)
        self.monitor = ConnectivityMonitor(
            self.client.lane(),
            self.subscriber,
            "nonce",
            register=lambda: [Call(("SET", "written", "1", "PX", 60_000))],
            registered=lambda answer: None,
            lost=lambda: self.happened.append("lost"),
            restored=self._restored,
            now_s=time.monotonic,
            rng=random.SystemRandom(),
            interval_s=0.1,
            patience_s=patience_s,
        )

    def _restored(self, without_s: float, same_server: bool) -> None:
        self.happened.append("restored")
        self.without_s.append(without_s)
        self.same_server.append(same_server)

    def subscribe(self, channel: str) -> None:
        handler = partial(self._hear, channel)
        self.subscriber.subscribe(channel, handler, lambda: self.acknowledged.append(channel))

    def _hear(self, channel: str, payload: bytes) -> None:
        self.heard.append((channel, payload))

    async def until(self, *happened: str) -> None:
        """Wait until this is what happened last."""
        await until(lambda: tuple(self.happened[-len(happened) :]) == happened, lambda: self.happened)

    async def hears(self, server: RedisServer, channels: list[str]) -> None:
        """Wait until what is published now on each channel has been heard."""
        self.heard.clear()
        for channel in channels:
            server.ask("PUBLISH", channel, "now")
        await until(lambda: {channel for channel, _ in self.heard} == set(channels))
        assert len(self.heard) == len(channels)


@asynccontextmanager
async def listening(ear: Ear) -> AsyncIterator[Ear]:
    """Keep contact meanwhile."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ear.monitor.run)
        yield ear
        tasks.cancel_scope.cancel()
    await ear.client.aclose()


@pytest.fixture
async def network(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server) as network:
        yield network


async def test_subscriptions_made_while_the_server_dies_are_all_there_afterwards(server: RedisServer) -> None:
    async with listening(Ear(server.url)) as ear:
        await ear.until("restored")
        for n, channel in enumerate(CHANNELS):
            ear.subscribe(channel)
            if n % 250 == 100:
                server.kill()
                await ear.until("lost")
                server.start()
            if n % 7 == 0:
                await anyio.lowlevel.checkpoint()
        await ear.until("lost", "restored")
        await ear.hears(server, CHANNELS)
        assert sorted(set(ear.acknowledged)) == sorted(CHANNELS)


async def test_what_is_no_longer_wanted_is_not_heard_again(server: RedisServer) -> None:
    async with listening(Ear(server.url)) as ear:
        await ear.until("restored")
        for channel in CHANNELS:
            ear.subscribe(channel)
        await until(lambda: sorted(ear.acknowledged) == sorted(CHANNELS))
        await ear.hears(server, CHANNELS)
        for channel in CHANNELS[100:]:
            ear.subscriber.unsubscribe(channel)
        server.kill()
        await ear.until("lost")
        server.start()
        await ear.until("lost", "restored")
        await ear.hears(server, CHANNELS[:100])
        assert server.ask("PUBLISH", CHANNELS[-1], "nobody") == 0


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.hang, Proxy.cut_subscribers])
async def test_every_way_to_be_deaf_is_noticed(server: RedisServer, network: Proxy, fault: object) -> None:
    async with listening(Ear(network.url)) as ear:
        ear.subscribe("news")
        await ear.until("restored")
        fault(network)  # type: ignore[operator]  # a method of it
        await ear.until("lost")
        network.heal()
        await ear.until("restored", "lost", "restored")
        await ear.hears(server, ["news"])


async def test_a_loop_that_was_blocked_past_its_patience_has_lost_contact(server: RedisServer) -> None:
    async with listening(Ear(server.url, patience_s=0.5)) as ear:
        await ear.until("restored")
        time.sleep(1)  # noqa: ASYNC251 - what a frozen process does
        await ear.until("restored", "lost", "restored")
        assert ear.without_s[-1] > 0.9


async def test_calls_that_go_on_failing_keep_contact_from_coming_back_no_longer_than_the_store_is_away(
    server: RedisServer,
) -> None:
    async with listening(Ear(server.url)) as ear, anyio.create_task_group() as tasks:
        await ear.until("restored")

        async def fail_until_restored() -> None:
            ear.monitor.mark_unreachable()
            while ear.monitor.away:
                ear.monitor.mark_unreachable()
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(fail_until_restored)
        await ear.until("restored", "lost", "restored")


async def test_a_server_that_lets_nobody_publish_is_no_contact(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "default", "resetchannels")
    async with listening(Ear(server.url)) as ear:
        await until(lambda: server.ask("ACL", "LOG"))
        assert ear.monitor.away
        assert ear.happened == []
        server.ask("ACL", "SETUSER", "default", "allchannels")
        await ear.until("restored")
        assert ear.happened == ["restored"]


async def test_the_server_is_the_same_one_until_another_process_answers(
    server: RedisServer, network: Proxy
) -> None:
    async with listening(Ear(network.url)) as ear:
        await ear.until("restored")
        network.cut()
        await ear.until("lost")
        network.heal()
        await ear.until("restored", "lost", "restored")
        server.kill()
        await ear.until("restored", "lost")
        server.start()
        await ear.until("lost", "restored")
        assert ear.same_server == [False, True, False]


async def test_a_server_whose_data_were_replaced_is_another_one(server: RedisServer, network: Proxy) -> None:
    async with listening(Ear(network.url)) as ear:
        await ear.until("restored")
        network.cut()
        await ear.until("lost")
        server.ask("REPLICAOF", "127.0.0.1", "1")
        server.ask("REPLICAOF", "NO", "ONE")
        network.heal()
        await ear.until("lost", "restored")
        assert ear.same_server == [False, False]


async def test_a_server_that_must_not_say_who_it_is_is_never_the_same_and_that_is_warned_of_once(
    server: RedisServer, network: Proxy
) -> None:
    server.ask("ACL", "SETUSER", "default", "-info")
    with capture_logs() as logs:
        async with listening(Ear(network.url)) as ear:
            await ear.until("restored")
            network.cut()
            await ear.until("lost")
            network.heal()
            await ear.until("lost", "restored")
            assert ear.same_server == [False, False]
    assert len([line for line in logs if "INFO" in line["event"]]) == 1


async def test_a_fault_on_loss_or_return_ends_no_contact(server: RedisServer) -> None:
    async with listening(Ear(server.url)) as ear:
        await ear.until("restored")
        before = faults.counts["connectivity"]
        ear.happened = Refusing()
        server.kill()
        await until(lambda: ear.monitor.away)
        server.start()
        await until(lambda: not ear.monitor.away)
        assert faults.counts["connectivity"] == before + 2


class Refusing(list[str]):
    """A list that takes nothing."""

    def append(self, item: str) -> None:
        raise KeyError(item)
