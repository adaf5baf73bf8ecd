"""A node without its sockets: all that lies between what a client sent and the store.

`server` puts sockets and ports around it; tests run whole clusters of it on a clock of their own.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from presence_server import __version__
from presence_server.api.dependencies import ApiDependencies
from presence_server.auth.anonymous import Anonymous
from presence_server.auth.identity import Authenticator
from presence_server.auth.jwks import Jwks
from presence_server.auth.opaque import SessionAuthenticator
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.clock import Clock
from presence_server.cluster.backend import ClusterBackend
from presence_server.cluster.local import LocalBackend
from presence_server.cluster.port import BackendContext, NodeBackend
from presence_server.cluster.sharded import ShardedBackend
from presence_server.config.check import is_shared
from presence_server.config.settings import Settings
from presence_server.config.store_url import Topology, parse_store_url
from presence_server.counters import Counts, Histogram
from presence_server.errors import StoreAwayError
from presence_server.faults import contain
from presence_server.hub.hub import Hub
from presence_server.ids import new_node_id, new_secret
from presence_server.opaque_sessions.port import SessionStore
from presence_server.redis_io.client import AWAY, RedisClient
from presence_server.redis_io.cluster_slots import ClusterServers
from presence_server.registry.port import NodeStatus
from presence_server.rooms.backend import BackendRooms
from presence_server.rooms.context import NodeContext
from presence_server.rooms.rooms import new_rooms
from presence_server.rooms.rules import Rules
from presence_server.session.directory import Directory
from presence_server.session.lingers import Lingers
from presence_server.session.message_rate import MessageRateLimit
from presence_server.session.resume import ResumeTokens
from presence_server.throttle.configured import RulesInForce, limiter_of, rules_of
from presence_server.throttle.decision import Decision
from presence_server.throttle.talkers import PUBLISHED_EVERY_S, TalkersReport

BEATS: Final = 10
"""Parts that a heartbeat's work is spread over."""


