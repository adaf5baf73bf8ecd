"""The processes that are measured: on a core of their own, their CPU time and memory read from outside."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).parents[1]
READY_DEADLINE_S = 120
CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, MEASURED_CORE = CORES[0], CORES[-1]
"""The same where there is only one."""
UNTHROTTLED = (
    "--throttle.connect=",
    "--throttle.resume=",
    "--throttle.messages=",
    "--throttle.concurrent_per_ip=0",
)
"""The load comes from one address, and faster than any client may."""
NAME_CHARS = 80
REST_S = 0.5
REST_NS = 25_000_000
"""A process that spends less than this in `REST_S` has nothing left to do."""
CPU_CLOCK_SCHED = 2
"""From the kernel's posix-timers.h: a process's clock is `~pid << 3` with this in its low bits."""


class ProcessFailedError(Exception):
    """A process did not start or died; the message holds what it wrote to standard error."""


@dataclass(frozen=True)
class Memory:
    """A process's memory, in bytes: all that is resident, and the part of it that no file backs."""

    resident: int
    anonymous: int


@dataclass(frozen=True)
class Measured:
    """A running process that listens on `host` and `port`."""

    pid: int
    host: str
    port: int

    @property
    def name(self) -> str:
        """The program and its arguments, shortened, without the folders and addresses of this machine."""
        words = Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        command = " ".join(Path(word).name for word in words if "://" not in word)
        return command[:NAME_CHARS].strip() or f"process {self.pid}, which has ended"

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads so far, user and system, in nanoseconds."""
        return time.clock_gettime_ns((~self.pid << 3) | CPU_CLOCK_SCHED)

    def memory(self) -> Memory:
        """Read its memory as the kernel has it now."""
        kib = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount = line.split()[:2]
            kib[name.rstrip(":")] = int(amount)
        return Memory(kib["Rss"] * 1024, kib["Anonymous"] * 1024)

    def rest(self) -> None:
        """Wait until it has done what the end of its clients asks for."""
        spent_ns = REST_NS
        while spent_ns >= REST_NS:
            begin_ns = self.cpu_ns()
            time.sleep(REST_S)
            spent_ns = self.cpu_ns() - begin_ns


@dataclass(frozen=True)
class ServerProcess(Measured):
    """A node, with its internal port; 0: a peer, which has none."""

    api_port: int

    def workers(self) -> list[Measured]:
        """Return the processes of a supervisor that serve clients."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        launched = [pid for pid in children if "launch.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        return [Measured(int(pid), self.host, self.port) for pid in launched]

    def metrics(self) -> dict[str, float]:
        """Return every sample of a node's metrics, by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.api_port}/metrics", timeout=60) as page:
            lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}


@contextmanager
def server(*flags: str, cores: Collection[int] = (MEASURED_CORE,)) -> Iterator[ServerProcess]:
    """Run a node with these settings, or the supervisor of several workers."""
    command = ("presence_server", "serve", "--port=0", "--api-port=0", *UNTHROTTLED, *flags)
    with running([sys.executable, "-m", *command], cores=cores) as measured:
        yield measured


@contextmanager
def peer(name: str, *args: object) -> Iterator[Measured]:
    """Run a process of `bench.peers`."""
    with running([sys.executable, "-m", f"bench.peers.{name}", *map(str, args)]) as measured:
        yield measured


@contextmanager
def running(command: Sequence[str], *, cores: Collection[int] = (MEASURED_CORE,)) -> Iterator[ServerProcess]:
    """Run a program that says `ready client=HOST:PORT …`, all its threads on `cores`; kill it at the end."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PRESENCE_")}
    with tempfile.TemporaryFile("w+") as log:
        with on(cores):
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, cwd=PROJECT, env=env, text=True
            )
        try:
            assert process.stdout is not None
            yield _address(process.pid, process.stdout)
        except (OSError, LookupError) as exc:
            log.seek(0)
            raise ProcessFailedError(f"{' '.join(command)}: {exc}; its log:\n{log.read()}") from exc
        finally:
            process.kill()
            process.communicate()


@contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """Be on `cores` for a while: what is started meanwhile stays there, with every thread that it makes."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def _address(pid: int, stdout: IO[str]) -> ServerProcess:
    """Read the line that says where a process listens; raises `LookupError` without one in time."""
    poll = select.poll()  # not `select`, which knows the first 1,024 files only: the load has thousands
    poll.register(stdout, select.POLLIN)
    line = stdout.readline() if poll.poll(READY_DEADLINE_S * 1_000) else ""
    if not line.startswith("ready "):
        raise LookupError(f"no ready line but {line!r}")
    fields = dict(field.split("=", 1) for field in line.split()[1:])
    host, _, port = fields["client"].rpartition(":")
    return ServerProcess(pid, host, int(port), int(fields.get("api", ":0").rpartition(":")[2]))


def prepare() -> None:
    """Make this process the load: on its own core, and with what it started ended when it is told to end."""
    os.sched_setaffinity(0, {LOAD_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
