"""How throughput grows from one worker to two: connections made and joined, and deliveries."""

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Final, NamedTuple

from bench import report
from bench.load import DEADLINE_S, RESET_ON_CLOSE, Connection, Crowd, LoadError, client_frame, room_name
from bench.processes import CORES, LOAD_CORE, Measured, server
from bench.rounds import interleaved
from bench.store import store

CLIENTS: Final = 600
AT_A_TIME: Final = 64
"""Connections for each process that serves whose `sync` has not come yet: so each has as much to do at a time."""
ROOM_MEMBERS: Final = 10
ROOMS: Final = 4
MEMBERS: Final = 1_000
TIMES: Final = 20
"""Messages to each room in a round."""
PUBLISH: Final = b'{"t":"publish","id":7,"room":"%s","data":"%s"}'
SYNC: Final = b'"t":"sync"'
OF_STORE_TARGET, OF_MEMORY_TARGET = 1.8, 1.5
FLAGS: Final = (
    "--limits.pending_per_ip=1024",  # all come from one address
    "--presence.grace_lost_ms=1",  # those of the round before are gone at once
    *(
        "--presence.ping_ms=3600000",
        "--presence.ping_timeout_ms=3600000",
    ),  # in others' turns members are not read
)
WHAT = f"""\
`--workers 2` with its embedded store against one process, in memory as `--workers 1` is, and on a store.
connects: {CLIENTS} connections come, {AT_A_TIME} at a time for each process, and join rooms of {ROOM_MEMBERS}.
deliveries: a message of 120 bytes to each of {ROOMS} rooms at once, {MEMBERS:,} members in all, {TIMES} times, each
when the one before has arrived everywhere. `growth by CPU` is the CPU of one process for an event, divided by
the CPU that the busier of two workers spends for an event of both: how much more two workers do while each has a
core, with others for the load, the store and the supervisor. `growth by the clock` is events a second on this
machine, where all of them share {len(CORES)} cores: what the load takes the workers cannot have, so it is below
what the CPU says and has no target. What is not shown: more than two workers, and two on cores that nothing else
uses."""


class Spent(NamedTuple):
    """What a round took: the CPU of each process that serves, and time, in ns for each event."""

    each: list[float]
    wall: float