class Ticker:
    """Calls a hub's `tick` when the hub asks for it: at the end of this turn of the loop, or by a certain time.

    `new_hub(wake)` makes the hub.
    """

    def __init__(self, clock: Clock, new_hub: Callable[[Callable[[int], None]], Hub]) -> None:
        self.seconds = Histogram()
        """The durations of ticks, s."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self.hub = new_hub(self.wake)

    def wake(self, delay_ms: int) -> None:
        """Tick no later than `delay_ms` from now."""
        if delay_ms <= 0:
            if not self._soon:
                self._soon = True
                self._loop.call_soon(self._tick)
            return
        when = self._loop.time() + delay_ms / 1000
        if self._timer is None or when < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(when, self._ring)

    def waited_s(self) -> float:
        """Return how long what is gathered has waited to be written."""
        return self.hub.backlog.waited_s()

    def _ring(self) -> None:
        self._timer = None
        self.wake(0)

    def _tick(self) -> None:
        self._soon = False
        began_s = perf_counter()
        self.hub.tick(self._clock.now_ms())
        self.seconds.observe(perf_counter() - began_s)


class NodeCore:
    """The parts of a node, wired up; its sweeps and beats are called by whoever runs it.

    `sheds_signal` tells whether signals are dropped at present; `now_s` is the clock by which a tick writes for a
    bounded time; `new_client(url)` makes the way to the shared store.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        sheds_signal: Callable[[], bool],
        now_s: Callable[[], float] = perf_counter,
        new_client: Callable[[str], RedisClient] = RedisClient,
    ) -> None:
        self.settings = settings
        self.id = new_node_id()
        self.clock = clock
        self._began_ms = clock.now_ms()
        limits = settings.limits
        new_hub = partial(
            Hub,
            soft_bytes=limits.outbox_soft_bytes,
            hard_bytes=limits.outbox_hard_bytes,
            hard_ms=limits.outbox_hard_ms,
            total_bytes=limits.outbox_total_bytes,
            sheds_signal=sheds_signal,
            now_s=now_s,
        )
        self.ticker = Ticker(clock, new_hub)
        self.hub = self.ticker.hub
        self.decisions: Counts[tuple[str, bool, bool, str]] = Counts()
        """The limiter's, by rule, whether it was allowed, whether it would have been denied, and source."""
        self.late_decisions: Counts[str] = Counts()
        """Decisions that took longer than the deadline, by whose fault it was: `self` or `store`."""
        self._worst_lag_s = 0.0
        """The greatest lag of the event loop since this node last described itself, s."""
        self.nodes_known = 1
        """The number of nodes when the store was last asked; 1 before that."""
        self.limiter = limiter_of(settings, lambda: self.nodes_known, self._note_decision)
        self.rules_in_force = RulesInForce(self.limiter, rules_of(settings.throttle))
        self.shared = is_shared(settings)
        self.message_rate = MessageRateLimit(self.limiter, settings.throttle)
        self.rules = Rules(settings.rooms)
        self.jwks = Jwks(settings.auth.jwks_url, clock) if _wants_jwks(settings) else None
        self.backend = self._new_backend(new_client)
        self.directory = self.backend.directory
        self.rooms = self.directory.rooms
        self.authenticator = self.directory.authenticator
        self.api_dependencies = ApiDependencies(
            rooms=BackendRooms(self.backend.store, self.backend.bus, self.rules, clock, limits),
            room_index=self.backend.room_index,
            registry=self.backend.registry,
            sessions=self.backend.sessions,
            limiter=self.limiter,
            policy=self.backend.policy,
            talkers_board=self.backend.talkers_board,
            figures_board=self.backend.figures_board,
            examine_store=self._examine_store,
            clock=clock,
            is_shared=self.shared,
            is_isolated=self.backend.is_isolated,
            is_part_isolated=self.backend.is_part_isolated,
        )

    async def start(self, tasks: TaskGroup) -> None:
        """Begin background work; returns when the node may say that it is ready."""
        await self.backend.start(tasks)

    def describe(self) -> NodeStatus:
        """Say how this node is, for the others."""
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        return NodeStatus(
            node=self.id,
            version=__version__,
            connections=len(self.directory),
            rooms=len(self.rooms.views),
            uptime_ms=self.uptime_ms(),
            lag_ms=round(lag_s * 1_000),
            policy=self.backend.policy.version,
        )

    def note_lag(self, lag_s: float) -> None:
        """Note how late the event loop was, for the next description."""
        self._worst_lag_s = max(self._worst_lag_s, lag_s)

    def uptime_ms(self) -> int:
        """Return for how long this node has been running, without suspensions."""
        return self.clock.now_ms() - self._began_ms

    def sweep_node(self, now_ms: int) -> None:
        """Look at everything here that has a deadline; called several times a second."""
        contain("sweep", self.directory.sweep_sessions)
        contain("sweep", self.hub.close_stuck, now_ms)
        contain("sweep", self.backend.sweep)
        contain("sweep", self.rooms.views.read_behind_and_drop_idle)
        contain("sweep", self.limiter.roll)

    async def renew_members(self) -> None:
        """Renew this node's members for ever, a part at a time."""
        while True:
            for part in range(BEATS):
                await anyio.sleep(self.settings.presence.heartbeat_ms / 1000 / BEATS)
                contain("beat", self.rooms.memberships.beat, part, BEATS)

    async def follow_nodes(self) -> None:
        """Count the nodes, and tell the others which keys are hit most here, for ever."""
        while True:
            with contextlib.suppress(StoreAwayError, *AWAY):
                self.nodes_known = max(len(await self.backend.registry.nodes()), 1)
            now_s, talkers = anyio.current_time(), self.limiter.talkers
            hits = talkers.report("hits", now_s)
            report = TalkersReport(hits, talkers.report("refused", now_s)) if hits.lines else None
            contain("figures", self.backend.talkers_board.publish, report)
            await anyio.sleep(PUBLISHED_EVERY_S)

    async def _examine_store(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the servers of the shared store say of themselves now, by name."""
        await self.backend.examine()
        return self.backend.health

    def _new_backend(self, new_client: Callable[[str], RedisClient]) -> NodeBackend:
        """Make store, bus and registry, shared or not, with what is over them."""
        context = BackendContext(
            settings=self.settings,
            node=self.id,
            clock=self.clock,
            describe=self.describe,
            apply_policy=self.rules_in_force.apply,
            new_directory=self._new_directory,
        )
        if not self.shared:
            return LocalBackend(context)
        url = self.settings.redis.url
        parsed = parse_store_url(url)
        if parsed.topology is Topology.CLUSTER:
            return ShardedBackend(
                context,
                servers=ClusterServers(parsed),
                new_client=lambda address: RedisClient(parsed, at=address),
            )
        return ClusterBackend(context, new_client=lambda _: new_client(url))

    def _new_directory(self, backend: NodeBackend) -> Directory:
        """Make the connections and rooms of this node over a backend."""
        settings = self.settings
        context = NodeContext(self.id, self.clock, settings.presence, settings.limits)
        lingers = Lingers(self.clock)
        rooms = new_rooms(
            context,
            hub=self.hub,
            store=backend.store,
            bus=backend.bus,
            rules=self.rules,
            banned_until=backend.registry.banned_until,
            observer=backend,
            is_lingering=lingers.is_lingering,
            shared=self.shared,
        )
        return Directory(
            context,
            rooms=rooms,
            store=backend.store,
            authenticator=self._new_authenticator(backend.sessions),
            tokens=ResumeTokens(settings.auth.resume_secret or new_secret(), settings.presence.resume_ms),
            message_rate=self.message_rate,
            registry=backend.registry,
            is_isolated=backend.is_part_isolated,
            lingers=lingers,
        )

    def _new_authenticator(self, sessions: SessionStore) -> Authenticator:
        """Return what checks credentials in the configured mode."""
        auth, info_bytes_max = self.settings.auth, self.settings.limits.info_bytes
        if auth.mode == "jwt":
            return TokenAuthenticator(auth, self.clock, info_bytes_max, self.jwks)
        if auth.mode == "session":
            return SessionAuthenticator(sessions, self.clock, info_bytes_max)
        return Anonymous(info_bytes_max)

    def _note_decision(self, decision: Decision) -> None:
        self.decisions[decision.rule, decision.allowed, decision.would_deny, decision.source] += 1
        if decision.late:
            self.late_decisions[decision.late] += 1


def _wants_jwks(settings: Settings) -> bool:
    return settings.auth.mode == "jwt" and bool(settings.auth.jwks_url)
