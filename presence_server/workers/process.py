"""One worker as its supervisor sees it: a process that is started, told things, and started again when it ends."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.abc
import msgspec
import structlog
from anyio.streams.text import TextReceiveStream

from presence_server.config.settings import Settings
from presence_server.errors import PresenceError
from presence_server.workers import launch
from presence_server.workers.restart_backoff import RestartBackoff
from presence_server.workers.worker_commands import Assignment, WorkerCommand

START_S: Final = 60.0
"""A worker that is not ready after this is ended, and counts as one that has ended."""
WRITE_S: Final = 1.0
GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""The exceptions of a write to a process that has ended."""

Stream = TypeVar("Stream")

log = structlog.get_logger()


class WorkerFailedError(PresenceError):
    """A worker ended before all of them had been ready; `code` is its exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class WorkerProcess:
    """One worker. `settings` are those of the start; `reload` sends it others, and a later process gets them, too."""

    def __init__(self, number: int, settings: Settings, api_path: Path) -> None:
        self.number = number
        self.api_path = api_path
        self.node = ""
        """The id of its node; a new one for each process."""
        self.problem = "it is starting"
        """Why its process does not serve; "": it does."""
        self.restarts = 0
        self.ready = anyio.Event()
        """Set when its first process was ready."""
        self._settings = settings
        self._reloaded: Settings | None = None
        self._process: anyio.abc.Process | None = None
        self._ended = anyio.Event()
        self._ending = False

    @property
    def up(self) -> bool:
        """Whether its process runs and has said that it is ready."""
        return not self.problem

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    async def run(self) -> None:
        """Keep a process running until `end` was called. Raises `WorkerFailedError` where the first was never ready."""
        backoff = RestartBackoff()
        while not self._is_told_to_end():
            began_s = anyio.current_time()
            code = await self._run_process()
            if self._is_told_to_end():
                break
            how = describe_end(code)
            if not self.ready.is_set():
                raise WorkerFailedError(f"worker {self.number} {how} before it was ready", code)
            pause_s = backoff.pause_s(anyio.current_time() - began_s)
            self.problem = f"it {how}, and is started again; the log says more"
            log.error("a worker has ended", worker=self.number, how=how, restart_in_s=round(pause_s, 1))
            await anyio.sleep(pause_s)
            self.restarts += 1
        self._ended.set()

    async def send_command(self, command: WorkerCommand) -> None:
        """Write a command to the worker's process, if there is one."""
        if command.does == "reload":
            self._reloaded = command.settings
        else:
            self._ending = True
        await self._write(msgspec.json.encode(command))

    async def end(self) -> None:
        """Wait until its process, which was told to drain or stop, has ended."""
        if self._process is not None:
            await self._ended.wait()

    def kill(self) -> None:
        """End its process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _is_told_to_end(self) -> bool:
        return self._ending

    async def _run_process(self) -> int:
        """Run one process to its end and return its exit code, negative for a signal."""
        command = [sys.executable, "-P", launch.__file__, str(self.number)]
        # A session of its own: what a terminal sends goes to the supervisor, which passes it on in order.
        process = await anyio.open_process(command, stderr=None, start_new_session=True)
        self._process = process
        try:
            assignment = Assignment(self.number, self._settings, str(self.api_path), os.getpid())
            # In one piece: no command may come between them.
            await self._write(json.dumps(sys.path).encode() + b"\n" + msgspec.json.encode(assignment))
            await self._follow(process)
            return await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.aclose()

    async def _follow(self, process: anyio.abc.Process) -> None:
        """Read the line by which the process is ready, and return when its output ends, which is when it has ended."""
        output = TextReceiveStream(piped(process.stdout))
        with anyio.move_on_after(START_S) as starting:
            text = ""
            async for part in output:
                text += part
                if "\n" in text:
                    starting.deadline = float("inf")
                    await self._is_ready(text)
                    break
            async for _ in output:  # nothing more is expected, but the end
                pass
        if starting.cancelled_caught:
            log.error("a worker is not ready in time, and is ended", worker=self.number, seconds=START_S)
            process.kill()

    async def _is_ready(self, line: str) -> None:
        # Not by the spaces: the worker's internal port is a path, which may have some.
        self.node = line.rstrip().rpartition(" node=")[2]
        self.problem = ""
        if self._reloaded is not None:
            await self._write(msgspec.json.encode(WorkerCommand("reload", self._reloaded)))
        self.ready.set()

    async def _write(self, line: bytes) -> None:
        if self._process is not None:
            # A worker that is frozen does not read; what cannot be written in time stays in its pipe.
            with suppress(*GONE), anyio.move_on_after(WRITE_S):
                await piped(self._process.stdin).send(line + b"\n")


def piped(stream: Stream | None) -> Stream:
    """Return a stream of a process that was started with a pipe for it."""
    if stream is None:
        raise TypeError("the process was started without this pipe")
    return stream


def describe_end(code: int) -> str:
    """Say how a process has ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
