"""Contact with servers that die and networks that fail: everything asked for is heard again afterwards."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.contact import Contact
from presence_server.redis_io.scripts import Call
from tests.support.proxy import Proxy
from tests.support.redis_server import KINDS, RedisServer
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

CHANNELS = [f"channel-{n}" for n in range(700)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


class Ear:
    """A contact, and what happened to it."""

    def __init__(self, url: str, patience_s: float = 60) -> None:
        self.client = RedisClient(url)
        self.happened: list[str] = []
        self.without_s: list[float] = []
        self.heard: list[tuple[str, bytes]] = []
        self.acknowledged: list[str] = []
        self.contact = Contact(
            self.client,
            "nonce",
            lambda: Call(("SET", "written", "1", "PX", 60_000)),
            interval_s=0.1,
            patience_s=patience_s,
        )
        self.contact.heard = lambda channel, payload: self.heard.append((channel, payload))
        self.contact.lost = lambda: self.happened.append("lost")
        self.contact.back = self._back

    def _back(self, without_s: float) -> None:
        self.happened.append("back")
        self.without_s.append(without_s)

    def subscribe(self, channel: str) -> None:
        self.contact.subscribe(channel, lambda: self.acknowledged.append(channel))

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
        tasks.start_soon(ear.contact.run)
        yield ear
        tasks.cancel_scope.cancel()
    await ear.client.aclose()


@pytest.fixture
async def network(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server) as network:
        yield network


async def test_subscriptions_made_while_the_server_dies_are_all_there_afterwards(server: RedisServer) -> None:
    async with listening(Ear(server.url)) as ear:
        await ear.until("back")
        for n, channel in enumerate(CHANNELS):
            ear.subscribe(channel)
            if n % 250 == 100:
                server.kill()
                await ear.until("lost")
                server.start()
            if n % 7 == 0:
                await anyio.lowlevel.checkpoint()
        await ear.until("lost", "back")
        await ear.hears(server, CHANNELS)
        assert sorted(set(ear.acknowledged)) == sorted(CHANNELS)


async def test_what_is_no_longer_wanted_is_not_heard_again(server: RedisServer) -> None:
    async with listening(Ear(server.url)) as ear:
        await ear.until("back")
        for channel in CHANNELS:
            ear.subscribe(channel)
        await until(lambda: sorted(ear.acknowledged) == sorted(CHANNELS))
        await ear.hears(server, CHANNELS)
        for channel in CHANNELS[100:]:
            ear.contact.unsubscribe(channel)
        server.kill()
        await ear.until("lost")
        server.start()
        await ear.until("lost", "back")
        await ear.hears(server, CHANNELS[:100])
        assert server.ask("PUBLISH", CHANNELS[-1], "nobody") == 0


@pytest.mark.parametrize("trouble", [Proxy.cut, Proxy.hang, Proxy.cut_subscribers])
async def test_every_way_to_be_deaf_is_noticed(server: RedisServer, network: Proxy, trouble: object) -> None:
    async with listening(Ear(network.url)) as ear:
        ear.subscribe("news")
        await ear.until("back")
        trouble(network)  # type: ignore[operator]  # a method of it
        await ear.until("lost")
        network.heal()
        await ear.until("back", "lost", "back")
        await ear.hears(server, ["news"])


async def test_a_loop_that_was_blocked_past_its_patience_has_lost_contact(server: RedisServer) -> None:
    async with listening(Ear(server.url, patience_s=0.5)) as ear:
        await ear.until("back")
        time.sleep(1)  # noqa: ASYNC251 - what a frozen process does
        await ear.until("back", "lost", "back")
        assert ear.without_s[-1] > 0.9


async def test_a_server_that_lets_nobody_publish_is_no_contact(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "default", "resetchannels")
    async with listening(Ear(server.url)) as ear:
        await anyio.sleep(0.5)
        assert ear.contact.away
        server.ask("ACL", "SETUSER", "default", "allchannels")
        await ear.until("back")
