"""The embedded store, and the process that keeps it and the private folder."""

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import structlog
from anyio.streams.buffered import BufferedByteReceiveStream

from presence_server.errors import PresenceError
from presence_server.workers import keeper
from presence_server.workers.process import describe_end, piped
from presence_server.workers.restart_backoff import RestartBackoff

START_S: Final = 20.0
ASK_S: Final = 1.0
ASK_AGAIN_S: Final = 0.02
STOP_S: Final = 5.0
LINE_BYTES_MAX: Final = 65_536
LINES_KEPT: Final = 5
WARNING: Final = "# WARNING"
"""The mark of a line about the machine, such as its overcommit: it is not an error."""

log = structlog.get_logger()


class StoreFailedError(PresenceError):
    """The embedded store did not start; the text says why."""


def store_command(program: Path, folder: Path) -> list[str]:
    """Return the command line of an embedded store: on a socket in `folder`, in memory alone."""
    options = {
        "port": "0",
        "unixsocket": str(folder / "store"),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [str(program), *(part for name, value in options.items() for part in (f"--{name}", value))]


class Keeper:
    """The process that removes `folder` when this one is gone, and runs the store of `command`; none: no store."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.problem = "it is starting" if command else ""
        """Why the store does not answer; "": it does, or there is none."""
        self.restarts = 0
        self.started = anyio.Event()
        """Set when the store has answered for the first time, or there is none."""
        self._folder = folder
        self._command = list(command)
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._backoff = RestartBackoff()
        self._process: anyio.abc.Process | None = None
        self._starting = anyio.CancelScope()

    async def run(self) -> None:
        """Keep the process and the store running until cancelled.

        Raises `StoreFailedError`, in a group, where the first store does not start.
        """
        while True:
            began_s = anyio.current_time()
            # A session of its own: what a terminal sends is for the supervisor.
            process = await anyio.open_process(
                [sys.executable, "-I", keeper.__file__, str(self._folder), *self._command],
                stderr=None,
                start_new_session=True,
            )
            self._process = process
            try:
                async with anyio.create_task_group() as tasks:
                    if self._command:
                        tasks.start_soon(self._start_store, 0.0)
                    else:
                        self.started.set()
                    await self._follow(process, tasks)
                    tasks.cancel_scope.cancel()
                code = await process.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end(process)
            pause_s = self._backoff.pause_s(anyio.current_time() - began_s)
            self.problem = f"its keeper {describe_end(code)}" if self._command else ""
            log.error("the store's keeper has ended", how=describe_end(code), restart_in_s=round(pause_s, 1))
            await anyio.sleep(pause_s)

    async def _follow(self, process: anyio.abc.Process, tasks: anyio.abc.TaskGroup) -> None:
        """Read what the keeper says of the store, and have one that ended started again."""
        output = BufferedByteReceiveStream(piped(process.stdout))
        began_s = anyio.current_time()
        while True:
            try:
                line = (await output.receive_until(b"\n", LINE_BYTES_MAX)).decode(errors="replace")
            except (anyio.EndOfStream, anyio.IncompleteRead):
                return
            kind, _, text = line.partition(" ")
            if kind == "said":
                if WARNING not in text:
                    self._said.append(text)
                continue
            how = describe_end(int(text))
            if not self.started.is_set():
                raise StoreFailedError(
                    f"the embedded store {how}: {'; '.join(self._said) or 'it said nothing'}"
                )
            pause_s = self._backoff.pause_s(anyio.current_time() - began_s)
            began_s = anyio.current_time() + pause_s
            self.problem = f"it {how}, and is started again"
            log.error(
                "the embedded store has ended",
                how=how,
                said=list(self._said),
                restart_in_s=round(pause_s, 1),
            )
            self._said.clear()
            self._starting.cancel()
            self.restarts += 1
            tasks.start_soon(self._start_store, pause_s)

    async def _start_store(self, pause_s: float) -> None:
        """Have the store started after a pause, and wait until it answers or has ended again."""
        with anyio.CancelScope() as self._starting:
            await anyio.sleep(pause_s)
            process = self._process
            if process is None:
                return
            try:
                await piped(process.stdin).send(b"\n")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the keeper has ended; `run` starts another
            with anyio.move_on_after(START_S):
                await self._until_it_answers()
            if self.problem:
                if not self.started.is_set():
                    raise StoreFailedError(f"the embedded store does not answer for {START_S:.0f} s")
                log.error("the embedded store does not answer", seconds=START_S)
                await self._until_it_answers()
            if self.started.is_set():
                log.info("the embedded store answers again")
            self.started.set()

    async def _until_it_answers(self) -> None:
        while not await self._answers():  # noqa: ASYNC110 - another process is asked
            await anyio.sleep(ASK_AGAIN_S)
        self.problem = ""

    async def _answers(self) -> bool:
        try:
            with anyio.fail_after(ASK_S):
                async with await anyio.connect_unix(self._folder / "store") as stream:
                    await stream.send(b"PING\r\n")
                    return (await stream.receive(16)).startswith(b"+PONG")
        except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False

    async def _end(self, process: anyio.abc.Process) -> None:
        """End the keeper by closing its input: it ends the store and removes the folder."""
        self._process = None
        await piped(process.stdin).aclose()
        with anyio.move_on_after(STOP_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
