"""The composition root: builds a node from its settings, runs it, and stops it in reverse."""

import asyncio
import secrets
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import anyio
import structlog

from presence_server.api.app import make_app
from presence_server.api.http import bind, make_server
from presence_server.auth import Anonymous, Authenticator, Nobody
from presence_server.backbone import Alone, Backbone, Together
from presence_server.clock import Clock, SystemClock
from presence_server.config.check import is_shared
from presence_server.config.settings import Settings
from presence_server.edge.deadlines import SLICE_MS
from presence_server.edge.gate import Gate
from presence_server.edge.listener import Listener
from presence_server.errors import ConfigError
from presence_server.hub.hub import Hub
from presence_server.ids import new_node_id
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.rules import Rules
from presence_server.session.directory import Directory
from presence_server.session.pace import Pace
from presence_server.session.resume import ResumeTokens
from presence_server.throttle.configured import limiter_of, rules_of

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

    def _ring(self) -> None:
        self._timer = None
        self.wake(0)

    def _tick(self) -> None:
        self._soon = False
        if self.hub is not None:
            self.hub.tick(self._clock.now_ms())


class Node:
    """Everything that one process runs."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self.settings = settings
        self._reload = reload
        self.id = new_node_id()
        self.clock = SystemClock()
        presence, limits = settings.presence, settings.limits
        ticker = Ticker(self.clock)
        self.hub = ticker.hub = Hub(
            ticker.wake, hard_bytes=limits.outbox_hard_bytes, hard_ms=limits.outbox_hard_ms
        )
        self.backbone: Backbone = (
            Together(settings, self.id, self.clock) if is_shared(settings) else Alone(settings, self.clock)
        )
        self.rooms = Rooms(
            node=self.id,
            hub=self.hub,
            store=self.backbone.store,
            bus=self.backbone.bus,
            rules=Rules(settings.rooms),
            clock=self.clock,
            presence=presence,
            limits=limits,
        )
        authenticator = make_authenticator(settings)
        self.limiter = limiter_of(settings)
        self.pace = Pace(self.limiter, settings.throttle)
        tokens = ResumeTokens(settings.auth.resume_secret or secrets.token_hex(32), presence.resume_ms)
        self.directory = Directory(
            node=self.id,
            rooms=self.rooms,
            store=self.backbone.store,
            authenticator=authenticator,
            tokens=tokens,
            clock=self.clock,
            limits=limits,
            pace=self.pace,
            ping_ms=presence.ping_ms,
            resume_ms=presence.resume_ms,
        )
        self.backbone.attach(self.rooms, self.directory)
        self.gate = Gate(settings.throttle, settings.proxy, self.limiter, presence.ttl_ms)
        self.listener = Listener(
            settings,
            hub=self.hub,
            directory=self.directory,
            authenticator=authenticator,
            gate=self.gate,
            clock=self.clock,
        )

    async def run(self) -> None:
        """Listen on both ports, say so, and serve until a signal comes; then drain."""
        server = self.settings.server
        api_socket = bind(server.api_host, server.api_port)
        api = make_server(make_app())
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                await self.backbone.start(tasks)
                client = "{}:{}".format(*await self.listener.start())
                tasks.start_soon(api.serve, [api_socket])
                tasks.start_soon(self._sweep)
                tasks.start_soon(self._beat)
                tasks.start_soon(self._listen_for_changes)
                self._say_ready(client, "{}:{}".format(*api_socket.getsockname()[:2]))
                await anext(signals)
                log.info("draining", connections=len(self.directory))
                async with anyio.create_task_group() as draining:
                    draining.start_soon(self._drain, draining)
                    await anext(signals)
                    draining.cancel_scope.cancel()
                self.listener.stop()
                api.should_exit = True
                await self.backbone.stop()
                await self.limiter.aclose()
                tasks.cancel_scope.cancel()
        log.info("stopped")

    async def _listen_for_changes(self) -> None:
        """Go by other limits when SIGHUP says that the settings have changed; by all of them or by none."""
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                try:
                    throttle = self._reload().throttle
                except ConfigError as exc:
                    log.warning("the settings cannot be used; the old ones stay", problems=exc.problems)
                    continue
                self.limiter.change_rules(rules_of(throttle))
                self.limiter.on_error = throttle.on_error
                self.pace.change(throttle)
                self.gate.change(throttle)
                log.info("limits read again")

    async def _drain(self, draining: anyio.abc.TaskGroup) -> None:
        await self.listener.drain(self.settings.server.drain_ms)
        draining.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Look at everything that has a deadline."""
        while True:
            now_ms = self.clock.now_ms()
            self.listener.sweep(now_ms)
            self.hub.sweep(now_ms)
            self.backbone.sweep()
            self.rooms.check()
            await anyio.sleep(SLICE_MS / 1000)

    async def _beat(self) -> None:
        """Renew this node's members, a part at a time."""
        while True:
            for part in range(BEATS):
                await anyio.sleep(self.settings.presence.heartbeat_ms / 1000 / BEATS)
                self.rooms.beat(part, BEATS)
            self.gate.leases.renew()

    def _say_ready(self, client: str, api: str) -> None:
        scheme = "https" if self.settings.server.tls_cert else "http"
        if "/" in self.listener.pages:
            log.info("open the demo page in two tabs", url=f"{scheme}://{client}/")
        sys.stdout.write(f"ready client={client} api={api} node={self.id}\n")
        sys.stdout.flush()


def make_authenticator(settings: Settings) -> Authenticator:
    """Return what checks credentials in the configured mode."""
    if settings.auth.mode == "none":
        return Anonymous(settings.limits.info_bytes)
    return Nobody(settings.auth.mode)
