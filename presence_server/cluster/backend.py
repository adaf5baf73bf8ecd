"""What holds nodes together: store and bus, for a process on its own or for many through Redis."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from presence_server.bus.local import LocalBus
from presence_server.bus.port import Bus
from presence_server.bus.redis import RedisBus
from presence_server.clock import Clock
from presence_server.cluster.rejoin import Rejoin
from presence_server.cluster.store import ClusterStore
from presence_server.config.settings import Settings
from presence_server.errors import StoreAwayError
from presence_server.ids import SourcedRandom
from presence_server.measure import Histogram
from presence_server.presence.census import Census
from presence_server.presence.census_memory import MemoryCensus
from presence_server.presence.census_redis import RedisCensus
from presence_server.presence.memory import MemoryStore
from presence_server.presence.redis import CLAIM, END_TOKENS, SCRIPTS, PresenceRedisStore, Timing
from presence_server.presence.roster import Delta
from presence_server.presence.store import PresenceStore
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import AWAY, TIMEOUT_S
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.monitor import ConnectivityMonitor
from presence_server.redis_io.port import StoreConnections
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.subscriber import Subscriber
from presence_server.registry.local import LocalRegistry
from presence_server.registry.port import NodeStatus, Registry
from presence_server.registry.redis import RedisRegistry
from presence_server.rooms.events import RoomEvent
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.wire import RoomEvents
from presence_server.session.directory import Directory
from presence_server.sessions.memory import MemorySessions
from presence_server.sessions.redis import RedisSessions
from presence_server.sessions.store import SessionStore
from presence_server.throttle.board import Board, LocalBoard, RedisBoard
from presence_server.throttle.lists import AccessLists
from presence_server.throttle.policy import Policy
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.policy_store import MemoryPolicyStore, RedisPolicyStore

NONCE_INTERVAL_MAX_MS: Final = 1_000
EXAMINE_S: Final = 0.5
log = structlog.get_logger()


class NodeBackend(Protocol):
    """Store and bus, and what keeps them going."""

    @property
    def store(self) -> PresenceStore:
        """Return where presence is kept."""

    @property
    def bus(self) -> Bus[RoomEvent]:
        """Return what carries events from node to node."""

    @property
    def census(self) -> Census:
        """Return what answers about rooms."""

    @property
    def registry(self) -> Registry:
        """Return what knows nodes and users' connections."""

    @property
    def sessions(self) -> SessionStore:
        """Return where opaque sessions are kept."""

    @property
    def policy(self) -> PolicyFollower:
        """Return what keeps this node at the stored policy of the limiter."""

    @property
    def board(self) -> Board:
        """Return where nodes tell each other whose hits they count most."""

    @property
    def away(self) -> bool:
        """Whether the shared store is out of reach."""

    def checks(self) -> dict[str, str]:
        """Return each thing that the node needs, by name, with what is wrong with it; "": nothing."""

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Wire up whom events are for; called once, before `start`."""

    async def start(self, tasks: TaskGroup) -> None:
        """Begin background work; returns when the node may say that it is ready."""

    async def stop(self) -> None:
        """Tell the others that this node is gone."""

    def sweep(self) -> None:
        """Look at everything that has a deadline."""

    @property
    def health(self) -> Mapping[str, Any]:
        """Return what the shared store last said of itself (INFO); empty: nothing."""

    async def examine(self) -> None:
        """Ask the shared store how it is."""

    @property
    def shared(self) -> bool:
        """Whether there is a shared store."""


class LocalBackend:
    """A process on its own."""

    away = False
    shared = False
    health: Mapping[str, Any] = {}

    def __init__(
        self,
        settings: Settings,
        node: str,
        clock: Clock,
        describe: Callable[[], NodeStatus],
        apply_policy: Callable[[Policy, AccessLists], None],
    ) -> None:
        presence = settings.presence
        self.bus: LocalBus[RoomEvent] = LocalBus()
        self.store = MemoryStore(self.bus, clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)
        self.census = MemoryCensus(self.store)
        self.registry = LocalRegistry(describe, node, clock, presence.last_seen_ms)
        self.sessions = MemorySessions(clock)
        self.board = LocalBoard()
        self.policy = PolicyFollower(MemoryPolicyStore(), apply_policy, clock.wall_ms)

    def checks(self) -> dict[str, str]:
        """Return that there is nothing that could be wrong: everything is in this process."""
        return {"store": "", "pubsub": ""}

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Events of rooms are for this process's rooms."""
        del directory
        self.bus.listener = rooms.receive

    async def start(self, tasks: TaskGroup) -> None:
        """Nothing runs in the background."""
        del tasks

    async def stop(self) -> None:
        """Nobody is to be told."""

    def sweep(self) -> None:
        """Have the store swept."""
        self.store.sweep()

    async def examine(self) -> None:
        """Nobody is to be asked."""


