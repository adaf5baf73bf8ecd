"""Ten messages in one tick to a thousand connections, against one at a time."""

from bench import report
from bench.processes import server
from bench.room import MEMBERS, MESSAGE_BYTES, room
from bench.rounds import interleaved

TIMES = 5
"""Ticks of each kind in a round."""
TOGETHER = 10
TARGET = 8
WHAT = f"""\
The publisher sends {TOGETHER} messages with {MESSAGE_BYTES} bytes of data each in one TCP segment to a
room of {MEMBERS:,} members, {TIMES} times a round, in turns with as many single messages; each when the
one before has arrived everywhere. Deliveries per CPU second are messages that arrived, by all that the
server's process used."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    with server() as node, room(node) as members:
        spent_ns = interleaved(
            {
                "single": lambda: members.publish(1, TIMES),
                "together": lambda: members.publish(TOGETHER, TIMES),
            },
            rounds,
        )
    single = [MEMBERS * TIMES / ns * 1e6 for ns in spent_ns["single"]]
    together = [MEMBERS * TIMES * TOGETHER / ns * 1e6 for ns in spent_ns["together"]]
    figures = [
        report.per_round("one at a time, deliveries per CPU second", "thousand", single),
        report.per_round("ten in a tick, deliveries per CPU second", "thousand", together),
        report.ratio("ten in a tick / one at a time", together, single),
    ]
    targets = [report.Target(figure="ten in a tick / one at a time", bound="at least", limit=TARGET)]
    return report.Result(name="tick", what=WHAT, figures=figures, targets=targets)
