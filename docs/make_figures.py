"""Make the README's table of figures from bench/results/.

From the project's root: python -m docs.make_figures
"""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

PROJECT: Final = Path(__file__).parents[1]
README: Final = PROJECT / "README.md"
RESULTS: Final = PROJECT / "bench" / "results"
BEGIN: Final = "<!-- figures -->\n"
END: Final = "<!-- /figures -->"
MEASURED: Final = {
    "fanout": "one message of 120 bytes to 1,000 connections: CPU per delivery, against bare `socket.send`",
    "tick": "ten messages in one tick to 1,000 connections: deliveries per CPU second, against one at a time",
    "memory": "an idle connection that has joined a room: memory, over 10,000 of them",
    "pauses": "stops for cyclic garbage while 10,000 connections come, talk and go: the longest",
    "attack": "a well-behaved client beside an attack from one address, and what that pins",
    "update": "one `update` handled and acknowledged: CPU, against a bare Sans-I/O echo",
    "connect": "4,000 clients connect and join rooms of 20, 200 at a time",
    "join": "2,000 clients join one room at once, on two nodes through Valkey",
    "heartbeat": "10,000 members kept alive in Valkey, renewed every 10 s",
    "workers": "two workers against one process, on two cores",
    "latency": "a message from a client of one node to a client of another: p50, against a bare PUBLISH",
    "throttle": "the limiter on Valkey",
    "algorithms": "one decision of the limiter",
    "outage": "1,500 handshakes at once from one address to three nodes that have lost their store, at a limit of 30",
    "drain": "how long a client is away when its node is stopped behind a proxy",
    "capacity": "what a client and a message cost a node and its store",
}
"""What the README says of each measurement, in its order."""
SUMMED_UP: Final = {"attack", "connect", "drain", "outage"}
"""Measurements with so many targets that the README has the one that is nearest to being missed."""


def table() -> str:
    """Return the table: for each measurement with a result, every figure that has a target."""
    lines = ["| measured | figure | target |", "|---|---:|---:|"]
    for name, measured in MEASURED.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = msgspec.json.decode(path.read_bytes())
        figures = {figure["name"]: figure for figure in result["figures"]}
        targets = result["targets"]
        what = measured
        if name in SUMMED_UP:
            targets = [max(targets, key=lambda target: _share(target, figures[target["figure"]]))]
            what += f": the nearest of {len(result['targets'])} to its target"
        for target in targets:
            figure = figures[target["figure"]]
            which = f" ({figure['name']})" if len(result["targets"]) > 1 else ""
            missed = "" if _share(target, figure) <= 1 else ": **missed**"
            lines.append(f"| {what}{which} | {_amount(figure)} | {_bound(target, figure)}{missed} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the README's text with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def _median(figure: dict[str, Any]) -> float:
    rounds = sorted(figure["rounds"])
    middle: float = (rounds[(len(rounds) - 1) // 2] + rounds[len(rounds) // 2]) / 2
    return middle


def _share(target: dict[str, Any], figure: dict[str, Any]) -> float:
    """Return how much of what it may be a figure is; above 1 the target is missed."""
    median, limit = _median(figure), target["limit"]
    part: float = median / limit if target["bound"] == "at most" else limit / median
    return part


def _amount(figure: dict[str, Any]) -> str:
    return f"{_median(figure):.2f} {figure['unit'] or 'times'}"


def _bound(target: dict[str, Any], figure: dict[str, Any]) -> str:
    return f"{target['bound']} {target['limit']:g} {figure['unit'] or 'times'}"


def main() -> None:
    """Write it."""
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(table())


if __name__ == "__main__":
    main()
