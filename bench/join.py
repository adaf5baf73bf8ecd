"""Two thousand clients join one room at once: on one node by itself, and on two that share a store."""

from itertools import count

from bench import report
from bench.load import Connection, Crowd, room_name
from bench.processes import Measured, server
from bench.rounds import interleaved
from bench.store import store

CLIENTS = 2_000
JOIN = b'{"t":"join","id":1,"room":"%s","state":{"name":"somebody","on":true}}'
LEAVE = b'{"t":"leave","id":2,"room":"%s"}'
NODE_TARGET = 2
STORE_TARGET_US = 25
WHAT = f"""\
{CLIENTS:,} connections that are open already all send a `join` of the same, empty room; it is over when
nobody has been told anything for a second, so each node's diffs to all of its clients are in its figure.
With the memory store they are all on one node; with the shared store (Valkey on a unix socket) half of them
are on each of two. A node's CPU is divided by the joins that came to it, the store's by all of them. Then
they leave, which does not count."""


class Storm:
    """Clients on some nodes, who join a new room each time."""

    def __init__(self, nodes: list[Measured], spenders: list[Measured], crowd: Crowd) -> None:
        self._spenders = spenders
        self._crowd = crowd
        self._clients: list[Connection] = []
        self._rooms = count()
        for number in range(CLIENTS):
            node = nodes[number % len(nodes)]
            connection = Connection(node)
            connection.upgrade(node, f"user-{number}")
            crowd.add(connection)
            self._clients.append(connection)

    def blow(self) -> list[int]:
        """Return the CPU time of each process that spends some, in ns."""
        room = room_name(next(self._rooms))
        begin_ns = [process.cpu_ns() for process in self._spenders]
        self._say(JOIN % room)
        spent_ns = [process.cpu_ns() - begin for process, begin in zip(self._spenders, begin_ns, strict=True)]
        self._say(LEAVE % room)
        return spent_ns

    def _say(self, message: bytes) -> None:
        for number, client in enumerate(self._clients):
            client.send(message)
            if number % 50 == 0:
                self._crowd.converse(0)
        self._crowd.settle()


def measure(rounds: int) -> report.Result:
    """Run it."""
    with store() as shared, Crowd() as alone_crowd, Crowd() as together_crowd:
        redis = f"--redis.url={shared.url}"
        with server() as node, server(redis) as one, server(redis) as other:
            alone = Storm([node], [node], alone_crowd)
            together = Storm([one, other], [one, other, shared], together_crowd)

            def blow_alone() -> float:
                (spent_ns,) = alone.blow()
                return spent_ns / CLIENTS / 1e3

            def blow_together() -> float:
                first_ns, second_ns, store_ns = together.blow()
                store_us.append(store_ns / CLIENTS / 1e3)
                return (first_ns + second_ns) / CLIENTS / 1e3

            store_us: list[float] = []
            spent_us = interleaved({"memory": blow_alone, "shared": blow_together}, rounds)
    figures = [
        report.per_round("memory store, a node's CPU per join", "µs", spent_us["memory"]),
        report.per_round("shared store, a node's CPU per join", "µs", spent_us["shared"]),
        report.per_round("shared store, the store's CPU per join", "µs", store_us[1:]),
        report.ratio("a node's CPU, shared / memory", spent_us["shared"], spent_us["memory"]),
    ]
    targets = [
        report.Target(figure="a node's CPU, shared / memory", bound="at most", limit=NODE_TARGET),
        report.Target(
            figure="shared store, the store's CPU per join", bound="at most", limit=STORE_TARGET_US
        ),
    ]
    return report.Result(name="join", what=WHAT, figures=figures, targets=targets)
