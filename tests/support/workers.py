"""A server of several workers: its processes, each of which tests can kill, freeze and look for."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from presence_server.client import Client, connect
from presence_server.config.cores import cores_available
from presence_server.workers import keeper, launch
from tests.support.node import Node
from tests.support.waiting import until

WORKERS = 2
CONNECTIONS_MAX = 100
"""The kernel spreads connections by their ports: with two workers this many are never all on one."""


def need_two_cores() -> None:
    """Skip where there is one core, unless in CI."""
    if cores_available() < WORKERS and os.environ.get("CI"):
        raise AssertionError("this machine has one core, and CI must have two")
    if cores_available() < WORKERS:
        pytest.skip("NOT TESTED: several workers need as many cores, and this machine has one")


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder with a short path, as sockets need, and look that nothing was left in it.

    Its name has what is no plain text in a URL, in a shell or in a file of settings.
    """
    with tempfile.TemporaryDirectory(prefix="p%s@?# -", dir="/tmp") as name:
        yield Path(name)
        assert inside(Path(name)) == []


class Workers(Node):
    """One `presence-server serve --workers 2` whose private folder is in `folder`."""

    def __init__(self, directory: Path, folder: Path, *args: str, workers: str = str(WORKERS)) -> None:
        need_two_cores()
        super().__init__(directory, "--workers", workers, "--server.socket_dir", str(folder), *args)

    @property
    def nodes(self) -> list[str]:
        """The id of each worker's node at the start, in the order of the workers."""
        return self.id.split(",")

    def worker(self, number: int) -> int:
        """Return the process id of a worker, counted from 1; 0: it has none."""
        launched = [launch.__file__, str(number)]
        return next((pid for pid, line in children(self.pid).items() if line[-2:] == launched), 0)

    @property
    def keeper(self) -> int:
        """The process id of the keeper."""
        return next(pid for pid, line in children(self.pid).items() if keeper.__file__ in line)

    @property
    def store(self) -> int:
        """The process id of the embedded store; 0: there is none."""
        return next(iter(children(self.keeper)), 0)

    def processes(self) -> list[int]:
        """Return the supervisor's process id and those of everything that it has started."""
        return [self.pid, *children(self.pid), *filter(None, [self.store])]


async def one_on_each(node: Workers, stack: AsyncExitStack) -> list[Client]:
    """Return a client on each worker, in their order, which stay connected as long as the stack is open."""
    found: dict[str, Client] = {}
    for n in range(CONNECTIONS_MAX):
        client = await stack.enter_async_context(connect(node.ws_url, user=f"user-{n}"))
        found.setdefault(client.node, client)
        if len(found) == WORKERS:
            return [found[each] for each in node.nodes]
    raise AssertionError(f"all {CONNECTIONS_MAX} connections are on {list(found)}")


def inside(folder: Path) -> list[Path]:
    """Return what is in a folder."""
    return list(folder.iterdir())


def children(pid: int) -> dict[int, list[str]]:
    """Return the command line of each child of a process, by its process id."""
    found = {}
    for line in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, line.read_text().split()):
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().rstrip("\0").split("\0")
            except FileNotFoundError:  # it has ended just now
                continue
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    await until(lambda: not any(map(is_alive, pids)), lambda: [pid for pid in pids if is_alive(pid)])