class ClusterBackend:
    """A node among others, through Redis or Valkey."""

    shared = True

    def __init__(
        self,
        settings: Settings,
        node: str,
        clock: Clock,
        describe: Callable[[], NodeStatus],
        apply_policy: Callable[[Policy, AccessLists], None],
        *,
        client: StoreConnections,
    ) -> None:
        presence = settings.presence
        self._settings = settings
        self._node = node
        self._clock = clock
        self._keys = keys = Keys(settings.redis.prefix)
        self._client = client
        self._batcher = PipelineBatcher(client.lane(), TIMEOUT_S, lambda: None)
        # What backends and operators ask does not hold up presence.
        self._asking = PipelineBatcher(client.lane(), TIMEOUT_S, lambda: None)
        queries = Queries(self._asking, lambda: self.away)
        self._asking.sources = [queries]
        interval_ms = min(presence.heartbeat_ms, NONCE_INTERVAL_MAX_MS)
        self._subscriber = Subscriber(client.new_subscriber)
        self._monitor = ConnectivityMonitor(
            client.lane(),
            self._subscriber,
            keys.nonce_channel(node),
            register=self._register,
            registered=self._registered,
            lost=self._lost,
            restored=self._restored,
            scripts=[*SCRIPTS.values(), CLAIM, END_TOKENS],
            now_s=anyio.current_time,
            rng=SourcedRandom(),
            interval_s=interval_ms / 1000,
            patience_s=presence.heartbeat_ms * 1.5 / 1000,
        )
        self.health: Mapping[str, Any] = {}
        self._directory: Directory | None = None
        timing = Timing(
            ttl_ms=presence.ttl_ms,
            late_ms=presence.heartbeat_ms * 3 // 2,
            hold_ms=2 * presence.heartbeat_ms,
            claim_ms=presence.resume_ms,
        )
        self._rooms: Rooms | None = None
        self._shared = PresenceRedisStore(
            self._batcher,
            keys,
            clock,
            timing,
            node,
            hold_rest_ms=lambda: 0 if self._rejoin is None else self._rejoin.hold_rest_ms(),
            failed=lambda room, request: self.store.failed(room, request),  # noqa: PLW0108 - it is made of this
            unread=self._monitor.mark_unreachable,
            unanswered=lambda ask: self.store.ask_again(ask),  # noqa: PLW0108 - likewise
            answered=self._answered,
        )
        self.bus: RedisBus[RoomEvent] = RedisBus(
            self._batcher, self._subscriber, self._monitor, keys, RoomEvents()
        )
        island = MemoryStore(Island(self.bus), clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)
        self.store = ClusterStore(self._shared, island, self._monitor)
        self._batcher.sources = [self._shared, self.bus]
        self._rejoin: Rejoin | None = None
        self.registry = RedisRegistry(
            queries,
            keys,
            clock,
            describe,
            node=node,
            ttl_ms=presence.ttl_ms,
            last_seen_ms=presence.last_seen_ms,
        )
        self.census = RedisCensus(queries, self._shared, keys, clock)
        self.registry.forgotten = self.census.forget
        self.sessions = RedisSessions(queries, keys)
        self.board = RedisBoard(queries, keys, node)
        self.policy = PolicyFollower(RedisPolicyStore(queries, keys), apply_policy, clock.wall_ms)

    @property
    def away(self) -> bool:
        """Whether the shared store is out of reach."""
        return self._monitor.away

    async def examine(self) -> None:
        """Ask the store how it is; no answer in time leaves nothing said."""
        self.health = {}
        with anyio.move_on_after(EXAMINE_S):
            try:
                self.health = await self._client.execute("INFO")
            except AWAY:  # it need not be allowed, and may be away
                return

    @property
    def losses(self) -> int:
        """How often contact was lost."""
        return self._monitor.losses

    @property
    def round_trips(self) -> Histogram:
        """How long the proof of contact took."""
        return self._monitor.round_trips

    @property
    def pipeline_seconds(self) -> Histogram:
        """How long pipelines of presence took."""
        return self._batcher.seconds

    @property
    def pipeline_failures(self) -> int:
        """How many pipelines of presence failed."""
        return self._batcher.failures

    def checks(self) -> dict[str, str]:
        """Return what is wrong with the store, and with hearing the others."""
        return self._monitor.checks()

    def attach(self, rooms: Rooms, directory: Directory) -> None:
        """Events of rooms are for this node's rooms, claims for its connections."""
        self._directory = directory
        self._rejoin = Rejoin(
            node=self._node,
            rooms=rooms,
            store=self.store,
            bus=self.bus,
            clock=self._clock,
            presence=self._settings.presence,
        )
        self._rooms = rooms

        def receive(room: str, event: RoomEvent) -> None:
            if isinstance(event, Delta):
                self._shared.heard(room, event)
            rooms.receive(room, event)

        self.bus.listener = receive
        keys = self._keys
        self._subscriber.subscribe(keys.node_channel(self._node), partial(self._hear_own, directory))
        self._subscriber.subscribe(keys.orders_channel(), self._hear_order)
        self._subscriber.subscribe(keys.policy_channel(), lambda _: self.policy.wake())
        directory.alone = lambda: self._monitor.away

    def _hear_own(self, directory: Directory, payload: bytes) -> None:
        """Take what concerns this node alone."""
        try:
            kind, *rest = msgspec.msgpack.decode(payload)
            if kind == "claimed":
                directory.claimed(*rest)
            elif kind == "message":
                self.registry.heard_message(*rest)
            elif kind == "rooms?":
                self.registry.heard_question(*rest)
            elif kind == "rooms":
                self.registry.heard_rooms(*rest)
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            log.warning("what another node says cannot be read", error=str(exc))

    def _hear_order(self, payload: bytes) -> None:
        """Take what concerns every node."""
        try:
            self.registry.heard(payload)
        except ValueError as exc:
            log.warning("an order cannot be read", error=str(exc))

    def _answered(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        if self._rooms is not None:
            self._rooms.known(room, generation, seq)

    async def start(self, tasks: TaskGroup) -> None:
        """Keep contact and run pipelines; wait a little for the store, which may be away."""
        tasks.start_soon(self._monitor.run)
        tasks.start_soon(self._batcher.run)
        tasks.start_soon(self._asking.run)
        with anyio.move_on_after(2 * TIMEOUT_S):
            await self._monitor.made.wait()
        if self._monitor.away:
            log.warning("the store cannot be reached; this node is an island until it can")
        else:
            await self._check_server()
            with contextlib.suppress(StoreAwayError, *AWAY), anyio.move_on_after(TIMEOUT_S):
                await self.policy.look()  # before clients come, of whom some may be denied
        tasks.start_soon(self.policy.run)

    async def _check_server(self) -> None:
        """Warn of a server that may throw presence away."""
        try:
            answer = await self._client.execute("CONFIG", "GET", "maxmemory-policy")
        except AWAY:  # it need not be allowed
            return
        policy = bytes(answer.get(b"maxmemory-policy", b"noeviction")).decode()
        if policy != "noeviction":
            log.warning("the store may evict members; set maxmemory-policy noeviction", policy=policy)

    async def stop(self) -> None:
        """Take this node out of the registry."""
        expiry, records, *_ = self._keys.nodes()
        with anyio.move_on_after(TIMEOUT_S):
            try:
                await self._client.execute("ZREM", expiry, self._node)
                await self._client.execute("HDEL", records, self._node)
            except AWAY as exc:
                log.info("this node stays in the registry until its record ends", error=str(exc))

    def _lost(self) -> None:
        """Go on alone."""
        if self._rejoin is not None:
            self._rejoin.lost()
        self.bus.isolate()

    def _restored(self, without_s: float, same_server: bool) -> None:
        """Be with the others again, and tell the registry what has happened meanwhile."""
        del same_server
        self.registry.renew_all()
        self.census.forget()
        self.policy.wake()
        if self._rejoin is not None:
            self._rejoin.back(without_s)

    def sweep(self) -> None:
        """Have the store swept, views that have missed something read, and what was noted sent."""
        self.store.sweep()
        if not self.away:
            self.registry.sweep()
            self.census.sweep()
        if self._rejoin is not None:
            self._rejoin.check()

    def _register(self) -> Call:
        """Return the call that keeps this node's record, and agrees on the secret of resume tokens."""
        secret = ""
        if self._directory is not None and not self._settings.auth.resume_secret:
            secret = self._directory.tokens.secret
        return self.registry.register(secret, 2 * self._settings.presence.resume_ms)

    def _registered(self, answer: Sequence[Any]) -> None:
        secret = self.registry.registered(answer)
        if secret and self._directory is not None:
            self._directory.tokens.sign_with(secret)


class Island:
    """Where an island's store announces: this node's own rooms."""

    def __init__(self, bus: RedisBus[RoomEvent]) -> None:
        self._bus = bus

    def publish(self, room: str, event: Delta, sent: Callable[[], None] | None = None) -> None:
        """Deliver to this node."""
        self._bus.deliver(room, event)
        if sent is not None:
            sent()

    def subscribe(self, room: str, ready: Callable[[], None]) -> None:
        """Nobody subscribes on an island."""
        del room
        ready()

    def unsubscribe(self, room: str) -> None:
        """Nobody subscribes on an island."""