class Rig:
    """One server with `serving`, the processes that serve clients."""

    def __init__(self, node: Measured, serving: list[Measured], crowd: Crowd) -> None:
        self._node = node
        self._serving = serving
        self._crowd = crowd
        self._rooms = count(ROOMS)
        self._publishers: list[Connection] = []
        self._frame_bytes = 0

    def fill(self) -> None:
        """Make the rooms that messages go to."""
        self._crowd.join(self._node, MEMBERS, MEMBERS // ROOMS)
        for number in range(ROOMS):
            publisher = Connection(self._node)
            publisher.upgrade(self._node, "publisher")
            publisher.send(b'{"t":"watch","id":1,"room":"%s","mode":"none"}' % room_name(number))
            publisher.receive_marked(SYNC)
            self._publishers.append(publisher)
        self._publish()
        self._frame_bytes, odd = divmod(self._crowd.settle(), MEMBERS)
        if odd:
            raise LoadError("not every member got the same")

    def connect(self) -> Spent:
        """Have clients come and join; those of the round before have gone."""
        with self._spending(CLIENTS) as spent:
            arrivals = Arrivals(self._node, next(self._rooms), AT_A_TIME * len(self._serving))
            arrivals.run()
        arrivals.close()
        self._crowd.settle(0.3)
        return spent()

    def deliver(self) -> Spent:
        """Send messages to all rooms."""
        with self._spending(MEMBERS * TIMES) as spent:
            for _ in range(TIMES):
                self._publish()
                self._crowd.count(1, self._frame_bytes)
        return spent()

    def _publish(self) -> None:
        for number, publisher in enumerate(self._publishers):
            publisher.send(PUBLISH % (room_name(number), b"m" * 118))
        for publisher in self._publishers:
            publisher.receive_texts(1)

    @contextmanager
    def _spending(self, events: int) -> Iterator[Callable[[], Spent]]:
        begin_ns, began_ns = [each.cpu_ns() for each in self._serving], time.monotonic_ns()
        ended: list[Spent] = []
        yield lambda: ended[0]
        wall_ns = time.monotonic_ns() - began_ns
        spent_ns = [each.cpu_ns() - begin for each, begin in zip(self._serving, begin_ns, strict=True)]
        ended.append(Spent([ns / events for ns in spent_ns], wall_ns / events))


class Arrivals:
    """Clients that say all that they have to say at once, a bounded number at a time."""

    def __init__(self, to: Measured, first_room: int, at_a_time: int) -> None:
        self._to = to
        self._at_a_time = at_a_time
        self._first_room = first_room * 1_000
        self._socks: dict[int, tuple[socket.socket, bytearray]] = {}
        self._come = 0

    def run(self) -> None:
        """Have all come, and wait until each has been told who is in its room."""
        waiting: set[int] = set()
        with select.epoll() as epoll:
            while self._come < CLIENTS or waiting:
                while self._come < CLIENTS and len(waiting) < self._at_a_time:
                    fd = self._arrive()
                    waiting.add(fd)
                    epoll.register(fd, select.EPOLLIN)
                for fd, _ in epoll.poll(DEADLINE_S) or self._stuck():
                    sock, told = self._socks[fd]
                    data = sock.recv(65_536)
                    if not data:
                        raise LoadError(f"a connection was closed: {bytes(told[:200])!r}")
                    told += data
                    if fd in waiting and SYNC in told:
                        waiting.discard(fd)
                        epoll.unregister(fd)  # what the others do later is not read: it is little

    def close(self) -> None:
        """Drop them all."""
        for sock, _ in self._socks.values():
            sock.close()

    def _arrive(self) -> int:
        sock = socket.create_connection((self._to.host, self._to.port), timeout=DEADLINE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        room = room_name(self._first_room + self._come // ROOM_MEMBERS)
        upgrade = (
            f"GET /ws?user=user-{self._come} HTTP/1.1\r\nHost: {self._to.host}:{self._to.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        sock.sendall(upgrade.encode() + client_frame(b'{"t":"join","id":1,"room":"%s"}' % room))
        self._socks[sock.fileno()] = (sock, bytearray())
        self._come += 1
        return sock.fileno()

    def _stuck(self) -> list[tuple[int, int]]:
        raise LoadError("some were never told who is in their room")


def measure(rounds: int) -> report.Result:
    """Run it, with the load on any core, as everything else."""
    os.sched_setaffinity(0, CORES)
    try:
        with ExitStack() as stack:
            shared = stack.enter_context(store(CORES))
            nodes = {
                "memory": stack.enter_context(server(*FLAGS, cores=CORES)),
                "store": stack.enter_context(server(*FLAGS, f"--redis.url={shared.url}", cores=CORES)),
                "workers": stack.enter_context(server(*FLAGS, "--workers=2", cores=CORES)),
            }
            rigs = {}
            for name, node in nodes.items():
                serving: list[Measured] = node.workers() if name == "workers" else [node]
                rigs[name] = Rig(node, serving, stack.enter_context(Crowd()))
                rigs[name].fill()
            connects = _turns({name: rig.connect for name, rig in rigs.items()}, rounds)
            deliveries = _turns({name: rig.deliver for name, rig in rigs.items()}, rounds)
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})
    figures = [*_figures("connects", "connect", connects), *_figures("deliveries", "delivery", deliveries)]
    targets = [
        report.Target(figure=f"{what}, growth by CPU from one process {where}", bound="at least", limit=limit)
        for what in ("connects", "deliveries")
        for where, limit in (("on a store", OF_STORE_TARGET), ("in memory", OF_MEMORY_TARGET))
    ]
    return report.Result(name="workers", what=WHAT, figures=figures, targets=targets)


def _turns(kinds: dict[str, Callable[[], Spent]], rounds: int) -> dict[str, list[Spent]]:
    """Return what each round took of each kind."""
    spent: dict[str, list[Spent]] = {kind: [] for kind in kinds}

    def noted(kind: str) -> float:
        spent[kind].append(kinds[kind]())
        return 0.0

    interleaved({kind: lambda kind=kind: noted(kind) for kind in kinds}, rounds)  # type: ignore[misc]  # mypy #12557
    return {kind: each[1:] for kind, each in spent.items()}


def _figures(what: str, event: str, spent: dict[str, list[Spent]]) -> Iterator[report.Figure]:
    names = {"memory": "one process in memory", "store": "one process on a store", "workers": "two workers"}
    for kind, name in names.items():
        yield report.per_round(
            f"{what}, {name}, CPU per {event}", "µs", [sum(s.each) / 1e3 for s in spent[kind]]
        )
    busier = [max(s.each) for s in spent["workers"]]
    walls = [s.wall for s in spent["workers"]]
    yield report.per_round(
        f"{what}, the busier worker's part", "", [max(s.each) / sum(s.each) for s in spent["workers"]]
    )
    for kind, where in (("store", "on a store"), ("memory", "in memory")):
        one, wall = [s.each[0] for s in spent[kind]], [s.wall for s in spent[kind]]
        yield report.ratio(f"{what}, growth by CPU from one process {where}", one, busier)
        yield report.ratio(f"{what}, growth by the clock from one process {where}", wall, walls)
    yield report.per_round(f"{what} a second, two workers", "", [1e9 / wall for wall in walls])
