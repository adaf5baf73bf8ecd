"""Other servers beside this one: the same clients, the same work, in turns on the same core."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from statistics import median, quantiles
from typing import Final, Literal

from bench import report
from bench.load import LoadError
from bench.pacing import paced
from bench.peer_servers import OURS, PEERS_MEASURED, MissingToolError, Peer
from bench.processes import Measured
from bench.store import store
from bench.visitors import Hall, Visitors

MEMBERS: Final = 500
TEXT: Final = "Q" * 118
"""With its quotes 120 bytes of JSON."""
MARK: Final = TEXT.encode()
TIMES: Final = 3
TOGETHER: Final = 10
CLIENTS: Final = 1_000
AT_ONCE: Final = 200
ROOM_MEMBERS: Final = 20
IDLE: Final = 2_000
IDLE_ROOM_MEMBERS: Final = 10
RATE: Final = 200
MESSAGES: Final = 200
BARS: Final[tuple[tuple[str, Literal["at most"], float], ...]] = (
    ("a message", "at most", 0.8),
    ("a message of ten", "at most", 0.5),
    ("a client comes, memory", "at most", 1.0),
    ("a client comes, Redis", "at most", 1.2),
)
"""What this server may need of the CPU that centrifuge needs."""
RIVAL: Final = "centrifuge"
WHAT: Final = f"""\
The same raw clients come to each server, in turns; the servers of a measurement run at the same time, on one core,
the load and the stores (Valkey on a unix socket) on the other. CPU is all that a server's process used.
`a message`: {len(TEXT) + 2} bytes from one client to {MEMBERS:,} others in its room, {TIMES} times a round, each when
the one before has arrived everywhere, CPU per delivery; `a message of ten`: {TOGETHER} sent in one segment.
`a client comes`: {CLIENTS:,} clients, {AT_ONCE} under way at a time, connect and join rooms of {ROOM_MEMBERS}, until
nobody is told anything any more; in memory, and with the store. They are told who is in the room and who comes, where
the server has that: presence-server, centrifuge (presence, join and leave), Socket.IO (`fetchSockets`, and a message
to the room) and python-socketio (the same, but only those of its own process); the others have no rosters and do
less. `memory`: what {IDLE:,} clients in rooms of {IDLE_ROOM_MEMBERS} make a fresh process grow by, each.
`to another node`: {RATE} messages a second from a client of one process to a client of another by the store, both on
the one core. Servers are started as their documentation says: centrifuge as a Go program on one core, Socket.IO and
its Redis adapter on ioredis, python-socketio and Django Channels (the tutorial's consumer, `channels_redis.core`) on
uvicorn with uvloop, `websockets.serve` with `broadcast` on uvloop, without compression; their versions are those of
`bench/peers` and `constraints.txt`."""

Found = defaultdict[str, list[float]]
Cell = Callable[[Peer], dict[str, float]]


def measure(rounds: int) -> report.Result:
    """Run it."""
    found: dict[str, Found] = defaultdict(lambda: defaultdict(list))
    peers, left_out = _prepared()
    sharing = [peer for peer in peers if peer.shares]
    cells: list[tuple[AbstractContextManager[Cell], list[Peer]]] = [
        (_deliveries(peers), peers),
        (_arrivals(peers), peers),
        (_shared_arrivals(sharing), sharing),
        (_distances(sharing), sharing),
        (nullcontext(_idle_clients), peers),
    ]
    for made, measured in cells:
        with made as cell:
            _take_turns(cell, measured, rounds, found, left_out)
    return report.Result(
        name="peers",
        what=WHAT,
        figures=_figures(found),
        targets=_targets(found),
        left_out=left_out,
    )


def _take_turns(
    cell: Cell, peers: list[Peer], rounds: int, found: dict[str, Found], left_out: dict[str, str]
) -> None:
    """Measure each peer in each round; one that fails is left out of all of them."""
    rows: list[tuple[str, str, float]] = []
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        for peer in peers:
            if peer.name in failed:
                continue
            try:
                values = cell(peer)
            except LoadError as exc:
                if peer is OURS:
                    raise
                failed[peer.name] = str(exc)
                continue
            if number:
                rows += [(name, peer.name, value) for name, value in values.items()]
    for name, measured, value in rows:
        if measured not in failed:
            found[name][measured].append(value)
    for measured, reason in failed.items():
        what = f"{measured}, {', '.join({name: None for name, _, _ in rows})}"
        left_out[what] = reason
        sys.stderr.write(f"LEFT OUT: {what}: {reason}\n")


def _prepared() -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can be measured here, and why the others cannot."""
    peers, left_out = [], {}
    for peer in PEERS_MEASURED:
        try:
            peer.prepare()
        except MissingToolError as exc:
            left_out[peer.name] = str(exc)
            sys.stderr.write(f"LEFT OUT: {peer.name}: {exc}\n")
        else:
            peers.append(peer)
    return peers, left_out


class FullRoom:
    """A server whose room has many members, and one client more that publishes."""

    def __init__(self, peer: Peer, hall: Hall, stack: ExitStack) -> None:
        self._process = stack.enter_context(peer.start(None))
        self._members = stack.enter_context(Visitors(hall, self._process, peer.dialect))
        self._publishers = stack.enter_context(Visitors(hall, self._process, peer.dialect))
        self._members.come(["room"] * MEMBERS, AT_ONCE)
        self._publishers.come(["room"], 1)
        self._members.settle()
        self._message = peer.dialect.publish("room", TEXT)

    def spend(self, together: int) -> float:
        """Return the CPU of a delivery in µs."""
        begin_ns = self._process.cpu_ns()
        for _ in range(TIMES):
            self._publishers.send(*[self._message] * together)
            self._members.count(MARK, together)
        return (self._process.cpu_ns() - begin_ns) / (MEMBERS * TIMES * together) / 1e3


@contextmanager
def _deliveries(peers: list[Peer]) -> Iterator[Cell]:
    """Yield what measures messages to a full room."""
    with ExitStack() as stack:
        hall = Hall()
        rooms = {peer.name: FullRoom(peer, hall, stack) for peer in peers}

        def deliver(peer: Peer) -> dict[str, float]:
            room = rooms[peer.name]
            return {"a message": room.spend(1), "a message of ten": room.spend(TOGETHER)}

        yield deliver


@contextmanager
def _arrivals(peers: list[Peer]) -> Iterator[Cell]:
    """Yield what measures clients that connect and join, in memory."""
    with ExitStack() as stack:
        processes = {peer.name: stack.enter_context(peer.start(None)) for peer in peers}
        numbers = count()

        def come(peer: Peer) -> dict[str, float]:
            (spent_us,) = _come(peer, next(numbers), processes[peer.name])
            return {"a client comes, memory": spent_us}

        yield come


@contextmanager
def _shared_arrivals(peers: list[Peer]) -> Iterator[Cell]:
    """Yield what measures clients that connect and join, each kind of server with a store of its own."""
    with ExitStack() as stack:
        stores = {peer.name: stack.enter_context(store()) for peer in peers}
        processes = {peer.name: stack.enter_context(peer.start(stores[peer.name])) for peer in peers}
        numbers = count()

        def come(peer: Peer) -> dict[str, float]:
            spent_us = _come(peer, next(numbers), processes[peer.name], stores[peer.name])
            return dict(
                zip(("a client comes, Redis", "a client comes, the store's CPU"), spent_us, strict=True)
            )

        yield come


def _come(peer: Peer, number: int, process: Measured, *others: Measured) -> list[float]:
    """Return the CPU of a client for each of these processes, in µs; `number` is of the rooms, which are new."""
    rooms = [f"room-{number}-{client // ROOM_MEMBERS}" for client in range(CLIENTS)]
    spenders = [process, *others]
    with Visitors(Hall(), process, peer.dialect) as visitors:
        begin_ns = [spender.cpu_ns() for spender in spenders]
        visitors.come(rooms, AT_ONCE)
        visitors.settle()
        ends_ns = [spender.cpu_ns() for spender in spenders]
    process.rest()
    return [(end - begin) / CLIENTS / 1e3 for begin, end in zip(begin_ns, ends_ns, strict=True)]


@contextmanager
def _distances(peers: list[Peer]) -> Iterator[Cell]:
    """Yield what times messages to another process."""
    with ExitStack() as stack:
        hall = Hall()
        carriers: dict[str, Callable[[bytes], None]] = {}
        for peer in peers:
            shared = stack.enter_context(store())
            ends = [
                stack.enter_context(Visitors(hall, stack.enter_context(peer.start(shared)), peer.dialect))
                for _ in range(2)
            ]
            carriers[peer.name] = _carrier(peer, *ends)

        def carry(peer: Peer) -> dict[str, float]:
            took_us = paced(carriers[peer.name], MESSAGES, RATE, len(TEXT))
            return {
                "to another node, p50": median(took_us),
                "to another node, p99": quantiles(took_us, n=100)[98],
            }

        yield carry


def _carrier(peer: Peer, sender: Visitors, receiver: Visitors) -> Callable[[bytes], None]:
    for end in (receiver, sender):
        end.come(["far"], 1)
        end.settle()

    def carry(text: bytes) -> None:
        """Return when a text has come."""
        sender.send(peer.dialect.publish("far", text.decode()))
        receiver.count(text, 1)
        sender.settle(0)

    return carry


def _idle_clients(peer: Peer) -> dict[str, float]:
    """Return the memory of a client in KiB."""
    with peer.start(None) as process, Visitors(Hall(), process, peer.dialect) as visitors:
        before = process.memory()
        visitors.come([f"room-{number // IDLE_ROOM_MEMBERS}" for number in range(IDLE)], AT_ONCE)
        visitors.settle()
        return {"memory": (process.memory().resident - before.resident) / IDLE / 1024}


def _figures(found: Mapping[str, Mapping[str, list[float]]]) -> list[report.Figure]:
    units = {"memory": "KiB"}
    figures = [
        report.per_round(f"{name}: {peer}", units.get(name, "µs"), values)
        for name, by_peer in found.items()
        for peer, values in by_peer.items()
    ]
    figures += [
        report.ratio(f"{name}: {OURS.name} / {peer}", by_peer[OURS.name], values)
        for name, by_peer in found.items()
        for peer, values in by_peer.items()
        if peer != OURS.name
    ]
    return figures


def _targets(found: dict[str, Found]) -> list[report.Target]:
    return [
        report.Target(figure=f"{name}: {OURS.name} / {RIVAL}", bound=bound, limit=limit)
        for name, bound, limit in BARS
        if RIVAL in found[name]
    ]
