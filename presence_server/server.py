"""The composition root: builds a node from its settings, runs it, and stops it in reverse."""

import asyncio
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from time import perf_counter
from typing import Final

import anyio
import structlog
from anyio.abc import TaskStatus

from presence_server import __version__
from presence_server.api.app import DRAINING, Api, make_app
from presence_server.api.calls import Calls
from presence_server.api.http import bind, make_server
from presence_server.auth.opaque import SessionAuthenticator
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.clock import SystemClock
from presence_server.config.check import is_shared
from presence_server.config.settings import Settings
from presence_server.core import NodeCore
from presence_server.edge.deadlines import SLICE_MS
from presence_server.edge.gate import Gate
from presence_server.edge.listener import Listener
from presence_server.edge.overload import Overload
from presence_server.edge.turns import Turns
from presence_server.errors import ConfigError
from presence_server.faults import contain
from presence_server.garbage import GarbageCollector
from presence_server.logs import flush_floods
from presence_server.measure import Counts, Histogram
from presence_server.metrics import Page
from presence_server.redis_io.starting import start_problem
from presence_server.throttle.configured import rules_of

LIMITER_CONNECT_S: Final = 0.5
"""How long a start waits for the limiter's store, so that the first handshakes are counted; it goes on without."""
UNUSABLE: Final = 2
"""The exit code of a node whose settings name a store that it cannot use."""
SWEEPS_A_SECOND: Final = 1_000 // SLICE_MS

log = structlog.get_logger()


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node until it is told to stop; return the process's exit code.

    `reload` reads the settings again, when SIGHUP asks for it; it may raise `ConfigError`.
    """
    use_uvloop = find_spec("uvloop") is not None
    return anyio.run(serve, settings, reload, backend_options={"use_uvloop": use_uvloop})


async def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node in this event loop."""
    problem = await start_problem(settings.redis.url) if is_shared(settings) else ""
    if problem:
        sys.stderr.write(f"presence-server: redis.url: {problem}\n")
        return UNUSABLE
    node = Node(settings, reload)
    code = 0
    try:
        await node.run()
    except* OSError as group:
        log.critical("cannot listen", error=str(group.exceptions[0]))
        code = 1
    return code


class Node:
    """Everything that one process runs."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self.settings = settings
        self._reload = reload
        limits = settings.limits
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        self.overload = Overload(
            loop, limits.overload_ms, lambda: max(turns.waited_s(), self.core.ticker.waited_s())
        )
        self.core = NodeCore(settings, SystemClock(), sheds_signal=self.overload.sheds_signal)
        self.garbage = GarbageCollector()
        self.lags = Histogram()
        """How late the loop was, s."""
        self.api_calls: Counts[tuple[str, str, int]] = Counts()
        core = self.core
        self.gate = Gate(settings.throttle, settings.proxy, core.limiter, settings.presence.ttl_ms)
        self.listener = Listener(
            settings,
            hub=core.hub,
            directory=core.directory,
            authenticator=core.authenticator,
            gate=self.gate,
            turns=turns,
            overload=self.overload,
            clock=core.clock,
        )
        self._stopping = False
        """Whether a signal has said that this node is to end: from then on it is not ready."""
        self._api_keys = api_keys(settings)
        self._api = Api(Calls(core.parts), lambda: self._api_keys, self._count_call)
        self._page = Page(self)

    def _count_call(self, method: str, path: str, status: int) -> None:
        self.api_calls[method, path, status] += 1

    def checks(self) -> dict[str, str]:
        """Return each thing that the node needs to serve, with what is wrong with it; "": nothing."""
        return self.core.backend.checks() | {DRAINING: "this node is shutting down" if self._stopping else ""}

    async def _metrics(self) -> tuple[bytes, str]:
        await self.core.backend.examine()
        return self._page.render()

    async def run(self) -> None:
        """Listen on both ports, say so, and serve until a signal comes; then drain."""
        server = self.settings.server
        api_socket = bind(server.api_host, server.api_port)
        api = make_server(make_app(self._api, checks=self.checks, metrics=self._metrics, version=__version__))
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                await self.core.start(tasks)
                await self.core.limiter.connect(LIMITER_CONNECT_S)
                if self.core.jwks is not None:
                    tasks.start_soon(self.core.jwks.run)
                if isinstance(self.core.authenticator, SessionAuthenticator):
                    tasks.start_soon(self.core.authenticator.run, self.core.directory.revoke)
                client = "{}:{}".format(*await self.listener.start())
                tasks.start_soon(api.serve, [api_socket])
                tasks.start_soon(self._sweep)
                tasks.start_soon(self.core.beat)
                tasks.start_soon(self._renew_leases)
                tasks.start_soon(self.core.follow_nodes)
                await tasks.start(self._listen_for_changes)
                self.garbage.start()
                self._say_ready(client, "{}:{}".format(*api_socket.getsockname()[:2]))
                await anext(signals)
                self._stopping = True
                log.info("draining", connections=len(self.core.directory), delay_ms=server.drain_delay_ms)
                async with anyio.create_task_group() as draining:
                    draining.start_soon(self._drain, draining)
                    await anext(signals)
                    draining.cancel_scope.cancel()
                self.garbage.stop()
                self.listener.stop()
                await api.finish()
                await self.core.backend.stop()
                await self.core.limiter.aclose()
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
        self.core.rules_in_force.change_base(rules_of(throttle))
        self.core.limiter.change_on_error(throttle.on_error)
        self.core.pace.change(throttle)
        self.gate.change(throttle)
        self.listener.change_certificate(settings.server.tls_cert, settings.server.tls_key)
        if isinstance(self.core.authenticator, TokenAuthenticator):
            self.core.authenticator.change(settings.auth)
        if settings.auth.resume_secret:
            self.core.directory.tokens.sign_with(settings.auth.resume_secret)
        if bool(settings.api.key) == bool(self._api_keys):
            self._api_keys = api_keys(settings)
        else:
            log.warning("whether there is an api.key is decided at start; it stays as it was")

    async def _drain(self, draining: anyio.abc.TaskGroup) -> None:
        server = self.settings.server
        await anyio.sleep(server.drain_delay_ms / 1000)
        await self.listener.drain(server.drain_ms)
        draining.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Look at everything that has a deadline."""
        for sweeps in count(1):
            now_ms = self.core.clock.now_ms()
            if sweeps % SWEEPS_A_SECOND == 0:
                contain("sweep", flush_floods)
            contain("sweep", self.listener.sweep, now_ms)
            self.core.sweep(now_ms)
            contain("sweep", self.garbage.sweep, self.listener.sockets, now_ms)
            due_s = perf_counter() + SLICE_MS / 1000
            await anyio.sleep(SLICE_MS / 1000)
            lag_s = max(0.0, perf_counter() - due_s)
            self.lags.observe(lag_s)
            self.core.note_lag(lag_s)

    async def _renew_leases(self) -> None:
        """Renew what connections hold of `concurrent_per_ip`, once a heartbeat."""
        while True:
            await anyio.sleep(self.settings.presence.heartbeat_ms / 1000)
            contain("beat", self.gate.leases.renew)

    def _say_ready(self, client: str, api: str) -> None:
        scheme = "https" if self.settings.server.tls_cert else "http"
        if "/" in self.listener.pages:
            log.info("open the demo page in two tabs", url=f"{scheme}://{client}/")
        sys.stdout.write(f"ready client={client} api={api} node={self.core.id}\n")
        sys.stdout.flush()


def api_keys(settings: Settings) -> list[str]:
    """Return the keys of which a call must bring one; none: calls need none."""
    return settings.api.key.split("\n") if settings.api.key else []
