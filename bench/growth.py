"""How each cost grows: with the members of a room, with the rooms of a node, with one worker and with two."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Final

from bench import report
from bench.fit import exponent
from bench.load import Connection, Crowd, room_name
from bench.processes import CORES, MEASURED_CORE, Measured, server
from bench.store import store

MEMBERS: Final = (10, 100, 1_000, 10_000)
ROOMS: Final = (1, 10, 100, 1_000, 10_000)
WORKERS: Final = (1, 2)
ROOMS_EACH: Final = 100
"""Rooms of one connection."""
TIMES: Final = 3
MESSAGES: Final = 50
"""To one member."""
NEWCOMERS: Final = 10
HEARTBEAT_S: Final = 1
BEATS: Final = 8
IN_A_ROOM: Final = 10
QUIET_S: Final = 1.3
"""Longer than the longest time for which changes of a room are gathered."""
PINGLESS: Final = ("--presence.ping_ms=3600000", "--presence.ping_timeout_ms=3600000")
FLAGS: Final = (
    *PINGLESS,
    "--presence.grace_lost_ms=1",
    "--server.max_connections=12000",
    "--limits.overload_ms=60000",
)
BEATING: Final = (
    f"--presence.heartbeat_ms={HEARTBEAT_S * 1_000}",
    "--presence.ttl_ms=30000",
)
QUIET: Final = ("--presence.heartbeat_ms=1200000", "--presence.ttl_ms=3600000")
PUBLISH: Final = b'{"t":"publish","id":7,"room":"%s","data":"%s"}'
TEXT: Final = b"m" * 118
LINEAR, FLAT = 1.1, 0.2
"""The most that an exponent may be of what may grow with N, and of what may not."""
HEARTBEAT_FEWEST: Final = 100
WHAT: Final = f"""\
A cost is measured for each size in turns, all servers running at once; the exponent k of cost = c · N^k is fitted in
each round (least squares on logarithms). One room of {MEMBERS[0]} … {MEMBERS[-1]:,} members, in memory, by one process
and by `--workers 2` (the CPU of both workers; their store is not in it): `message`: one of 120 bytes to all;
`newcomer`: one of {NEWCOMERS} that join and then leave, with all that others are told of it, until nobody has been told
anything for {QUIET_S} s (a room of more than 1,000 tells numbers). {ROOMS[0]} … {ROOMS[-1]:,} rooms with one member
each ({ROOMS_EACH} rooms a connection) on one node with a store: `message` to one of them and `newcomer` into one,
without heartbeats, and a `heartbeat` of all of them, of which there is one a second; what a node without members uses
is subtracted from heartbeats. Heartbeats of {MEMBERS[0]} … {MEMBERS[-1]:,} members of rooms of ten likewise; their
exponents regard sizes from {HEARTBEAT_FEWEST} on: fewer are lost in what an idle node does. WebSocket pings are
off."""

Found = defaultdict[str, defaultdict[int, list[float]]]
"""The costs of each round, by what was measured and size."""


class Serving:
    """A server with members, and what it spends on others."""

    def __init__(self, node: Measured, processes: Sequence[Measured], crowd: Crowd) -> None:
        self._node = node
        self._processes = processes
        self._crowd = crowd
        self._names = count()
        self._frame_bytes = 0

    def fill(self, members: int) -> None:
        """Let members join the first room."""
        self._crowd.join(self._node, members, members)
        self._publisher = self._watcher()
        self._publisher.send(PUBLISH % (room_name(0), TEXT))
        self._publisher.receive_texts(1)
        self._frame_bytes = self._crowd.settle() // members

    def spread(self, rooms: int, room_members: int) -> None:
        """Let connections that have many rooms join: so many members to a room."""
        for number in range(-(-rooms // ROOMS_EACH) * room_members):
            group, _ = divmod(number, room_members)
            connection = Connection(self._node)
            connection.upgrade(self._node, f"user-{number}")
            joins = [
                b'{"t":"join","id":1,"room":"%s","mode":"none"}' % room_name(room)
                for room in range(group * ROOMS_EACH, min(rooms, (group + 1) * ROOMS_EACH))
            ]
            connection.send(*joins)
            connection.receive_syncs(len(joins))
            self._crowd.add(connection)
        self._publisher = self._watcher()
        self._crowd.settle()

    def _watcher(self) -> Connection:
        connection = Connection(self._node)
        connection.upgrade(self._node, "publisher")
        connection.send(b'{"t":"watch","id":1,"room":"%s","mode":"none"}' % room_name(0))
        connection.receive_marked(b'"t":"sync"')
        return connection

    def message(self) -> float:
        """Return the CPU of a message to the first room, in µs."""
        begin_ns = self.cpu_ns()
        for _ in range(TIMES):
            self._publisher.send(PUBLISH % (room_name(0), TEXT))
            self._crowd.count(1, self._frame_bytes)
            self._publisher.receive_marked(b'"t":"ok"')
        return (self.cpu_ns() - begin_ns) / TIMES / 1e3

    def message_to_one(self) -> float:
        """Return the CPU of a message to the only member of the first room, in µs."""
        begin_ns = self.cpu_ns()
        for _ in range(MESSAGES):
            self._publisher.send(PUBLISH % (room_name(0), TEXT))
            self._publisher.receive_marked(b'"t":"ok"')
        self._crowd.settle(0.1)
        return (self.cpu_ns() - begin_ns) / MESSAGES / 1e3

    def newcomer(self) -> float:
        """Return the CPU of a client that joins the first room and leaves it, in µs."""
        connections = [self._newcomer() for _ in range(NEWCOMERS)]
        self._crowd.settle(0.1)
        begin_ns = self.cpu_ns()
        for message in (b'{"t":"join","id":1,"room":"%s"}', b'{"t":"leave","id":2,"room":"%s"}'):
            for connection in connections:
                connection.send(message % room_name(0))
            self._crowd.settle(QUIET_S)
        spent_us = (self.cpu_ns() - begin_ns) / NEWCOMERS / 1e3
        self._crowd.drop(connections)
        return spent_us

    def _newcomer(self) -> Connection:
        connection = Connection(self._node)
        connection.upgrade(self._node, f"newcomer-{next(self._names)}")
        self._crowd.add(connection)
        return connection

    def cpu_ns(self) -> int:
        """Return the CPU time of the processes that serve."""
        return sum(process.cpu_ns() for process in self._processes)


class Sharing:
    """A node with a store of its own."""

    def __init__(self, stack: ExitStack, heartbeats: Sequence[str]) -> None:
        self._store = stack.enter_context(store())
        self._node = stack.enter_context(server(*FLAGS, *heartbeats, f"--redis.url={self._store.url}"))
        self.serving = Serving(self._node, [self._node], stack.enter_context(Crowd()))

    def cpu_ns(self) -> tuple[int, int]:
        """Return the CPU time of the node and of the store."""
        return self._node.cpu_ns(), self._store.cpu_ns()


def measure(rounds: int, most: int = MEMBERS[-1]) -> report.Result:
    """Run it, for sizes up to `most`."""
    found: Found = defaultdict(lambda: defaultdict(list))
    members, rooms = ([size for size in sizes if size <= most] for sizes in (MEMBERS, ROOMS))
    for workers in WORKERS:
        _grow_a_room(members, workers, rounds, found)
    _grow_the_number_of_rooms(members, rooms, rounds, found)
    figures, targets = [], []
    for name, costs in found.items():
        figures += [
            report.per_round(f"{name}: {size:,}", "µs of CPU", values)
            for size, values in sorted(costs.items())
        ]
    for name, costs in found.items():
        figure = _exponent(name, costs)
        figures.append(figure)
        limit = LINEAR if "members" in name or "heartbeat" in name else FLAT
        targets.append(report.Target(figure=figure.name, bound="at most", limit=limit))
    return report.Result(name="growth", what=WHAT, figures=figures, targets=targets)


def _exponent(name: str, costs: dict[int, list[float]]) -> report.Figure:
    """Return the exponent of each round."""
    fewest = HEARTBEAT_FEWEST if name.startswith("heartbeat") else 0
    sizes = sorted(size for size in costs if size >= fewest)
    rounds = zip(*(costs[size] for size in sizes), strict=True)
    return report.per_round(f"{name}: exponent", "", [exponent(sizes, row) for row in rounds])


def _take(
    found: Found,
    kinds: Mapping[str, Callable[[Serving], float]],
    servings: Mapping[int, Serving],
    rounds: int,
) -> None:
    """Measure each size in turns, and one round more that does not count."""
    for number in range(rounds + 1):
        for name, cost in kinds.items():
            for size, serving in servings.items():
                value = cost(serving)
                if number:
                    found[name][size].append(value)


def _grow_a_room(sizes: Sequence[int], workers: int, rounds: int, found: Found) -> None:
    with ExitStack() as stack:
        servings = {}
        for members in sizes:
            cores = CORES if workers > 1 else [MEASURED_CORE]
            node = stack.enter_context(server(*FLAGS, f"--workers={workers}", cores=cores))
            processes: Sequence[Measured] = node.workers() if workers > 1 else [node]
            servings[members] = Serving(node, processes, stack.enter_context(Crowd()))
            servings[members].fill(members)
        by = "one process" if workers == 1 else f"{workers} workers"
        kinds = {f"message, members of a room, {by}": Serving.message}
        kinds[f"newcomer, members of a room, {by}"] = Serving.newcomer
        _take(found, kinds, servings, rounds)


def _grow_the_number_of_rooms(
    members: Sequence[int], rooms: Sequence[int], rounds: int, found: Found
) -> None:
    with ExitStack() as stack:
        silent = Sharing(stack, BEATING)
        quiet = {size: _spread(stack, QUIET, size, 1) for size in rooms}
        kinds = {
            "message, rooms of a node": Serving.message_to_one,
            "newcomer, rooms of a node": Serving.newcomer,
        }
        _take(found, kinds, {size: sharing.serving for size, sharing in quiet.items()}, rounds)
        ones = {size: _spread(stack, BEATING, size, 1) for size in rooms}
        tens = {size: _spread(stack, BEATING, size // IN_A_ROOM, IN_A_ROOM) for size in members}
        for _ in range(rounds):
            every = [silent, *ones.values(), *tens.values()]
            begin_ns = [each.cpu_ns() for each in every]
            time.sleep(BEATS * HEARTBEAT_S)
            spent_us = {
                each: [(now - begin) / BEATS / 1e3 for now, begin in zip(each.cpu_ns(), begun, strict=True)]
                for each, begun in zip(every, begin_ns, strict=True)
            }
            for name, by_size in (("rooms of one", ones), ("rooms of ten", tens)):
                for size, each in by_size.items():
                    for where, one, nothing in zip(
                        ("the node", "the store"), spent_us[each], spent_us[silent], strict=True
                    ):
                        found[f"heartbeat, members in {name}, {where}"][size].append(max(one - nothing, 0.1))


def _spread(stack: ExitStack, heartbeats: Sequence[str], rooms: int, room_members: int) -> Sharing:
    """Return a node whose members are in many rooms."""
    sharing = Sharing(stack, heartbeats)
    sharing.serving.spread(rooms, room_members)
    return sharing
