"""Make the tables of figures, of docs/performance.md and of the README, from bench/results/.

From the project's root: python -m docs.make_figures
"""

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

PROJECT: Final = Path(__file__).parents[1]
README: Final = PROJECT / "README.md"
PERFORMANCE: Final = PROJECT / "docs" / "performance.md"
RESULTS: Final = PROJECT / "bench" / "results"
HEAD: Final = ("| measured | figure | target |", "|---|---:|---:|")
MEASURED: Final = {
    "fanout": "one message of 120 bytes to 1,000 connections: CPU per delivery, against bare `socket.send`",
    "tick": "ten messages in one tick to 1,000 connections: deliveries per CPU second, against one at a time",
    "memory": "an idle connection that has joined a room: memory, over 10,000 of them",
    "pauses": "stops for cyclic garbage while 10,000 connections come, talk and go: the longest",
    "attack": "a well-behaved client beside an attack from one address, and what that pins",
    "update": "one `update` handled and acknowledged: CPU, against a bare Sans-I/O echo",
    "connect": "4,000 clients connect and join rooms of 20, 200 at a time",
    "join": "2,000 clients join one room at once, on two nodes through Valkey",
    "crowded": "a room of 20,000 members on Valkey",
    "heartbeat": "10,000 members kept alive in Valkey, renewed every 10 s",
    "workers": "two workers against one process, on two cores",
    "latency": "a message from a client of one node to a client of another: p50, against a bare PUBLISH",
    "throttle": "the limiter on Valkey",
    "algorithms": "one decision of the limiter",
    "outage": "1,500 handshakes at once from one address to three nodes that have lost their store, at a limit of 30",
    "drain": "how long a client is away when its node is stopped behind a proxy",
    "capacity": "what a client and a message cost a node and its store",
    "peers": "this server beside centrifuge, a library for Go, on one core: CPU",
    "growth": "how a cost grows with N: the exponent k of N^k",
}
"""What docs/performance.md says of each measurement, in its order."""
SUMMED_UP: Final = {"attack", "drain", "outage"}
"""Measurements with so many targets that the page has the one that is nearest to being missed."""
HEADLINES: Final = {
    ("fanout", "server / floor"): "a message to 1,000 connections: CPU, against bare `socket.send`",
    (
        "memory",
        "resident per connection, rooms of 10",
    ): "an idle connection that has joined a room of ten: memory",
    (
        "connect",
        "shared store, a node's CPU per client",
    ): "a client connects and joins a room of 20, on Valkey: CPU",
    ("latency", "p50, server / bare"): "a message to a client of another node: p50, against a bare PUBLISH",
    ("heartbeat", "rooms of 10, the node"): "10,000 members kept alive in Valkey: the node's CPU",
}
"""What the README has: a measurement and one of its figures that has a target."""

COSTS: Final[dict[str, list[tuple[str, str] | None]]] = {
    "a client connects and joins a room of 20, 200 at once, in memory": [
        ("connect", "memory store, a node's CPU per client"),
        None,
    ],
    "the same, with a store": [
        ("connect", "shared store, a node's CPU per client"),
        ("connect", "shared store, the store's CPU per client"),
    ],
    "2,000 join one room at once, on two nodes, each": [
        ("join", "shared store, a node's CPU per join"),
        ("join", "shared store, the store's CPU per join"),
    ],
    "an `update` with its diff": [("update", "update with its diff, 64 connections, CPU"), None],
    "a message, for each of 1,000 clients that it goes to": [("fanout", "server, CPU per delivery"), None],
    "a message from another node to one client": [
        ("capacity", "a message: a node that passes it to one client"),
        ("capacity", "a message: the store, with two nodes in the room"),
    ],
    "an hour of a client that does nothing, pings and heartbeats": [
        ("capacity", "10,000 idle clients: the node"),
        ("capacity", "10,000 idle clients: the store"),
    ],
    "an hour of a member, heartbeats alone, rooms of ten": [
        ("heartbeat", "rooms of 10, the node"),
        ("heartbeat", "rooms of 10, the store"),
    ],
}
"""The cost model: the measurement and the figure of the node and of the store."""


def table() -> str:
    """Return the page's table: for each measurement with a result, every figure that has a target."""
    lines = [*HEAD]
    for name, measured in MEASURED.items():
        result = _result(name)
        if result is None:
            continue
        figures = {figure["name"]: figure for figure in result["figures"]}
        targets = result["targets"]
        what = measured
        if name in SUMMED_UP:
            targets = [max(targets, key=lambda target: _share(target, figures[target["figure"]]))]
            what += f": the nearest of {len(result['targets'])} to its target"
        for target in targets:
            figure = figures[target["figure"]]
            which = f" ({figure['name']})" if len(result["targets"]) > 1 else ""
            lines.append(_line(f"{what}{which}", target, figure))
    return "\n".join(lines) + "\n"


