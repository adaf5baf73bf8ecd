"""What it costs to keep ten thousand members alive in the shared store."""

import time

from bench import report
from bench.load import Connection, Crowd, room_name
from bench.processes import Measured, server
from bench.store import Store, store

CONNECTIONS = 100
ROOMS_EACH = 100
MEMBERS = CONNECTIONS * ROOMS_EACH
HEARTBEAT_S = 10
MEASURED_S = 2 * HEARTBEAT_S
QUIET = (
    *("--presence.ping_ms=3600000", "--presence.ping_timeout_ms=3600000"),
    "--presence.grace_lost_ms=1",
)
NEVER = ("--presence.heartbeat_ms=1200000", "--presence.ttl_ms=3600000")
NODE_TARGET = 0.5
STORE_TARGET = 0.7
WHAT = f"""\
{MEMBERS:,} members of rooms of ten, and of rooms of one, on one node ({CONNECTIONS} connections in
{ROOMS_EACH} rooms each), which does nothing but renew them every {HEARTBEAT_S} s, for {MEASURED_S} s a
round. A node that renews them once in twenty minutes is measured in turns; the difference is what
heartbeats cost, as a part of one core. WebSocket pings, which a busy connection does not need, are off. The
store is Valkey on a unix socket."""


class Idle:
    """A node with members that nobody hears of."""

    def __init__(self, node: Measured, shared: Store, crowd: Crowd, room_members: int) -> None:
        self._node = node
        self._store = shared
        self._crowd = crowd
        for number in range(CONNECTIONS):
            connection = Connection(node)
            connection.upgrade(node, f"user-{number}")
            group = number // room_members
            for room in range(ROOMS_EACH):
                name = room_name(group * ROOMS_EACH + room)
                connection.send(b'{"t":"join","id":1,"room":"%s","mode":"none"}' % name)
                connection.receive_marked(b'"t":"sync"')
            crowd.add(connection)
        crowd.settle()

    def spend(self) -> tuple[float, float]:
        """Return the node's and the store's part of a core, in percent."""
        begin_ns, begin_store_ns, begin_s = self._node.cpu_ns(), self._store.cpu_ns(), time.monotonic()
        self._crowd.idle(MEASURED_S)
        took_ns = (time.monotonic() - begin_s) * 1e9
        node_ns = self._node.cpu_ns() - begin_ns
        return 100 * node_ns / took_ns, 100 * (self._store.cpu_ns() - begin_store_ns) / took_ns


def measure(rounds: int) -> report.Result:
    """Run it."""
    figures, targets = [], []
    for room_members in (10, 1):
        cost = _cost(room_members, rounds)
        names = f"rooms of {room_members}, the node", f"rooms of {room_members}, the store"
        figures += [
            report.per_round(name, "% of a core", spent) for name, spent in zip(names, cost, strict=True)
        ]
        if room_members > 1:
            targets += [
                report.Target(figure=name, bound="at most", limit=limit)
                for name, limit in zip(names, (NODE_TARGET, STORE_TARGET), strict=True)
            ]
    return report.Result(name="heartbeat", what=WHAT, figures=figures, targets=targets)


def _cost(room_members: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return what heartbeats cost the node and the store in each round."""
    node_costs, store_costs = [], []
    with store() as shared, store() as silent_store, Crowd() as crowd, Crowd() as silent_crowd:
        beating = server(f"--redis.url={shared.url}", *QUIET)
        silent = server(f"--redis.url={silent_store.url}", *QUIET, *NEVER)
        with beating as node, silent as silent_node:
            with_beats = Idle(node, shared, crowd, room_members)
            without = Idle(silent_node, silent_store, silent_crowd, room_members)
            for _ in range(rounds):
                node_percent, store_percent = with_beats.spend()
                silent_percent, silent_store_percent = without.spend()
                node_costs.append(node_percent - silent_percent)
                store_costs.append(store_percent - silent_store_percent)
    return node_costs, store_costs
