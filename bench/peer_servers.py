"""Other servers, each as its own documentation says, and what has to be there before one can be measured.

Git ignores what is built or fetched: `peers/centrifuge/server` and `peers/socketio/node_modules`.
"""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench import dialects
from bench.dialects import Dialect
from bench.processes import CORES, Measured, on, peer, running, server
from bench.store import Store

PEERS: Final = Path(__file__).parent / "peers"
CENTRIFUGE: Final = PEERS / "centrifuge"
SOCKET_IO: Final = PEERS / "socketio"
BUILD_DEADLINE_S: Final = 900
FLAGS: Final = (
    "--presence.grace_lost_ms=1",  # who drops has left: no timer of the last round runs in the next
    "--limits.overload_ms=60000",  # it refuses nobody, as the others refuse nobody
)


class MissingToolError(Exception):
    """A peer cannot be measured here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One kind of server. `shares`: several processes can form one system."""

    name: str
    dialect: Dialect
    start: Callable[[Store | None], AbstractContextManager[Measured]]
    """Runs a process that shares a store, or keeps all in memory."""
    tools: tuple[str, ...] = ()
    """Programs that it needs."""
    packages: tuple[str, ...] = ()
    """Python packages that it needs."""
    build: Callable[[], None] = lambda: None
    """Builds or fetches the rest, once; raises `MissingToolError`."""
    shares: bool = True

    def prepare(self) -> None:
        """See to what it needs; raises `MissingToolError`."""
        for tool in self.tools:
            if shutil.which(tool) is None:
                raise MissingToolError(f"{tool} is not installed")
        for package in self.packages:
            if find_spec(package) is None:
                raise MissingToolError(f"the Python package {package} is not installed")
        self.build()


def _build_centrifuge() -> None:
    built = CENTRIFUGE / "server"
    sources = [CENTRIFUGE / "main.go", CENTRIFUGE / "go.mod"]
    if not built.exists() or built.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        _build(("go", "build", "-o", built.name, "."), CENTRIFUGE)


def _fetch_socketio() -> None:
    fetched = SOCKET_IO / "node_modules" / ".installed"
    if not fetched.exists():
        _build(("npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"), SOCKET_IO)
        fetched.touch()


def _build(command: tuple[str, ...], folder: Path) -> None:
    with on(CORES):
        try:
            done = subprocess.run(
                command, cwd=folder, check=False, timeout=BUILD_DEADLINE_S, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            raise MissingToolError(f"{' '.join(command)} takes longer than {BUILD_DEADLINE_S} s") from None
    if done.returncode:
        raise MissingToolError(f"{' '.join(command)} fails: {(done.stderr or done.stdout).strip()}")


def _start_ours(store: Store | None) -> AbstractContextManager[Measured]:
    return server(*FLAGS, *([f"--redis.url={store.url}"] if store else []))


def _start_centrifuge(store: Store | None) -> AbstractContextManager[Measured]:
    return running([str(CENTRIFUGE / "server"), *([store.url] if store else [])])


def _start_socketio(store: Store | None) -> AbstractContextManager[Measured]:
    return running(["node", str(SOCKET_IO / "server.js"), *([store.path] if store else [])])


def _start_module(name: str, store: Store | None) -> AbstractContextManager[Measured]:
    return peer(name, *([store.url] if store else []))


OURS: Final = Peer(name="presence-server", dialect=dialects.PRESENCE_SERVER, start=_start_ours)
PEERS_MEASURED: Final = (
    OURS,
    Peer(
        name="centrifuge",
        dialect=dialects.CENTRIFUGE,
        start=_start_centrifuge,
        tools=("go",),
        build=_build_centrifuge,
    ),
    Peer(
        name="Socket.IO",
        dialect=dialects.SOCKET_IO,
        start=_start_socketio,
        tools=("node", "npm"),
        build=_fetch_socketio,
    ),
    Peer(
        name="python-socketio",
        dialect=dialects.SOCKET_IO,
        start=partial(_start_module, "socketio_python"),
        packages=("socketio", "uvicorn"),
    ),
    Peer(
        name="Django Channels",
        dialect=dialects.CHANNELS,
        start=partial(_start_module, "django_channels"),
        packages=("django", "channels", "channels_redis", "uvicorn"),
    ),
    Peer(
        name="websockets.broadcast",
        dialect=dialects.WEBSOCKETS,
        start=partial(_start_module, "websockets_broadcast"),
        shares=False,
    ),
)
