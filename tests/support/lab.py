"""A node in the test's own loop, on a clock that is moved by hand: an hour passes in no time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import pytest

from presence_server.config.settings import Settings, ThrottleSettings
from presence_server.edge.timeouts import SLICE_MS
from presence_server.server import Node
from presence_server.shutdown import Shutdown
from tests.support.handclock import HandClock

DEADLINE_S = 20
TURNS = 10
"""Turns of the loop in which what was sent on the loopback interface is read and answered."""


class Lab:
    """A node whose client port is open, and its clock."""

    def __init__(self, node: Node, clock: HandClock, port: int) -> None:
        self.node = node
        self.port = port
        self._clock = clock

    async def settle(self) -> None:
        """Let the node read and answer what has been sent."""
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()

    async def wait(self, ms: int) -> None:
        """Let time pass, with a sweep every `SLICE_MS`, as in a node that runs."""
        await self.settle()
        for passed in range(0, ms, SLICE_MS):
            self._clock.move(min(SLICE_MS, ms - passed))
            now_ms = self._clock.now_ms()
            self.node.listener.sweep_timeouts(now_ms)
            self.node.core.hub.close_stuck(now_ms)
            self.node.core.backend.sweep()
            await self.settle()

    @property
    def connections(self) -> int:
        """How many sockets the node has."""
        return len(self.node.listener._connections)

    @property
    def awaiting(self) -> int:
        """How many of them have not sent anything since they were pinged."""
        return sum(each.unanswered_since_ms is not None for each in self.node.listener._connections)

    async def gone(self) -> None:
        """Wait until every socket is closed on the node's side too."""
        with anyio.fail_after(DEADLINE_S):
            while self.connections:  # noqa: ASYNC110 - what it looks at has no event to wait for
                await anyio.sleep(0.001)


UNTHROTTLED = ThrottleSettings(connect="", resume="", messages="", concurrent_per_ip=0)
"""All clients of a test come from one address."""


@asynccontextmanager
async def laboratory(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """Open a node; when all its clients are gone, nothing of them may be left in it."""
    clock = HandClock()
    monkeypatch.setattr("presence_server.server.SystemClock", lambda: clock)
    server = msgspec.structs.replace(settings.server, host="127.0.0.1", port=0)
    throttle = UNTHROTTLED if settings.throttle == ThrottleSettings() else settings.throttle
    settings = msgspec.structs.replace(settings, server=server, throttle=throttle)
    node = Node(settings, lambda: settings, Shutdown())
    _, port = await node.listener.start()
    lab = Lab(node, clock, port)
    try:
        yield lab
        await lab.gone()
        await lab.wait(settings.presence.grace_lost_ms + SLICE_MS)
        listener = node.listener
        deadlines = (listener.trickling, listener._handshaking, listener._closing, listener._awaited)
        assert [len(each) for each in (*deadlines, listener._wheel)] == [0] * 5
        assert (len(node.core.directory), len(node.core.rooms.views)) == (0, 0)
        assert (len(node.core.hub._behind), len(node.core.hub._recovering), len(node.core.hub.dirty)) == (
            0,
            0,
            0,
        )
    finally:
        node.listener.stop()
        await lab.gone()
