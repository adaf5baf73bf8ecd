"""A process that has imported the server, and forks a node, or a command, for each test that asks.

To import the server takes most of a node's start, ten times what the rest of it does. A fork has its own signals, files
and environment, and begins at the command line, as `python -m presence_server` does. It ends with the fork server,
which ends with the process that started it.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import anyio

IMPORTED: Final = (
    "anyio._backends._asyncio",
    "presence_server.cli",
    "presence_server.operate.throttle",
    "presence_server.server",
    "uvicorn.lifespan.off",
)
"""What a node, or a command, imports when it starts."""
STOP_DEADLINE_S: Final = 30
NUMBER: Final = struct.Struct("<i")
REQUEST_BYTES_MAX: Final = 1 << 17


class Fork:
    """A node that was forked. Has of `anyio.abc.Process` what tests use."""

    def __init__(self, status: int) -> None:
        self.pid = 0
        self._status = status
        """A pipe from the fork server: the process's number, then its exit code."""
        self._returncode: int | None = None

    async def started(self) -> None:
        """Wait until there is a process; raises `RuntimeError` where the fork server has ended."""
        await anyio.wait_readable(self._status)
        number = os.read(self._status, NUMBER.size)
        if not number:
            raise RuntimeError("the fork server has ended")
        (self.pid,) = NUMBER.unpack(number)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._returncode is None:
            with contextlib.suppress(BlockingIOError):
                code = os.read(self._status, NUMBER.size)
                self._returncode = NUMBER.unpack(code)[0] if code else -signal.SIGKILL
        return self._returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        while (code := self.returncode) is None:
            await anyio.wait_readable(self._status)
        return code

    async def aclose(self) -> None:
        """Forget a process that has ended."""
        if self._status >= 0:
            os.close(self._status)
        self._status = -1


async def fork(args: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int) -> Fork:
    """Start `presence-server` with these arguments and this environment."""
    status = _ask(args, env, stdout, stderr)
    os.set_blocking(status, False)
    process = Fork(status)
    await process.started()
    return process


def run(args: Sequence[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command of `presence-server` to its end; raises `TimeoutError` where that does not come in time."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        status = _ask(args, env, stdout.fileno(), stderr.fileno())
        try:
            (pid,) = NUMBER.unpack(os.read(status, NUMBER.size))
            if not select.select([status], [], [], timeout_s)[0]:
                os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"presence-server {' '.join(args)} does not end")
            (code,) = NUMBER.unpack(os.read(status, NUMBER.size))
        finally:
            os.close(status)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess([*args], code, stdout.read().decode(), stderr.read().decode())


def _ask(args: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int) -> int:
    """Have the fork server start a process; return the pipe that tells its number, then its exit code."""
    receives, sends = os.pipe()
    request = json.dumps([list(args), dict(env)]).encode()
    requests, _ = _fork_server()
    try:
        socket.send_fds(requests, [request], [stdout, stderr, sends])
    finally:
        os.close(sends)
    return receives


def stop() -> None:
    """End the fork server of this process, where there is one, and its forks."""
    if _fork_server.cache_info().currsize:
        requests, process = _fork_server()
        requests.close()
        process.wait(STOP_DEADLINE_S)
        _fork_server.cache_clear()


@cache
def _fork_server() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the fork server of this process."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", __name__, str(its.fileno())]
        return ours, subprocess.Popen(command, cwd=Path(__file__).parents[2], pass_fds=[its.fileno()])


def _serve(requests: socket.socket) -> Callable[[], object] | None:
    """Fork a node for each request. Return in a fork what it is to do, and in the fork server None at the end."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(running)
        if requests.fileno() in ready:
            request, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, 3)
            if not request:
                break
            if (pid := os.fork()) == 0:
                return lambda: _become_a_node(*json.loads(request), *files[:2])
            running[pid] = files[2]
            os.write(files[2], NUMBER.pack(pid))
            os.close(files[0])
            os.close(files[1])
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def _reap(running: dict[int, int]) -> None:
    """Tell how forks have ended."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            with contextlib.suppress(BrokenPipeError):
                os.write(running[pid], NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os.close(running.pop(pid))


def _become_a_node(args: list[str], env: dict[str, str], stdout: int, stderr: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["presence-server", *args]
    from presence_server.cli import main  # noqa: PLC0415 - imported already

    code = main(args)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to end the interpreter, too, would take longer than all that most tests ask of a node


def _make_what_all_nodes_have() -> None:
    """Import the server, and make what is the same in each of its processes, and kept: half of a node's start."""
    for name in IMPORTED:
        importlib.import_module(name)
    from presence_server import __version__, cli  # noqa: PLC0415 - imported already
    from presence_server.api.app import describe  # noqa: PLC0415 - imported already
    from presence_server.edge.pages import Pages  # noqa: PLC0415

    cli._parser()
    for keyed in (False, True):
        describe(__version__, keyed=keyed)
    Pages(demo=True)


if __name__ == "__main__":
    _make_what_all_nodes_have()
    gc.collect()
    gc.freeze()  # else the end of each fork looks at, and thereby copies, all that was imported: 0.35 s instead of 0.07
    if (node := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        node()
