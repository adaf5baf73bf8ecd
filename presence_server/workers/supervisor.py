"""The supervisor of several workers: it has the ports, starts and ends everything, and serves no client itself."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
import structlog
from anyio.abc import TaskStatus
from msgspec.structs import replace

from presence_server.api.http import make_server
from presence_server.config.cores import worker_count
from presence_server.config.embedded import embedded_store
from presence_server.config.settings import Settings
from presence_server.errors import ConfigError, ListenError
from presence_server.logs import flush_floods, set_level
from presence_server.metrics import SUPERVISOR_FAMILIES, MetricsPage
from presence_server.server import UNUSABLE, has_usable_store, run_in_loop
from presence_server.shutdown import CHECK_DRAINING, Shutdown, hear
from presence_server.sockets import listen_for_calls, reserve_client_port
from presence_server.workers.embedded_store import Keeper, StoreFailedError, store_command
from presence_server.workers.internal_port import InternalPort
from presence_server.workers.process import WorkerFailedError, WorkerProcess
from presence_server.workers.worker_commands import WorkerCommand

FAILED: Final = 1
END_S: Final = 5.0
"""The longest that a worker may take to end beyond the time that its settings give it."""

log = structlog.get_logger()


def run(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run the workers until told to end; return the process's exit code."""

    async def main() -> int:
        if not await has_usable_store(settings):
            return UNUSABLE
        return await supervise(settings, reload)

    return run_in_loop(main)


