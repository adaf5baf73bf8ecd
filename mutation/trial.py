"""Run tests on a copy of the project, many times, fast.

This process imports what the tests need from other packages, once; each run is a fork of it that imports the copy's
modules and runs pytest there. A fork leads a process group, so that servers which it started end with it.
"""

import contextlib
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

IMPORTED: Final = (
    "anyio._backends._asyncio",
    "anyio.pytest_plugin",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "hypothesis.stateful",
    "jwt",
    "msgspec",
    "prometheus_client",
    "pytest",
    "redis.asyncio",
    "starlette.applications",
    "structlog",
    "uvloop",
    "websockets.server",
)
"""Imported before the forks: all of it is the same for every mutant. Nothing of the project itself."""
SURVIVED: Final = 0
KILLED: Final = 1
BROKEN: Final = 3
MEMORY_BYTES_MAX: Final = 4 << 30
"""A mutant may make a loop that gathers for ever."""
EXAMPLES_MAX: Final = "50"
"""Examples of a property: what is wrong is found by the first few, or seldom."""
POLL_S: Final = 0.01


class Verdict(Enum):
    """What the tests say of a mutant."""

    SURVIVED = "survived"
    FAILED = "a test failed"
    BROKEN = "the tests could not run"
    TIMEOUT = "the tests did not end"


@dataclass
class Running:
    """A run that has not been seen to end."""

    pid: int
    began_s: float
    output: Path

    @property
    def lasts_s(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began_s


def import_packages() -> None:
    """Import what every run needs."""
    for name in IMPORTED:
        importlib.import_module(name)


def copy_project(root: Path, to: Path) -> None:
    """Copy what git would commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout
    for name in listed.decode().split("\0"):
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


def start(copy: Path, tests: list[str]) -> Running:
    """Begin to run tests in a copy, until the first that fails."""
    output = copy / ".output"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = BROKEN
        try:
            status = _run(copy, tests, output)
        except BaseException:  # noqa: BLE001 - a fork must never go on with what its parent does
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    with contextlib.suppress(OSError):  # the fork does it, too: whoever comes first
        os.setpgid(pid, pid)
    return Running(pid, time.monotonic(), output)


def ended(running: Running, deadline_s: float) -> Verdict | None:
    """Return how a run has ended, None while it goes on; one that is over its deadline is ended."""
    pid, status = os.waitpid(running.pid, os.WNOHANG)
    overdue = running.lasts_s > deadline_s
    if pid == 0 and not overdue:
        return None
    stop(running, waited=pid != 0)
    if pid == 0:
        return Verdict.TIMEOUT
    code = os.waitstatus_to_exitcode(status)
    return {SURVIVED: Verdict.SURVIVED, KILLED: Verdict.FAILED}.get(code, Verdict.BROKEN)


def stop(running: Running, *, waited: bool = False) -> None:
    """End a run and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    if not waited:
        os.waitpid(running.pid, 0)


def _run(copy: Path, tests: list[str], output: Path) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)  # for nodes that a test starts as processes
    os.environ["EXAMPLES_MAX"] = EXAMPLES_MAX
    # Bytecode is taken for that of a source of the same size and second.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["MUTANT"] = "1"  # tests/conftest.py
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    import hypothesis  # noqa: PLC0415 - imported already; here it is this run's
    import pytest  # noqa: PLC0415 - as above

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", phases=phases)  # whichever example fails will do
    hypothesis.settings.load_profile("mutation")
    # To load schemathesis' plugin alone would take longer than most tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ["-p", "anyio", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
    return int(pytest.main(["-x", "-q", "--no-header", "--tb=line", "--assert=plain", *plugins, *tests]))
