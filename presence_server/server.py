"""The composition root: builds a node from its settings, runs it, and stops it in reverse."""

import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from time import monotonic, perf_counter
from typing import Final

import anyio
import structlog
from anyio.abc import TaskStatus

from presence_server import __version__
from presence_server.api.app import Api, make_app
from presence_server.api.calls import Calls
from presence_server.api.http import bind, make_server
from presence_server.api.parts import Parts
from presence_server.auth.anonymous import Anonymous
from presence_server.auth.identity import Authenticator
from presence_server.auth.jwks import Jwks
from presence_server.auth.opaque import SessionAuthenticator
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.backbone import Alone, Backbone, Together
from presence_server.clock import Clock, SystemClock
from presence_server.config.check import is_shared
from presence_server.config.settings import Settings
from presence_server.edge.deadlines import SLICE_MS
from presence_server.edge.gate import Gate
from presence_server.edge.listener import Listener
from presence_server.edge.overload import Overload
from presence_server.edge.turns import Turns
from presence_server.errors import ConfigError, StoreAwayError
from presence_server.garbage import GarbageCollector
from presence_server.hub.hub import Hub
from presence_server.ids import new_node_id
from presence_server.logs import flush_floods
from presence_server.measure import Counts, Histogram
from presence_server.metrics import Page
from presence_server.redis_io.client import AWAY
from presence_server.registry.port import NodeStatus
from presence_server.rooms.backend import BackendRooms
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.rules import Rules
from presence_server.session.directory import Directory
from presence_server.session.pace import Pace
from presence_server.session.resume import ResumeTokens
from presence_server.throttle.board import PUBLISHED_EVERY_S, NodeReport
from presence_server.throttle.configured import RulesInForce, limiter_of, rules_of
from presence_server.throttle.decision import Decision

LIMITER_CONNECT_S: Final = 0.5
"""How long a start waits for the limiter's store, so that the first handshakes are counted; it goes on without."""
SWEEPS_A_SECOND: Final = 1_000 // SLICE_MS
BEATS: Final = 10
"""Parts that a heartbeat's work is spread over."""

log = structlog.get_logger()


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node until it is told to stop; return the process's exit code.

    `reload` reads the settings again, when SIGHUP asks for it; it may raise `ConfigError`.
    """
    use_uvloop = find_spec("uvloop") is not None
    return anyio.run(serve, settings, reload, backend_options={"use_uvloop": use_uvloop})


async def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node in this event loop."""
    node = Node(settings, reload)
    code = 0
    try:
        await node.run()
    except* OSError as group:
        log.critical("cannot listen", error=str(group.exceptions[0]))
        code = 1
    return code


