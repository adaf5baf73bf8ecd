"""Measure: `python -m bench [NAME…]`. The exit status says whether every target was met."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from bench import (
    algorithms,
    attack,
    capacity,
    comparison,
    connect,
    crowded,
    drain,
    fanout,
    growth,
    heartbeat,
    join,
    latency,
    machine,
    memory,
    outage,
    pauses,
    plots,
    processes,
    report,
    throttle,
    tick,
    update,
    workers,
)

MEASUREMENTS: Final[dict[str, tuple[Callable[[int], report.Result], int]]] = {
    "fanout": (fanout.measure, 61),
    "tick": (tick.measure, 61),
    "update": (update.measure, 31),
    "memory": (memory.measure, 3),
    "pauses": (pauses.measure, 3),
    "attack": (attack.measure, 3),
    "connect": (connect.measure, 7),
    "join": (join.measure, 5),
    "crowded": (crowded.measure, 9),
    "heartbeat": (heartbeat.measure, 1),
    "workers": (workers.measure, 9),
    "latency": (latency.measure, 15),
    "throttle": (throttle.measure, 5),
    "algorithms": (algorithms.measure, 15),
    "outage": (outage.measure, 3),
    "drain": (drain.measure, 5),
    "capacity": (capacity.measure, 3),
    "peers": (comparison.measure, 5),
    "growth": (growth.measure, 5),
}
"""What there is, and how many rounds it takes for a median that holds.

Many short ones where that is possible: what disturbs the machine then hits both sides of a ratio."""

DISTURBED_MAX: Final = 0.1
"""Above this part of the processors for other processes, figures are not worth keeping."""


def main() -> int:
    """Run what was asked for, print it and keep it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"one of: {', '.join(MEASUREMENTS)}; none: all"
    )
    parser.add_argument("--rounds", type=int, help="how often each thing is measured")
    parser.add_argument("--most", type=int, help="the largest N of `growth`")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}")
    processes.prepare()
    passed = True
    for name in options.names or MEASUREMENTS:
        measure, usual_rounds = MEASUREMENTS[name]
        rounds = options.rounds or usual_rounds
        sys.stderr.write(f"{name}: {rounds} rounds\n")
        others = machine.Others()
        result = (
            growth.measure(rounds, options.most) if options.most and name == "growth" else measure(rounds)
        )
        disturbed = others.used()
        if disturbed > DISTURBED_MAX:
            sys.stderr.write(
                f"{name}: other processes took {disturbed:.0%} of the processors; run it again\n"
            )
        result = msgspec.structs.replace(
            result,
            command=f"python -m bench {name}"
            + (f" --rounds {rounds}" if options.rounds else "")
            + (f" --most {options.most}" if options.most else ""),
            date=datetime.now(UTC).date().isoformat(),
            machine=machine.describe() | {"other processes": f"{disturbed:.0%} of the processors"},
        )
        report.save(result)
        plots.draw(result)
        sys.stdout.write(f"{name}\n{report.table(result)}\n\n")
        sys.stdout.flush()
        passed = passed and result.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