async def supervise(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Run the workers in this event loop; return the process's exit code."""
    code = 0
    try:
        with private_folder(settings.server.socket_dir) as folder:
            await Supervisor(settings, reload, Shutdown(), folder).run()
    except* ListenError as group:
        log.critical("cannot listen", error=str(_first(group)))
        code = UNUSABLE
    except* StoreFailedError as group:
        log.critical("cannot start", error=str(_first(group)))
        code = FAILED
    except* WorkerFailedError as group:
        failed = _first(group)
        log.critical("cannot start", error=str(failed))
        code = UNUSABLE if getattr(failed, "code", 0) == UNUSABLE else FAILED
    return code


@contextmanager
def private_folder(place: str) -> Iterator[Path]:
    """Make a folder that nobody else can look into, and remove it. Raises `ListenError` where it cannot be had."""
    try:
        # Absolute: the embedded store works in another folder.
        within = Path(place or tempfile.gettempdir()).absolute()
        folder = Path(tempfile.mkdtemp(prefix="presence-server-", dir=within))
    except OSError as exc:
        where = place or "the folder for temporary files"
        raise ListenError(f"server.socket_dir: {where}: {exc.strerror or exc}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # unless it was killed, the keeper has removed it


class Supervisor:
    """Everything that one supervisor runs; `folder` is private to it and its workers."""

    def __init__(
        self, settings: Settings, reload: Callable[[], Settings], shutdown: Shutdown, folder: Path
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._shutdown = shutdown
        self._folder = folder
        self._embeds = not settings.redis.url
        program = embedded_store()
        command = store_command(program, folder) if self._embeds and program is not None else []
        self.keeper = Keeper(folder, command)
        self.workers: list[WorkerProcess] = []
        self._page = MetricsPage(self, SUPERVISOR_FAMILIES)

    async def run(self) -> None:
        """Run everything until told to end; then end it in order: workers, internal port, store.

        Raises in a group `ListenError`, `StoreFailedError` or `WorkerFailedError` where it cannot start.
        """
        server = self._settings.server
        with ExitStack() as sockets:
            # Bound and not listening: it gets no connection itself. It keeps other presence-servers from the port while
            # workers come and go; another program may have the port in a moment in which no worker listens.
            reserved = await reserve_client_port(server.host, server.port)
            for sock in reserved:
                sockets.enter_context(sock)
            host, port = reserved[0].getsockname()[:2]
            api_socket = sockets.enter_context(listen_for_calls(server.api_host, server.api_port))
            api_address = "{}:{}".format(*api_socket.getsockname()[:2])
            self.workers = [
                WorkerProcess(number, self._settings_of_workers(port), self._folder / f"worker-{number}")
                for number in range(1, worker_count(server) + 1)
            ]
            api = make_server(InternalPort(self, keyed=bool(self._settings.api.key)))
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._shutdown.follow_signals)
                await tasks.start(self._follow_reloads)
                tasks.start_soon(api.serve, [api_socket])
                tasks.start_soon(self._flush_logs)
                async with anyio.create_task_group() as keeping:
                    keeping.start_soon(self.keeper.run)
                    async with anyio.create_task_group() as working:
                        if await self._start(working):
                            self._say_ready(f"{host}:{port}", api_address)
                        await self._shutdown.drains.wait()
                        await self._end_workers()
                        working.cancel_scope.cancel()
                    await api.finish()
                    keeping.cancel_scope.cancel()
                tasks.cancel_scope.cancel()
        flush_floods()
        log.info("stopped")

    def checks(self) -> dict[str, str]:
        """Return what is wrong with everything but the workers, by name; "": nothing."""
        checks = {CHECK_DRAINING: "this node is shutting down" if self._shutdown.drains.is_set() else ""}
        return checks | ({"embedded store": self.keeper.problem} if self._embeds else {})

    def page(self) -> str:
        """Return the supervisor's own metrics."""
        return self._page.render()[0].decode()

    @property
    def store_up(self) -> float | None:
        """1.0: the embedded store answers; 0.0: it does not, or has not yet; None: there is none."""
        return float(not self.keeper.problem) if self._embeds else None

    def _settings_of_workers(self, port: int) -> Settings:
        server = replace(self._settings.server, port=port, workers=worker_count(self._settings.server))
        redis = self._settings.redis
        if self._embeds:
            redis = replace(redis, url=f"unix://{quote(str(self._folder / 'store'))}")
        return replace(self._settings, server=server, redis=redis)

    async def _start(self, tasks: anyio.abc.TaskGroup) -> bool:
        """Start the store and the workers; tell whether all were ready before the end was asked for."""
        async with anyio.create_task_group() as starting:

            async def give_up() -> None:
                await self._shutdown.drains.wait()
                starting.cancel_scope.cancel()

            starting.start_soon(give_up)
            await self.keeper.started.wait()
            for worker in self.workers:
                tasks.start_soon(worker.run)
            for worker in self.workers:
                await worker.ready.wait()
            starting.cancel_scope.cancel()
        return not self._shutdown.drains.is_set()

    async def _end_workers(self) -> None:
        """Drain all workers at the same time: one after the other, a client would be moved from each to the next.

        The second signal stops them; one that takes longer than its settings allow is killed.
        """
        server = self._settings.server
        log.info("draining", workers=len(self.workers))
        async with anyio.create_task_group() as ending:

            async def stop_at_once() -> None:
                with anyio.move_on_after((server.drain_delay_ms + server.drain_ms) / 1_000 + END_S):
                    await self._shutdown.stops.wait()
                await self._send_command(WorkerCommand("stop"))
                await anyio.sleep(END_S)
                for worker in self.workers:
                    if worker.running:
                        log.error("a worker does not end, and is killed", worker=worker.number)
                        worker.kill()

            ending.start_soon(stop_at_once)
            await self._send_command(WorkerCommand("drain"))
            for worker in self.workers:
                await worker.end()
            ending.cancel_scope.cancel()

    async def _send_command(self, command: WorkerCommand) -> None:
        for worker in self.workers:
            await worker.send_command(command)

    async def _follow_reloads(self, task_status: TaskStatus[None]) -> None:
        """Have all workers go by other settings when SIGHUP says that they have changed; by all or by none."""
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            hear(signal.SIGHUP)
            task_status.started()
            async for _ in signals:
                try:
                    settings = self._reload()
                except ConfigError as exc:
                    log.warning("the settings cannot be used; the old ones stay", problems=exc.problems)
                else:
                    set_level(settings.log.level)
                    await self._send_command(WorkerCommand("reload", settings))

    async def _flush_logs(self) -> None:
        while True:
            await anyio.sleep(1)
            flush_floods()

    def _say_ready(self, client: str, api: str) -> None:
        settings = self._settings
        if settings.server.demo and settings.auth.mode == "none":
            scheme = "https" if settings.server.tls_cert else "http"
            log.info("open the demo page", url=f"{scheme}://{client}/")
        nodes = ",".join(worker.node for worker in self.workers)
        sys.stdout.write(f"ready client={client} api={api} node={nodes}\n")
        sys.stdout.flush()


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    """Return the first exception of a group, however deep it lies."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
