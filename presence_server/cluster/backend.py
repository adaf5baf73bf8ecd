"""The backend of a node among others: store, bus and registry shared through Redis or Valkey."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskGroup

from presence_server.bus.redis import RedisBus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import (
    ClockStepped,
    Connectivity,
    HistoryBroken,
    Lost,
    NodeForgotten,
    OwnMemberLost,
    Restored,
    State,
    Suspended,
)
from presence_server.cluster.port import NodeBackend
from presence_server.cluster.rejoin import Rejoin
from presence_server.cluster.store import ClusterStore, LocalDelivery
from presence_server.config.settings import Settings
from presence_server.errors import StoreAwayError
from presence_server.ids import SourcedRandom
from presence_server.measure import Histogram
from presence_server.presence.census_redis import RedisCensus
from presence_server.presence.memory import MemoryStore
from presence_server.presence.redis import PresenceRedisStore, Request, Timing
from presence_server.presence.store import PresenceStore
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import AWAY, TIMEOUT_S
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.monitor import ConnectivityMonitor
from presence_server.redis_io.port import StoreConnections
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.subscriber import Subscriber
from presence_server.registry.port import NodeStatus
from presence_server.registry.redis import RedisRegistry
from presence_server.rooms.wire import RoomEvents
from presence_server.session.directory import Directory
from presence_server.sessions.redis import RedisSessions
from presence_server.throttle.board import RedisBoard
from presence_server.throttle.lists import AccessLists
from presence_server.throttle.policy import Policy
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.policy_store import RedisPolicyStore

if TYPE_CHECKING:
    from presence_server.rooms.events import RoomEvent

NONCE_INTERVAL_MAX_MS: Final = 1_000
EXAMINE_S: Final = 0.5
log = structlog.get_logger()


class ClusterBackend:
    """Store, bus and registry that nodes share, and this node's own memory while they are out of reach.

    `new_directory(backend)` makes the node's connections and rooms, over a backend that has everything but those.
    """

    shared = True

    def __init__(
        self,
        settings: Settings,
        node: str,
        clock: Clock,
        *,
        describe: Callable[[], NodeStatus],
        apply_policy: Callable[[Policy, AccessLists], None],
        new_directory: Callable[[NodeBackend], Directory],
        client: StoreConnections,
    ) -> None:
        self.directory: Directory
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
        heartbeat_ms = presence.heartbeat_ms
        self._patience_ms, hold_ms = heartbeat_ms * 3 // 2, 2 * heartbeat_ms
        # A standalone server is one shard.
        self._connectivity = Connectivity(
            patience_ms=self._patience_ms, hold_ms=hold_ms, doubt_ms=presence.ttl_ms
        )
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
            is_isolated=self.is_isolated,
            failed=self._failed,
            mark_unreachable=self._monitor.mark_unreachable,
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
        memory = MemoryStore(
            LocalDelivery(self.bus.deliver), clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms
        )
        self.store = ClusterStore(
            self._shared,
            memory,
            node=node,
            clock=clock,
            heartbeat_ms=heartbeat_ms,
            is_isolated=self.is_isolated,
            mark_unreachable=self._monitor.mark_unreachable,
        )
        self.registry = RedisRegistry(
            queries,
            keys,
            clock,
            describe,
            forgotten=self._forgotten,
            connections=lambda: self.directory,
            node=node,
            ttl_ms=presence.ttl_ms,
            last_seen_ms=presence.last_seen_ms,
        )
        self.census = RedisCensus(queries, self._shared, keys, clock)
        self.sessions = RedisSessions(queries, keys)
        self.board = RedisBoard(queries, keys, node)
        self.policy = PolicyFollower(RedisPolicyStore(queries, keys), apply_policy, clock.wall_ms)
        self.directory = new_directory(self)
        self._rejoin = Rejoin(
            node=node,
            connectivity=self._connectivity,
            directory=self.directory,
            store=self.store,
            bus=self.bus,
            clock=clock,
            presence=presence,
            renew_contact=self._monitor.mark_unreachable,
            note_anew=self._note_anew,
            deliver_unsent=self.bus.isolate,
            follow_policy=self.policy.wake,
        )
        self._subscriber.subscribe(keys.node_channel(node), self._hear_own)
        self._subscriber.subscribe(keys.orders_channel(), self._hear_order)
        self._subscriber.subscribe(keys.policy_channel(), lambda _: self.policy.wake())

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
        self._repair("a member of this node", room, OwnMemberLost(asked_ms))

    def history_broken(self, room: str) -> None:
        """Repair what the store has lost."""
        self._repair("what it said of a room", room, HistoryBroken())

    def _repair(self, what: str, room: str, event: OwnMemberLost | HistoryBroken) -> None:
        log.warning("the store has lost something", what=what, room=room)
        self._rejoin.on(event)

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

    def _hear_own(self, payload: bytes) -> None:
        """Handle a message on this node's own channel."""
        try:
            kind, *rest = msgspec.msgpack.decode(payload)
            if kind == "claimed":
                self.directory.claims.heard(*rest)
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

    async def start(self, tasks: TaskGroup) -> None:
        """Keep contact and run pipelines; wait a little for the store, which may be away."""
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
        self._rejoin.check()

    def _lost(self) -> None:
        self._rejoin.on(Lost())

    def _restored(self, without_s: float, same_server: bool) -> None:
        self._rejoin.on(Restored(round(without_s * 1000), same_server))

    def _forgotten(self) -> None:
        self._rejoin.on(NodeForgotten())

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
            self._rejoin.on(Suspended())
        if stepped_ms > self._patience_ms:
            log.warning("the store's clock was put forward", ms=stepped_ms)
            self._rejoin.on(ClockStepped())

    def _failed(self, room: str, request: Request) -> None:
        self.store.failed(room, request)

    def _unanswered(self, ask: Callable[[PresenceStore], None]) -> None:
        self.store.ask_again(ask)

    def _answered(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        self.directory.rooms.known(room, generation, seq)

    def _register(self) -> Call:
        """Return the call that keeps this node's record, and agrees on the secret of resume tokens."""
        secret = ""
        if not self._settings.auth.resume_secret:
            secret = self.directory.tokens.secret
        return self.registry.register(secret, 2 * self._settings.presence.resume_ms)

    def _registered(self, answer: Sequence[Any]) -> None:
        secret = self.registry.registered(answer)
        if secret:
            self.directory.tokens.sign_with(secret)
