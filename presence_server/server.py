"""The composition root: builds a node from its settings, runs it, and stops it in reverse."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final

import anyio
import structlog
from anyio.abc import TaskStatus

from presence_server import __version__
from presence_server.api.app import Api, make_app
from presence_server.api.calls import Calls
from presence_server.api.http import make_server
from presence_server.auth.opaque import SessionAuthenticator
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.clock import SystemClock
from presence_server.config.check import is_shared
from presence_server.config.settings import Settings
from presence_server.core import NodeCore
from presence_server.counters import Counts, Histogram
from presence_server.edge.gate import Gate
from presence_server.edge.listener import Listener
from presence_server.edge.overload import Overload
from presence_server.edge.timeouts import SLICE_MS
from presence_server.edge.turns import Turns
from presence_server.errors import ConfigError, ListenError
from presence_server.faults import contain
from presence_server.garbage import GarbageCollector
from presence_server.logs import flush_floods, set_level
from presence_server.metrics import MetricsPage
from presence_server.operations.sampler import Sampler
from presence_server.redis_io.starting import start_problem
from presence_server.shutdown import CHECK_DRAINING, Shutdown, hear
from presence_server.sockets import listen_at, listen_for_calls
from presence_server.throttle.configured import rules_of

LIMITER_CONNECT_S: Final = 0.5
"""The longest that a start waits for the limiter's store, so that the first handshakes are counted."""
UNUSABLE: Final = 2
"""The exit code of a node whose settings name what it cannot have: an address, or a store."""
SWEEPS_A_SECOND: Final = 1_000 // SLICE_MS

log = structlog.get_logger()


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run a node until it is told to stop; return the process's exit code.

    `reload` reads the settings again, when SIGHUP asks for it; it may raise `ConfigError`.
    """

    async def main() -> int:
        if not await has_usable_store(settings):
            return UNUSABLE
        return await serve(Node(settings, reload, Shutdown()))

    return run_in_loop(main)


def run_in_loop(main: Callable[[], Awaitable[int]]) -> int:
    """Run a process's main function in the fastest loop that there is; return its exit code."""
    return anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})


async def has_usable_store(settings: Settings) -> bool:
    """Tell whether the servers that `redis.url` names can ever be used; write why not to standard error."""
    problem = await start_problem(settings.redis.url) if is_shared(settings) else ""
    if problem:
        sys.stderr.write(f"presence-server: redis.url: {problem}\n")
    return not problem


async def serve(node: "Node") -> int:
    """Run a node in this event loop; return the process's exit code."""
    code = 0
    try:
        await node.run()
    except* ListenError as group:
        log.critical("cannot listen", error=str(group.exceptions[0]))
        code = UNUSABLE
    return code


