"""The backends of a node: store, bus and registry in this process alone, or shared with other nodes through Redis."""

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
from presence_server.cluster.connectivity import (
    ClockStepped,
    Connectivity,
    Event,
    HistoryBroken,
    Lost,
    OwnMemberLost,
    Restored,
    State,
    Suspended,
)
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
from presence_server.presence.redis import PresenceRedisStore, Request, Timing
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
from presence_server.rooms.observer import RoomsObserver
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


class NodeBackend(RoomsObserver, Protocol):
    """The store, the bus and the registry of a node, and the work in the background that they need."""

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

    def is_isolated(self) -> bool:
        """Tell whether the shared store is out of reach."""

    def checks(self) -> dict[str, str]:
        """Return each thing that the node needs, by name, with what is wrong with it; "": nothing."""

    async def start(self, tasks: TaskGroup, rooms: Rooms, directory: Directory) -> None:
        """Begin background work for rooms and connections; returns when the node may say that it is ready."""

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
    """The backend of a process on its own: everything is in memory."""

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

    def is_isolated(self) -> bool:
        """Return False: everything is in this process."""
        return False

    def is_stale(self, room: str) -> bool:
        """Return False: there are no other nodes."""
        del room
        return False

    def entered(self, room: str) -> None:
        """Do nothing: the store knows its rooms."""

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Do nothing: a store in this process loses a member only because nobody has renewed it in time."""

    def history_broken(self, room: str) -> None:
        """Do nothing: a store in this process keeps its history for as long as the process lives."""

    async def start(self, tasks: TaskGroup, rooms: Rooms, directory: Directory) -> None:
        """Do nothing: there is no background work."""

    async def stop(self) -> None:
        """Do nothing: there are no other nodes."""

    def sweep(self) -> None:
        """Sweep the store."""
        self.store.sweep()

    async def examine(self) -> None:
        """Do nothing: there is no shared store."""


class ClusterBackend:
    """The backend of a node among others: in Redis or Valkey, and in memory while that is out of reach."""

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
        self._batcher = PipelineBatcher(client.lane(), TIMEOUT_S, self._observe_clock)
        # What backends and operators ask does not hold up presence.
        self._asking = PipelineBatcher(client.lane(), TIMEOUT_S, lambda: None)
        queries = Queries(self._asking, self.is_isolated)
        self._asking.sources = [queries]
        heartbeat_ms = presence.heartbeat_ms
        self._patience_ms, hold_ms = heartbeat_ms * 3 // 2, 2 * heartbeat_ms
        # A standalone server is one shard.
        self._connectivity = Connectivity(
            patience_ms=self._patience_ms, hold_ms=hold_ms, doubt_ms=presence.ttl_ms
        )
        self._rejoin: Rejoin | None = None
        self._suspended_ms, self._stepped_ms = clock.suspended_ms, clock.stepped_ms
        self._subscriber = Subscriber(client.new_subscriber)
        self._monitor = ConnectivityMonitor(
            client.lane(),
            self._subscriber,
            keys.nonce_channel(node),
            register=self._register,
            registered=self._registered,
            lost=self._lost,
            restored=self._restored,
            now_s=anyio.current_time,
            rng=SourcedRandom(),
            interval_s=min(heartbeat_ms // 2, NONCE_INTERVAL_MAX_MS) / 1000,
            patience_s=self._patience_ms / 1000,
        )
        self.health: Mapping[str, Any] = {}
        self._directory: Directory | None = None
        self._rooms: Rooms | None = None
        timing = Timing(
            ttl_ms=presence.ttl_ms,
            late_ms=self._patience_ms,
            hold_ms=hold_ms,
            claim_ms=presence.resume_ms,
        )
        self._shared = PresenceRedisStore(
            self._batcher,
            keys,
            clock,
            timing,
            node,
            hold_rest_ms=self._hold_rest_ms,
            is_detached=self.is_isolated,
            failed=self._failed,
            unread=self._monitor.mark_unreachable,
            unanswered=self._unanswered,
            answered=self._answered,
        )
        self.bus: RedisBus[RoomEvent] = RedisBus(
            self._batcher,
            self._subscriber,
            keys,
            RoomEvents(),
            is_isolated=self.is_isolated,
            mark_unreachable=self._monitor.mark_unreachable,
            contact_s=self._monitor.contact_s,
        )
        memory = MemoryStore(HereBus(self.bus), clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms)
        self.store = ClusterStore(
            self._shared,
            memory,
            node=node,
            clock=clock,
            heartbeat_ms=heartbeat_ms,
            is_isolated=self.is_isolated,
            mark_unreachable=self._monitor.mark_unreachable,
        )
        self._batcher.sources = [self._shared, self.bus]
        self.registry = RedisRegistry(
            queries,
            keys,
            clock,
            describe,
            self._forgotten,
            node=node,
            ttl_ms=presence.ttl_ms,
            last_seen_ms=presence.last_seen_ms,
        )
        self.census = RedisCensus(queries, self._shared, keys, clock)
        self.sessions = RedisSessions(queries, keys)
        self.board = RedisBoard(queries, keys, node)
        self.policy = PolicyFollower(RedisPolicyStore(queries, keys), apply_policy, clock.wall_ms)

    # --- what rooms are told and ask ---

    def is_isolated(self) -> bool:
        """Tell whether the shared store is out of reach."""
        return self._connectivity.state is State.ISOLATED

    def is_stale(self, room: str) -> bool:
        """Tell whether other nodes' members of a room may be out of date."""
        del room  # of the one shard
        return self._connectivity.stale

    def entered(self, room: str) -> None:
        """Note that a room has members here."""
        self.census.entered(room)

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Repair what the store has lost."""
        log.warning("the store has lost a member of this node", room=room)
        self._on(OwnMemberLost(asked_ms))

    def history_broken(self, room: str) -> None:
        """Repair what the store has lost."""
        log.warning("the store has lost what it said of a room", room=room)
        self._on(HistoryBroken())

    # --- the state of the store, for operators ---

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

    def _hear_own(self, directory: Directory, payload: bytes) -> None:
        """Handle a message on this node's own channel."""
        try:
            kind, *rest = msgspec.msgpack.decode(payload)
            if kind == "claimed":
                directory.claims.heard(*rest)
            elif kind == "message":
                self.registry.heard_message(*rest)
            elif kind == "rooms?":
                self.registry.heard_question(*rest)
            elif kind == "rooms":
                self.registry.heard_rooms(*rest)
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            log.warning("what another node says cannot be read", error=str(exc))

    def _hear_order(self, payload: bytes) -> None:
        """Handle an order on the channel of all nodes."""
        try:
            self.registry.heard(payload)
        except ValueError as exc:
            log.warning("an order cannot be read", error=str(exc))

    async def start(self, tasks: TaskGroup, rooms: Rooms, directory: Directory) -> None:
        """Keep contact and run pipelines; wait a little for the store, which may be away."""
        self._directory, self._rooms = directory, rooms
        self._rejoin = Rejoin(
            node=self._node,
            connectivity=self._connectivity,
            rooms=rooms,
            claims=directory.claims,
            lingers=directory.lingers,
            find=directory.find,
            store=self.store,
            bus=self.bus,
            clock=self._clock,
            presence=self._settings.presence,
            renew_contact=self._monitor.mark_unreachable,
            note_anew=self._note_anew,
        )
        keys = self._keys
        self._subscriber.subscribe(keys.node_channel(self._node), partial(self._hear_own, directory))
        self._subscriber.subscribe(keys.orders_channel(), self._hear_order)
        self._subscriber.subscribe(keys.policy_channel(), lambda _: self.policy.wake())
        tasks.start_soon(self._monitor.run)
        tasks.start_soon(self._batcher.run)
        tasks.start_soon(self._asking.run)
        with anyio.move_on_after(2 * TIMEOUT_S):
            await self._monitor.made.wait()
        if self.is_isolated():
            log.warning("the store cannot be reached; this node is isolated until it can")
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

    def sweep(self) -> None:
        """Have the store swept, views that have missed something read, and what was noted sent."""
        self._observe_clock()
        self.store.sweep()
        self.bus.sweep()
        if not self.is_isolated():
            self.registry.sweep()
            self.census.sweep()
        if self._rejoin is not None:
            self._rejoin.check()

    def _on(self, event: Event) -> None:
        """Take an event of the shard; before the start there is nothing that could be done about it."""
        if self._rejoin is not None:
            self._rejoin.on(event)

    def _lost(self) -> None:
        self._on(Lost())
        self.bus.isolate()

    def _restored(self, without_s: float, same_server: bool) -> None:
        """Leave isolation: contact is there again."""
        self.policy.wake()
        self._on(Restored(round(without_s * 1000), same_server))

    def _forgotten(self) -> None:
        """Repair what the store has lost: it does not know this node any more."""
        self.census.forget()
        self._on(OwnMemberLost(self._clock.now_ms()))

    def _note_anew(self) -> None:
        """Note this node's connections and rooms anew, soon: the store may have lost them."""
        self.registry.renew_all()
        self.census.forget()

    def _hold_rest_ms(self) -> int:
        self._observe_clock()
        return self._connectivity.hold_rest_ms(self._clock.now_ms())

    def _observe_clock(self) -> None:
        """See whether this process was frozen, or the store's clock put forward, before anybody is judged by it."""
        self._clock.now_ms()
        suspended_ms, self._suspended_ms = (
            self._clock.suspended_ms - self._suspended_ms,
            self._clock.suspended_ms,
        )
        stepped_ms, self._stepped_ms = self._clock.stepped_ms - self._stepped_ms, self._clock.stepped_ms
        if suspended_ms > self._patience_ms:
            log.warning("this process was suspended", ms=suspended_ms)
            self._on(Suspended())
        if stepped_ms > self._patience_ms:
            log.warning("the store's clock was put forward", ms=stepped_ms)
            self._on(ClockStepped())

    def _failed(self, room: str, request: Request) -> None:
        self.store.failed(room, request)

    def _unanswered(self, ask: Callable[[PresenceStore], None]) -> None:
        self.store.ask_again(ask)

    def _answered(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        if self._rooms is not None:
            self._rooms.known(room, generation, seq)

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


class HereBus:
    """The bus of an isolated node's memory store: it delivers to this node's own rooms alone."""

    def __init__(self, bus: RedisBus[RoomEvent]) -> None:
        self._bus = bus

    def publish(self, room: str, event: Delta, sent: Callable[[], None] | None = None) -> None:
        """Deliver to this node."""
        self._bus.deliver(room, event)
        if sent is not None:
            sent()
