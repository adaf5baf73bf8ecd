"""Callers of a limiter in a process of their own, that are told what to do."""

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.peers.callers import Timed
from bench.processes import PROJECT, Measured, ProcessFailedError
from bench.store import Store

FLEXIBLE: Final = Path(__file__).parent / "peers" / "flexible"
ANSWER_DEADLINE_S: Final = 60


class Callers:
    """A process that has one library and one connection to the store, or as many as the library makes."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name = name
        self._process = process

    def cpu_ns(self) -> int:
        """Return the CPU time of the process so far, in nanoseconds."""
        return Measured(self._process.pid, "", 0).cpu_ns()

    def tell(self, *command: str | float) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Read a line; raises `LookupError` where none comes in time."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_DEADLINE_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise LookupError(f"no answer of {self._name}")
        return line

    def ask(self, *command: str | float) -> Any:
        """Send a command and return its answer."""
        self.tell(*command)
        return json.loads(self.answer())

    def timed(self, *command: str | float) -> Timed:
        """Do as `ask`, for commands that time decisions."""
        return msgspec.convert(self.ask(*command), Timed)


@contextmanager
def callers(library: str, url: str) -> Iterator[Callers]:
    """Run callers of one of `bench.peers.libraries`."""
    command = [sys.executable, "-m", "bench.peers.callers", library, url]
    with _running(library, command, PROJECT) as running:
        yield running


@contextmanager
def flexible_callers(store: Store, *options: str) -> Iterator[Callers]:
    """Run callers of `rate-limiter-flexible` in Node.js; npm fetches it the first time."""
    if not (FLEXIBLE / "node_modules").exists():
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(command, cwd=FLEXIBLE, check=True)
    with _running("rate-limiter-flexible", ["node", "callers.js", store.path, *options], FLEXIBLE) as running:
        yield running


@contextmanager
def crowd(library: str, store: Store, processes: int) -> Iterator[list[Callers]]:
    """Run several processes of one library; `flexible:OPTION` is the one in Node.js."""
    name, _, option = library.partition(":")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                flexible_callers(store, option) if name == "flexible" else callers(library, store.url)
            )
            for _ in range(processes)
        ]


def together(crowd: Sequence[Callers], *command: str | float) -> Timed:
    """Have several processes do the same at once: the sum of their rates, the slowest of their times."""
    for each in crowd:
        each.tell(*command)
    found = [msgspec.json.decode(each.answer(), type=Timed) for each in crowd]
    return Timed(
        rate=sum(timed.rate for timed in found),
        p50_us=max(timed.p50_us for timed in found),
        p99_us=max(timed.p99_us for timed in found),
        from_store=min(timed.from_store for timed in found),
    )


@contextmanager
def _running(name: str, command: Sequence[str], folder: Path) -> Iterator[Callers]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True
        )
        try:
            running = Callers(name, process)
            running.answer()  # ready
            yield running
        except (OSError, LookupError) as exc:
            log.seek(0)
            raise ProcessFailedError(f"{name}: {exc}; its log:\n{log.read()}") from exc
        finally:
            process.kill()
            process.communicate()
