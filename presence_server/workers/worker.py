"""One worker: a node that carries out its supervisor's commands, and ends at once when the supervisor is gone."""

import asyncio
import ctypes
import io
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from presence_server import logs
from presence_server.config.settings import Settings
from presence_server.server import Node, run_in_loop, serve
from presence_server.shutdown import Shutdown
from presence_server.workers.keeper import PR_SET_PDEATHSIG
from presence_server.workers.worker_commands import Assignment, WorkerCommand

ORPHANED: Final = 3
"""The exit code of a worker whose supervisor is gone; there is nobody left to read it."""

log = structlog.get_logger()


def main() -> int:
    """Run the worker that standard input says, and return its exit code."""
    pipe = io.FileIO(0, closefd=False)  # without a buffer: nothing is read that is not asked for
    assignment = msgspec.json.decode(pipe.readline(), type=Assignment)
    _die_with(assignment.supervisor)
    chosen = assignment.settings.log
    logs.configure(level=chosen.level, form=chosen.format, worker=assignment.number)
    return run_in_loop(partial(_run, assignment, pipe))


async def _run(assignment: Assignment, pipe: io.FileIO) -> int:
    commands = SupervisorCommands(assignment.settings, pipe)
    node = Node(assignment.settings, lambda: commands.settings, commands.shutdown, Path(assignment.api_path))
    commands.follow(node)
    return await serve(node)


class SupervisorCommands:
    """Carries out the commands of the supervisor. `settings` are those that the supervisor sent last."""

    def __init__(self, settings: Settings, pipe: io.FileIO) -> None:
        self.settings = settings
        self.shutdown = Shutdown()
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()

    def follow(self, node: Node) -> None:
        """Begin to read commands, in a thread: the end of the pipe must be noticed while the loop is busy, too."""
        threading.Thread(target=self._read, args=(node,), name="commands", daemon=True).start()

    def _read(self, node: Node) -> None:
        try:
            while line := self._pipe.readline():
                self._loop.call_soon_threadsafe(
                    self._apply_command, node, msgspec.json.decode(line, type=WorkerCommand)
                )
        except RuntimeError:  # the loop has ended
            return
        log.critical("the supervisor is gone; this worker ends at once")
        os._exit(ORPHANED)

    def _apply_command(self, node: Node, command: WorkerCommand) -> None:
        if command.does == "drain":
            self.shutdown.drain()
        elif command.does == "stop":
            self.shutdown.stop()
        elif command.settings is not None:
            self.settings = command.settings
            node.reload()


def _die_with(supervisor: int) -> None:
    """Have the kernel kill this process with its supervisor, even where it is frozen; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before the kernel was asked
        os._exit(ORPHANED)