class Ticker:
    """Has the hub tick when it asks to: at the end of this turn of the loop, or by a certain time."""

    def __init__(self, clock: Clock) -> None:
        self.hub: Hub | None = None
        self.seconds = Histogram()
        """How long ticks took, s."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None

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
        return 0.0 if self.hub is None else self.hub.backlog.waited_s()

    def _ring(self) -> None:
        self._timer = None
        self.wake(0)

    def _tick(self) -> None:
        self._soon = False
        if self.hub is not None:
            began_s = perf_counter()
            self.hub.tick(self._clock.now_ms())
            self.seconds.observe(perf_counter() - began_s)


class Node:
    """Everything that one process runs."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self.settings = settings
        self._reload = reload
        self.id = new_node_id()
        self.clock = SystemClock()
        self._began_ms = self.clock.now_ms()
        presence, limits = settings.presence, settings.limits
        ticker = Ticker(self.clock)
        self.ticks = ticker.seconds
        self.garbage = GarbageCollector()
        self.lags = Histogram()
        """How late the loop was, s."""
        self._worst_lag_s = 0.0
        self.decisions: Counts[tuple[str, bool, bool, str]] = Counts()
        self.late_decisions: Counts[str] = Counts()
        """Decisions that took longer than the deadline, by whose fault it was: `self` or `store`."""
        self.api_calls: Counts[tuple[str, str, int]] = Counts()
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        self.overload = Overload(loop, limits.overload_ms, lambda: max(turns.waited_s(), ticker.waited_s()))
        self.hub = ticker.hub = Hub(
            ticker.wake,
            soft_bytes=limits.outbox_soft_bytes,
            hard_bytes=limits.outbox_hard_bytes,
            hard_ms=limits.outbox_hard_ms,
            total_bytes=limits.outbox_total_bytes,
            sheds_signal=self.overload.sheds_signal,
            now_s=perf_counter,
        )
        backbone = Together if is_shared(settings) else Alone
        self.nodes_known = 1
        """How many nodes there were when the store was last asked; this one alone before."""
        self.limiter = limiter_of(settings, lambda: self.nodes_known, self._note_decision)
        self.rules_in_force = RulesInForce(self.limiter, rules_of(settings.throttle))
        self.backbone: Backbone = backbone(
            settings, self.id, self.clock, self.describe, self.rules_in_force.apply
        )
        rules = Rules(settings.rooms)
        self.rooms = Rooms(
            node=self.id,
            hub=self.hub,
            store=self.backbone.store,
            bus=self.backbone.bus,
            rules=rules,
            clock=self.clock,
            presence=presence,
            limits=limits,
            banned_until=self.backbone.registry.banned_until,
            shared=is_shared(settings),
        )
        self.rooms.entered = self.backbone.census.entered
        self.authenticator: Authenticator = self._new_authenticator()
        self.pace = Pace(self.limiter, settings.throttle)
        tokens = ResumeTokens(settings.auth.resume_secret or secrets.token_hex(32), presence.resume_ms)
        self.directory = Directory(
            node=self.id,
            rooms=self.rooms,
            store=self.backbone.store,
            authenticator=self.authenticator,
            tokens=tokens,
            clock=self.clock,
            limits=limits,
            pace=self.pace,
            registry=self.backbone.registry,
            ping_ms=presence.ping_ms,
            resume_ms=presence.resume_ms,
            grace_ms=max(presence.grace_clean_ms, presence.grace_lost_ms),
        )
        if isinstance(self.authenticator, SessionAuthenticator):
            self.authenticator.ended = self.directory.revoke
            self.directory.session_held = self.authenticator.hold
            self.directory.session_let_go = self.authenticator.let_go
        self.backbone.attach(self.rooms, self.directory)
        self.gate = Gate(settings.throttle, settings.proxy, self.limiter, presence.ttl_ms)
        self.listener = Listener(
            settings,
            hub=self.hub,
            directory=self.directory,
            authenticator=self.authenticator,
            gate=self.gate,
            turns=turns,
            overload=self.overload,
            clock=self.clock,
        )
        self._api_keys = api_keys(settings)
        self._api = self._new_api(rules)
        self._page = Page(self)

    def describe(self) -> NodeStatus:
        """Say how this node is, for the others."""
        lag_s, self._worst_lag_s = self._worst_lag_s, 0.0
        connections, rooms = len(self.directory), len(self.rooms)
        return NodeStatus(
            self.id,
            __version__,
            connections,
            rooms,
            self.uptime_ms(),
            round(lag_s * 1_000),
            self.backbone.policy.version,
        )

    def uptime_ms(self) -> int:
        """Return how long this node has been there, awake."""
        return self.clock.now_ms() - self._began_ms

    def checks(self) -> dict[str, str]:
        """Return each thing that the node needs to serve, with what is wrong with it; "": nothing."""
        return self.backbone.checks() | {
            "draining": "this node is shutting down" if self.listener.draining else ""
        }

    def _new_authenticator(self) -> Authenticator:
        """Return what checks credentials in the configured mode."""
        auth, info_bytes_max = self.settings.auth, self.settings.limits.info_bytes
        self._jwks = Jwks(auth.jwks_url, self.clock) if auth.mode == "jwt" and auth.jwks_url else None
        if auth.mode == "jwt":
            return TokenAuthenticator(auth, self.clock, info_bytes_max, self._jwks)
        if auth.mode == "session":
            return SessionAuthenticator(self.backbone.sessions, self.clock, info_bytes_max)
        return Anonymous(info_bytes_max)

    def _new_api(self, rules: Rules) -> Api:
        backbone = self.backbone
        rooms = BackendRooms(backbone.store, backbone.bus, rules, self.clock, self.settings.limits)
        parts = Parts(
            rooms=rooms,
            census=backbone.census,
            registry=backbone.registry,
            sessions=backbone.sessions,
            limiter=self.limiter,
            policy=backbone.policy,
            board=backbone.board,
            clock=self.clock,
            away=lambda: backbone.away,
        )
        api = Api(Calls(parts), lambda: self._api_keys)
        api.answered = lambda method, path, status: self.api_calls.update([(method, path, status)])
        return api

    def _note_decision(self, decision: Decision) -> None:
        self.decisions[decision.rule, decision.allowed, decision.would_deny, decision.source] += 1
        if decision.late:
            self.late_decisions[decision.late] += 1

    async def _metrics(self) -> tuple[bytes, str]:
        await self.backbone.examine()
        return self._page.render()

    async def run(self) -> None:
        """Listen on both ports, say so, and serve until a signal comes; then drain."""
        server = self.settings.server
        api_socket = bind(server.api_host, server.api_port)
        api = make_server(make_app(self._api, checks=self.checks, metrics=self._metrics, version=__version__))
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                await self.backbone.start(tasks)
                await self.limiter.connect(LIMITER_CONNECT_S)
                if self._jwks is not None:
                    tasks.start_soon(self._jwks.run)
                if isinstance(self.authenticator, SessionAuthenticator):
                    tasks.start_soon(self.authenticator.run)
                client = "{}:{}".format(*await self.listener.start())
                tasks.start_soon(api.serve, [api_socket])
                tasks.start_soon(self._sweep)
                tasks.start_soon(self._beat)
                tasks.start_soon(self._follow_nodes)
                await tasks.start(self._listen_for_changes)
                self.garbage.start()
                self._say_ready(client, "{}:{}".format(*api_socket.getsockname()[:2]))
                await anext(signals)
                log.info("draining", connections=len(self.directory))
                async with anyio.create_task_group() as draining:
                    draining.start_soon(self._drain, draining)
                    await anext(signals)
                    draining.cancel_scope.cancel()
                self.garbage.stop()
                self.listener.stop()
                await api.finish()
                await self.backbone.stop()
                await self.limiter.aclose()
                tasks.cancel_scope.cancel()
        flush_floods()
        log.info("stopped")

    async def _listen_for_changes(self, task_status: TaskStatus[None]) -> None:
        """Go by other limits and secrets when SIGHUP says that the settings have changed; by all or by none."""
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()  # before this, the signal would end the process
            async for _ in signals:
                try:
                    self._change(self._reload())
                except ConfigError as exc:
                    log.warning("the settings cannot be used; the old ones stay", problems=exc.problems)
                except (OSError, ValueError) as exc:  # a file that was changed since it was checked
                    log.warning("the settings cannot be used as a whole", error=str(exc))
                else:
                    log.info("limits, secrets and certificates read again")

    def _change(self, settings: Settings) -> None:
        """Go by what can be changed while running."""
        throttle = settings.throttle
        self.rules_in_force.change_base(rules_of(throttle))
        self.limiter.on_error = throttle.on_error
        self.pace.change(throttle)
        self.gate.change(throttle)
        self.listener.change_certificate(settings.server.tls_cert, settings.server.tls_key)
        if isinstance(self.authenticator, TokenAuthenticator):
            self.authenticator.change(settings.auth)
        if settings.auth.resume_secret:
            self.directory.tokens.sign_with(settings.auth.resume_secret)
        if bool(settings.api.key) == bool(self._api_keys):
            self._api_keys = api_keys(settings)
        else:
            log.warning("whether there is an api.key is decided at start; it stays as it was")

    async def _drain(self, draining: anyio.abc.TaskGroup) -> None:
        await self.listener.drain(self.settings.server.drain_ms)
        draining.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Look at everything that has a deadline."""
        for sweeps in count(1):
            now_ms = self.clock.now_ms()
            if sweeps % SWEEPS_A_SECOND == 0:
                flush_floods()
            self.listener.sweep(now_ms)
            self.directory.sweep()
            self.hub.sweep(now_ms)
            self.backbone.sweep()
            self.rooms.check()
            self.limiter.roll()
            self.garbage.sweep(self.listener.sockets, now_ms)
            due_s = perf_counter() + SLICE_MS / 1000
            await anyio.sleep(SLICE_MS / 1000)
            lag_s = max(0.0, perf_counter() - due_s)
            self.lags.observe(lag_s)
            self._worst_lag_s = max(self._worst_lag_s, lag_s)

    async def _beat(self) -> None:
        """Renew this node's members, a part at a time."""
        while True:
            for part in range(BEATS):
                await anyio.sleep(self.settings.presence.heartbeat_ms / 1000 / BEATS)
                self.rooms.beat(part, BEATS)
            self.gate.leases.renew()

    async def _follow_nodes(self) -> None:
        """Count the nodes, and tell the others which keys are hit most here."""
        while True:
            with contextlib.suppress(StoreAwayError, *AWAY):
                self.nodes_known = max(len(await self.backbone.registry.nodes()), 1)
            now_s, talkers = monotonic(), self.limiter.talkers
            self.backbone.board.publish(
                NodeReport(talkers.report("hits", now_s), talkers.report("refused", now_s))
            )
            await anyio.sleep(PUBLISHED_EVERY_S)

    def _say_ready(self, client: str, api: str) -> None:
        scheme = "https" if self.settings.server.tls_cert else "http"
        if "/" in self.listener.pages:
            log.info("open the demo page in two tabs", url=f"{scheme}://{client}/")
        sys.stdout.write(f"ready client={client} api={api} node={self.id}\n")
        sys.stdout.flush()


def api_keys(settings: Settings) -> list[str]:
    """Return the keys of which a call must bring one; none: calls need none."""
    return settings.api.key.split("\n") if settings.api.key else []
