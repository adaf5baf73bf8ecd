"""What tests of attacks share: a well-behaved client that must keep its service, and bounds on what a node keeps.

    async with Bystander(node.port) as bystander:
        ...                              # attack; whatever waits gives the bystander its turn
        await bystander.keeps_service()  # it is answered while the attack goes on
    keeps_memory(node, before, MIB)

A test holds to conditions, not to times: what the bystander asks is answered before the attacker is done with,
however slow the machine is.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc

from tests.support.memory import rss_bytes
from tests.support.node import Node
from tests.support.rawclient import EndedError, RawClient, speaking
from tests.support.waiting import DEADLINE_S, until

MIB: Final = 2**20
ROOM: Final = "bystanders"


class Bystander:
    """A client that joins a room and then asks something again and again, each time when it has its answer.

    Anything but an answer to each of its requests, within a generous deadline, fails the test.
    """

    def __init__(
        self, port: int, path: str = "/ws?user=bystander", room: str = ROOM, source: str = ""
    ) -> None:
        self.answered = 0
        """Requests that were answered so far."""
        self.waits_s: list[float] = []
        """How long each answer took."""
        self._port = port
        self._path = path
        self._room = room
        self._source = source
        self._tasks: anyio.abc.TaskGroup = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self._tasks.start(self._ask)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, exc, traceback)

    async def keeps_service(self, requests: int = 3) -> None:
        """Wait until so many more of its requests have been answered."""
        before = self.answered
        await until(lambda: self.answered >= before + requests, lambda: f"{self.answered - before} answers")

    async def _ask(self, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with speaking(self._port, self._path, source=self._source) as client:
            await client.request(t="join", room=self._room, id=0)
            task_status.started()
            while True:
                begun = time.monotonic()
                with anyio.fail_after(DEADLINE_S):
                    await client.request(t="publish", room=self._room, data="x", id=self.answered + 1)
                self.waits_s.append(time.monotonic() - begun)
                self.answered += 1
                await anyio.sleep(0.005)


@asynccontextmanager
async def many(port: int, count: int, source: str = "") -> AsyncIterator[list[RawClient]]:
    """Open many sockets to a node, which say nothing yet."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(RawClient(port, source=source)) for _ in range(count)]


async def read_to_the_end(client: RawClient) -> bytes:
    """Read whatever comes, until the server has ended the connection, and return it."""
    data = bytearray()
    try:
        while True:
            data += await client.receive()
    except EndedError:
        return bytes(data)


def keeps_memory(node: Node, before: int, grown_max: int) -> None:
    """Fail where a node's resident memory has grown by more than `grown_max` bytes since it was `before`."""
    grown = rss_bytes(node.pid) - before
    assert grown <= grown_max, f"{grown / MIB:.1f} MiB, and {grown_max / MIB:.1f} MiB may be"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - a file of the kernel
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
