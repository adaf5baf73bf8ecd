"""How long collections of cyclic garbage stop the loop for, with 10,000 connections that come, talk and go."""

import random

from bench import report
from bench.load import Connection, Crowd, room_name
from bench.processes import Measured, server

CONNECTIONS = 10_000
ROOM_MEMBERS = 10
UPDATES = 20_000
RECONNECTS = 2_000
TARGET_MS = 20
WHAT = f"""\
{CONNECTIONS:,} connections join rooms of {ROOM_MEMBERS}. Then {RECONNECTS:,} of them are replaced, one after the other,
each by one that joins, and {UPDATES:,} updates are sent. Longest is the longest pause of the whole time, as the node
tells it (`presence_gc_longest_pause_seconds`); part is what all collections took of the node's CPU. Each round has a
fresh server."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    longest, parts = [], []
    for _ in range(rounds):
        with server("--server.max_connections=12000", "--presence.ping_ms=60000") as node, Crowd() as members:
            members.join(node, CONNECTIONS, ROOM_MEMBERS)
            _talk(node, members)
            found = node.metrics()
            longest.append(found["presence_gc_longest_pause_seconds"] * 1_000)
            spent_s = sum(
                value for name, value in found.items() if name.startswith("presence_gc_pause_seconds_sum")
            )
            parts.append(spent_s / (node.cpu_ns() / 1e9) * 100)
    figures = [
        report.per_round("longest pause", "ms", longest),
        report.per_round("part of the node's CPU", "%", parts),
    ]
    target = report.Target(figure="longest pause", bound="at most", limit=TARGET_MS)
    return report.Result(name="pauses", what=WHAT, figures=figures, targets=[target])


def _talk(node: Measured, members: Crowd) -> None:
    """Replace some connections, and have one room's member update its state."""
    speaker = Connection(node)
    speaker.upgrade(node, "speaker")
    speaker.send(b'{"t":"join","id":1,"room":"speakers","mode":"none"}')
    speaker.receive_marked(b'"t":"sync"')
    order = random.Random(1)  # noqa: S311 - the same in every round
    for number in range(RECONNECTS):
        members.replace(node, b'{"t":"join","id":1,"room":"%s"}' % room_name(order.randrange(1_000)))
        for _ in range(UPDATES // RECONNECTS):
            speaker.send(b'{"t":"update","id":2,"room":"speakers","state":{"n":%d}}' % number)
            speaker.receive_marked(b'"t":"ok"')
        members.converse(0)