class Node:
    """Everything that one process runs.

    `api_path` is for one of several workers: the unix socket on which it answers, while its supervisor has the internal
    port.
    """

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        shutdown: Shutdown,
        api_path: Path | None = None,
    ) -> None:
        self.settings = settings
        self._reload = reload
        self._shutdown = shutdown
        self._api_path = api_path
        limits = settings.limits
        loop = asyncio.get_running_loop()
        turns = Turns(loop)
        self.overload = Overload(
            loop, limits.overload_ms, lambda: max(turns.waited_s(), self.core.ticker.waited_s())
        )
        self.core = NodeCore(settings, SystemClock(), sheds_signal=self.overload.sheds_signal)
        self.garbage = GarbageCollector()
        self.lags = Histogram()
        """The lags of the event loop, s."""
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
        self._api_keys = api_keys(settings)
        self._api = Api(Calls(core.api_dependencies), lambda: self._api_keys, self._count_call)
        self._page = MetricsPage(self)
        self._sampler = Sampler(self)

    def _count_call(self, method: str, path: str, status: int) -> None:
        self.api_calls[method, path, status] += 1

    def checks(self) -> dict[str, str]:
        """Return each thing that the node needs to serve, with what is wrong with it; "": nothing."""
        return self.core.backend.checks() | {
            CHECK_DRAINING: "this node is shutting down" if self._shutdown.drains.is_set() else ""
        }

    async def _metrics(self) -> tuple[bytes, str]:
        await self.core.backend.examine()
        return self._page.render()

    async def run(self) -> None:
        """Listen on both ports, say so, and serve until told to end; then drain. Raises `ListenError`, in a group."""
        server, shutdown = self.settings.server, self._shutdown
        if self._api_path is None:
            api_socket = listen_for_calls(server.api_host, server.api_port)
            api_address = "{}:{}".format(*api_socket.getsockname()[:2])
        else:
            api_socket, api_address = listen_at(self._api_path), str(self._api_path)
        api = make_server(make_app(self._api, checks=self.checks, metrics=self._metrics, version=__version__))
        async with anyio.create_task_group() as tasks:
            await tasks.start(shutdown.follow_signals)
            await self.core.start(tasks)
            await self.core.limiter.connect(LIMITER_CONNECT_S)
            if self.core.jwks is not None:
                tasks.start_soon(self.core.jwks.run)
            if isinstance(self.core.authenticator, SessionAuthenticator):
                tasks.start_soon(self.core.authenticator.run, self.core.directory.revoke_opaque)
            client = "{}:{}".format(*await self.listener.start())
            tasks.start_soon(api.serve, [api_socket])
            tasks.start_soon(self._sweep)
            tasks.start_soon(self.core.renew_members)
            tasks.start_soon(self._renew_leases)
            tasks.start_soon(self.core.follow_nodes)
            tasks.start_soon(self._sampler.run)
            await tasks.start(self._listen_for_changes)
            self.garbage.start()
            self._say_ready(client, api_address)
            await shutdown.drains.wait()
            log.info("draining", connections=len(self.core.directory), delay_ms=server.drain_delay_ms)
            async with anyio.create_task_group() as draining:
                draining.start_soon(self._drain, draining)
                await shutdown.stops.wait()
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
            hear(signal.SIGHUP)
            task_status.started()
            async for _ in signals:
                self.reload()

    def reload(self) -> None:
        """Go by the settings as they are now."""
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
        set_level(settings.log.level)
        throttle = settings.throttle
        self.core.rules_in_force.change_base(rules_of(throttle))
        self.core.limiter.change_on_error(throttle.on_error)
        self.core.message_rate.change_settings(throttle)
        self.gate.change_settings(throttle)
        self.listener.change_certificate(settings.server.tls_cert, settings.server.tls_key)
        if isinstance(self.core.authenticator, TokenAuthenticator):
            self.core.authenticator.change_keys(settings.auth)
        if settings.auth.resume_secret:
            self.core.directory.tokens.sign_with(settings.auth.resume_secret)
        if bool(settings.api.key) == bool(self._api_keys):
            self._api_keys = api_keys(settings)
        else:
            log.warning(
                "api.key cannot be added or removed while the node runs; calls need one as before, or none"
            )

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
            contain("sweep", self.listener.sweep_timeouts, now_ms)
            self.core.sweep_node(now_ms)
            contain("sweep", self.garbage.collect_if_due, self.listener.sockets, now_ms)
            due_s = perf_counter() + SLICE_MS / 1000
            await anyio.sleep(SLICE_MS / 1000)
            lag_s = max(0.0, perf_counter() - due_s)
            self.lags.observe(lag_s)
            self.core.note_lag(lag_s)
            self._sampler.note_lag(lag_s)

    async def _renew_leases(self) -> None:
        """Renew what connections hold of `concurrent_per_ip`, once a heartbeat."""
        while True:
            await anyio.sleep(self.settings.presence.heartbeat_ms / 1000)
            contain("beat", self.gate.leases.renew_leases)

    def _say_ready(self, client: str, api: str) -> None:
        scheme = "https" if self.settings.server.tls_cert else "http"
        if "/" in self.listener.pages and self._api_path is None:
            log.info("open the demo page", url=f"{scheme}://{client}/")
        sys.stdout.write(f"ready client={client} api={api} node={self.core.id}\n")
        sys.stdout.flush()


def api_keys(settings: Settings) -> list[str]:
    """Return the keys of which a call must bring one; none: calls need none."""
    return settings.api.key.split("\n") if settings.api.key else []