def headlines() -> str:
    """Return the README's table, and how many targets of all are missed."""
    lines = [*HEAD]
    for (name, figure_name), what in HEADLINES.items():
        result = _result(name)
        if result is not None:
            figures = {figure["name"]: figure for figure in result["figures"]}
            target = next(target for target in result["targets"] if target["figure"] == figure_name)
            lines.append(_line(what, target, figures[figure_name]))
    shares = [
        _share(target, figure)
        for result in filter(None, map(_result, MEASURED))
        for target in result["targets"]
        for figure in result["figures"]
        if figure["name"] == target["figure"]
    ]
    missed = sum(share > 1 for share in shares)
    lines += [
        "",
        f"Of {len(shares)} targets {missed} are missed: [docs/performance.md](docs/performance.md) has them all,",
    ]
    lines += ["beside other servers, what grows with what, and what each thing costs."]
    return "\n".join(lines) + "\n"


def peers() -> str:
    """Return what each thing cost each server, and what was left out."""
    result = _result("peers")
    costs: dict[str, dict[str, str]] = {}
    for figure in result["figures"]:
        name, _, peer = figure["name"].rpartition(": ")
        if figure["unit"]:
            costs.setdefault(f"{name}, {figure['unit']}", {})[peer] = f"{_short(_median(figure))}"
    servers = list(dict.fromkeys(peer for by_peer in costs.values() for peer in by_peer))
    lines = [f"| | {' | '.join(servers)} |", f"|---|{'---:|' * len(servers)}"]
    lines += [
        f"| {name} | {' | '.join(by_peer.get(server, '') for server in servers)} |"
        for name, by_peer in costs.items()
    ]
    lines += ["", *(f"Left out: {name}: {why}." for name, why in result.get("left_out", {}).items())]
    return "\n".join([*lines, _circumstances(result)]) + "\n"


def exponents() -> str:
    """Return how each cost grows."""
    lines = ["| cost | k | of a few | of the most |", "|---|---:|---:|---:|"]
    costs: dict[str, list[dict[str, Any]]] = {}
    result = _result("growth")
    for figure in result["figures"]:
        costs.setdefault(figure["name"].rpartition(": ")[0], []).append(figure)
    for name, (*sizes, exponent) in costs.items():
        few, most = (
            f"{_amount(each)} ({each['name'].rpartition(': ')[2]})" for each in (sizes[0], sizes[-1])
        )
        lines.append(f"| {name} | {_median(exponent):.2f} | {few} | {most} |")
    return "\n".join([*lines, "", _circumstances(result)]) + "\n"


def _circumstances(result: dict[str, Any]) -> str:
    rounds = len(result["figures"][0]["rounds"])
    how = f"`{result['command']}`, {rounds} round{'s' if rounds > 1 else ''}"
    return f"({how}; other processes took {result['machine']['other processes']}.)"


def costs() -> str:
    """Return the cost model: what each thing takes of a core, and of the store's."""
    lines = ["| thing | node | store | measured by |", "|---|---:|---:|---|"]
    for what, by_process in COSTS.items():
        amounts = []
        for cost in by_process:
            figure = {each["name"]: each for each in _result(cost[0])["figures"]}[cost[1]] if cost else None
            amounts.append(_cost(figure) if figure else "")
        commands = ", ".join(dict.fromkeys(f"`python -m bench {cost[0]}`" for cost in by_process if cost))
        lines.append(f"| {what} | {' | '.join(amounts)} | {commands} |")
    return "\n".join(lines) + "\n"


def _cost(figure: dict[str, Any]) -> str:
    """Return a cost as it is, or for an hour where it is a part of a core that 10,000 clients take."""
    if figure["unit"] == "% of a core":
        return f"{_median(figure) / 100 * 3_600 / 10_000 * 1_000:.3g} ms"
    return f"{_median(figure):.3g} µs"


def with_table(text: str, table: str, name: str = "figures") -> str:
    """Return a page's text with the table between its marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{table}{end}{after}"


def _result(name: str) -> Any:
    """Return what a measurement found, or `None` where it has not been made."""
    path = RESULTS / f"{name}.json"
    return msgspec.json.decode(path.read_bytes()) if path.exists() else None


def _line(what: str, target: dict[str, Any], figure: dict[str, Any]) -> str:
    missed = "" if _share(target, figure) <= 1 else ": **missed**"
    return f"| {what} | {_amount(figure)} | {_bound(target, figure)}{missed} |"


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
    return f"{_median(figure):.2f} {_unit(figure)}".rstrip()


def _unit(figure: dict[str, Any]) -> str:
    """Return a figure's unit; an exponent has none, and of others those without one are ratios."""
    return figure["unit"] or ("" if figure["name"].endswith(": exponent") else "times")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bound(target: dict[str, Any], figure: dict[str, Any]) -> str:
    return f"{target['bound']} {target['limit']:g} {_unit(figure)}".rstrip()


def with_tables(text: str) -> str:
    """Return the text of docs/performance.md with its tables."""
    for name, made in (("figures", table()), ("peers", peers()), ("growth", exponents()), ("costs", costs())):
        text = with_table(text, made, name)
    return text


def main() -> None:
    """Write them."""
    README.write_text(with_table(README.read_text(encoding="utf-8"), headlines()), encoding="utf-8")
    PERFORMANCE.write_text(with_tables(PERFORMANCE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(headlines())


if __name__ == "__main__":
    main()
