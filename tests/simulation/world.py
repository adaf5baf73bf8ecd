"""A cluster in one thread on virtual time: whole nodes, a store, and everything that can go wrong between them.

    with World(seed=7) as world:
        ann = world.nodes[0].connect("ann", peer)      # a Socket; `peer.received(messages)` and `peer.closed(code)`
        ann.send(Join("lobby"))
        world.run_for(1_000)
        world.nodes[0].freeze()
        world.at(9_000, world.nodes[0].thaw)
        world.store.flush_all()
        world.run_for(60_000)

One seed is one run: whatever the world chooses (delays, ids, jitter, what a fault takes along) is drawn from
`random.Random(seed)`, and nothing reads another clock. `trace` says what happened, the same lines for the same seed.
"""

from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from random import Random
from types import TracebackType
from typing import Final, Self

from presence_server import ids
from presence_server.config.settings import (
    AuthSettings,
    LimitsSettings,
    PresenceSettings,
    RedisSettings,
    RoomSettings,
    Settings,
    ThrottleSettings,
)
from presence_server.redis_io.keys import Keys
from tests.simulation.loop import NODE, VirtualLoop
from tests.simulation.nodes import SimulatedNode
from tests.simulation.store import STORE, SimulatedStore

SCALED: Final = PresenceSettings(
    ttl_ms=6_000, heartbeat_ms=2_000, grace_clean_ms=1_000, grace_lost_ms=3_000, resume_ms=60_000
)
"""Times so short that a minute holds several disasters."""
BEGINNING_MS: Final = 1_700_000_000_000
"""What the store's clock says at first, and those of the nodes more or less."""
UNTHROTTLED: Final = ThrottleSettings(connect="", resume="", messages="", concurrent_per_ip=0)


class World:
    """Nodes, a store and a clock.

    `now_ms` begins at 0. `faults` are exceptions that nobody caught, with the node that they happened in: there must be
    none. `client_delay_ms` and `store_delay_ms` (least, most) are how long one way takes.
    """

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        presence: PresenceSettings = SCALED,
        limits: LimitsSettings | None = None,
        rooms: Sequence[RoomSettings] = (),
        client_delay_ms: tuple[float, float] = (1, 30),
        store_delay_ms: tuple[float, float] = (0.2, 3),
        beginning_ms: int = BEGINNING_MS,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)  # noqa: S311 - a run must repeat
        self.loop = VirtualLoop()
        self.trace: list[str] = []
        self.beginning_ms = beginning_ms
        self.client_delay_ms = client_delay_ms
        self.store_delay_ms = store_delay_ms
        self.settings = Settings(
            redis=RedisSettings(url="redis://simulated"),
            presence=presence,
            limits=limits or LimitsSettings(),
            throttle=UNTHROTTLED,
            auth=AuthSettings(resume_secret="simulated" * 4),
            rooms=list(rooms),
        )
        self.keys = Keys(self.settings.redis.prefix)
        self._context = Context()
        self.store_context = Context()
        self.store_context.run(NODE.set, STORE)
        self._ids = ids.drawn_from(self.random.getrandbits)
        self.store = SimulatedStore(self)
        self.nodes: list[SimulatedNode] = []
        """Every node that there has been; the dead ones stay in their places."""
        for _ in range(nodes):
            self.start_node()

    def __enter__(self) -> Self:
        self._ids.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for node in self.nodes:
                node.kill()
            self.loop.finish()
        finally:
            self._ids.__exit__(kind, exc, traceback)

    # --- time ---

    @property
    def now_ms(self) -> int:
        """Virtual milliseconds since the world began."""
        return self.loop.now_ms

    def run_for(self, ms: float) -> None:
        """Let time pass, with all that happens in it."""
        self.loop.run_for(ms)

    def at(self, ms: float, action: Callable[[], object]) -> None:
        """Have something done `ms` from now, by nobody's process."""
        self.later(ms / 1_000, action)

    def later(self, delay_s: float, action: Callable[[], object], not_before_s: float = 0) -> float:
        """Have something done after a delay, and not before a time of the loop; return when."""
        when_s = max(self.loop.time() + delay_s, not_before_s)
        self.loop.deliver(when_s, action, self._context)
        return when_s

    def client_delay_s(self) -> float:
        """Return how long something takes between a client and a node."""
        return self.random.uniform(*self.client_delay_ms) / 1_000

    def store_delay_s(self) -> float:
        """Return how long something takes between a node and the store."""
        return self.random.uniform(*self.store_delay_ms) / 1_000

    # --- nodes ---

    def start_node(self) -> SimulatedNode:
        """Start one more node; it takes connections as soon as it is `ready`."""
        node = SimulatedNode(self, f"n{len(self.nodes)}")
        self.nodes.append(node)
        return node

    @property
    def alive(self) -> list[SimulatedNode]:
        """Return the nodes that have not been killed; frozen ones are among them."""
        return [node for node in self.nodes if node.alive]

    def freeze_all(self, *, store: bool = False) -> None:
        """Freeze every node, and the store: a suspended machine."""
        for node in self.alive:
            node.freeze()
        if store:
            self.store.freeze()

    def thaw_all(self) -> None:
        """Let everything go on that is frozen, in a drawn order."""
        thaws: list[Callable[[], None]] = [node.thaw for node in self.alive]
        self.random.shuffle(thaws)
        self.store.thaw()
        for thaw in thaws:
            thaw()

    # --- what happened ---

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_ms:7} {who:6} {what}")

    @property
    def faults(self) -> list[tuple[str, BaseException | None]]:
        """Return the exceptions that nobody caught."""
        return self.loop.faults

    def shuffled(self, items: Iterable[str]) -> list[str]:
        """Return strings in a drawn order that does not depend on how they were given."""
        ordered = sorted(items)
        self.random.shuffle(ordered)
        return ordered
