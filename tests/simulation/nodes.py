"""Whole nodes without sockets: all that `presence_server.core` builds, kept going as `server` does."""

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final, TypeVar, get_args

import anyio

from presence_server.auth.identity import Identity
from presence_server.clock import SystemClock
from presence_server.core import NodeCore
from presence_server.edge.timeouts import SLICE_MS
from presence_server.protocol.codec import document
from tests.simulation.links import Link, SimulatedClient
from tests.simulation.loop import NODE, ThawOrder
from tests.simulation.sockets import Frames, NodeEnd, Peer, Socket

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.world import World

SKEW_MS: Final = 4 * 3_600_000
"""How far the clocks of machines may be from the right time."""
THAW_ORDERS: Final = get_args(ThawOrder)
UPTIME_S: Final = 1_000_000
Answer = TypeVar("Answer")


class NodeClock(SystemClock):
    """A node's clock, on a machine that has been up for a while and whose wall clock is wrong."""

    def __init__(self, world: "World") -> None:
        loop, offset_s = world.loop, world.random.uniform(0, UPTIME_S)
        wrong_ms = world.random.randint(-SKEW_MS, SKEW_MS)
        self.monotonic_s: Callable[[], float] = lambda: loop.time() + offset_s
        super().__init__(
            lambda: int((loop.time() + offset_s) * 1_000_000_000),
            lambda: (world.beginning_ms + world.now_ms + wrong_ms) * 1_000_000,
        )


class SimulatedNode:
    """One process. `name` is what the trace calls it; `core.id` is its id, which others know it by."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.context = Context()
        self.context.run(NODE.set, name)
        self.alive = True
        """Whether it has not been killed."""
        self.ready = False
        """Whether it takes connections."""
        self.core: NodeCore
        self.clock: NodeClock
        self.link = Link(self, world.store)
        self.ends: dict[NodeEnd, None] = {}
        """Connections, as the node knows them."""
        self.frames = Frames()
        self.presence = world.settings.presence
        self._running = world.loop.create_task(self._run(), context=self.context.copy())

    # --- what clients and backends do ---

    def connect(
        self,
        user: str,
        peer: Peer,
        *,
        resume: str | None = None,
        info: dict[str, object] | None = None,
        identity: Identity | None = None,
    ) -> Socket:
        """Connect a client; it is told what happens by `peer`. `identity` is what its credentials say, if more."""
        return Socket(self, identity or Identity(user, document(info or {})), resume, peer)

    def call(self, ask: Callable[[], Awaitable[Answer]]) -> "asyncio.Task[Answer]":
        """Run a call of a backend on this node, such as `lambda: node.core.api_dependencies.registry.users([user])`."""

        async def run() -> Answer:
            return await ask()

        return self.world.loop.create_task(run(), context=self.context.copy())

    # --- faults ---

    def freeze(self) -> None:
        """Stop the process; its kernel goes on."""
        if self.alive and not self.frozen:
            self.world.note(self.name, "freeze")
            self.world.loop.freeze(self.name)

    def thaw(self) -> None:
        """Let the process go on."""
        if self.alive and self.frozen:
            order = self.world.random.choice(THAW_ORDERS)
            self.world.note(self.name, f"thaw, {order}")
            self.world.loop.thaw(self.name, order)

    def kill(self) -> None:
        """Kill the process: its kernel resets every connection."""
        if self.alive:
            self.world.note(self.name, "kill")
            self.alive = self.ready = False
            self.world.loop.freeze(self.name)
            self.link.reset_by_store()
            for end in list(self.ends):
                end.died()

    @property
    def frozen(self) -> bool:
        """Whether the process is stopped."""
        return self.alive and self.world.loop.is_frozen(self.name)

    # --- what is known of it ---

    @property
    def has_contact(self) -> bool:
        """Whether it takes itself to be with the others."""
        return self.ready and not self.core.backend.is_isolated()

    def later(self, delay_s: float, action: Callable[[], object], not_before_s: float = 0) -> float:
        """Have the node do something after a delay, and not before a time of the loop; return when."""
        when_s = max(self.world.loop.time() + delay_s, not_before_s)
        self.world.loop.deliver(when_s, action, self.context)
        return when_s

    # --- the process ---

    async def _run(self) -> None:
        self.clock = NodeClock(self.world)
        self.core = core = NodeCore(
            self.world.settings,
            self.clock,
            sheds_signal=lambda: False,
            now_s=self.world.loop.time,
            new_client=lambda _: SimulatedClient(self.link),
        )
        async with anyio.create_task_group() as tasks:
            await core.start(tasks)
            tasks.start_soon(core.renew_members)
            tasks.start_soon(core.follow_nodes)
            self.ready = True
            self.world.note(self.name, f"is ready, {'with' if self.has_contact else 'without'} contact")
            await self._sweep(core)

    async def _sweep(self, core: NodeCore) -> None:
        """Look at everything that has a deadline."""
        while True:
            now_ms = self.clock.now_ms()
            for end in list(self.ends):
                end.sweep(now_ms)
            core.sweep_node(now_ms)
            await anyio.sleep(SLICE_MS / 1_000)
