"""One frame of `presence-server top`, of an overview. Whatever names hold is shown as text."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from presence_server.api.overview_schema import NodeOverview, OverviewAnswer
from presence_server.operate.output import printable
from presence_server.registry.figures import Alert, History

STYLES: Final = {
    "serving": "green",
    "rejoining": "yellow",
    "draining": "yellow",
    "isolated": "bold red",
    "silent": "bold red",
    "lost": "red",
}
LEVELS: Final = {"critical": "bold red", "warning": "yellow", "notice": "dim"}
BARS: Final = "▁▂▃▄▅▆▇█"
SPARK_CELLS: Final = 50
ALERTS_MAX: Final = 6
WIDE: Final = 110
"""From this width on all columns of nodes are shown, and tables stand side by side."""


def render(overview: OverviewAnswer, width: int) -> Group:
    """Return what is to be printed on so many columns."""
    tables = [table for table in _tables(overview) if table.row_count]
    shown = _side_by_side(tables) if width >= WIDE else tables
    nodes = _nodes(overview, wide=width >= WIDE)
    return Group(*_head(overview), *_alerts(overview.alerts), "", nodes, "", *shown)


def _head(overview: OverviewAnswer) -> Iterator[Text]:
    connections = sum(node.connections for node in overview.nodes if node.state != "silent")
    yield Text.assemble(
        ("presence-server", "bold"),
        f"  nodes: {len(overview.nodes)}, connections: {format_count(connections)}, ",
        f"as {printable(overview.node)} sees them",
        "" if overview.complete else " (the store is out of reach: the others are not shown)",
    )
    history, rates = overview.history or History(), overview.rates
    for name, now, steps, style in (
        ("connections", format_count(connections), history.connections, "cyan"),
        ("connects", f"{format_rate(rates.connects)}/s", history.connects, "cyan"),
        ("deliveries", f"{format_rate(rates.deliveries)}/s", history.deliveries, "cyan"),
        ("refused", f"{format_rate(rates.denied)}/s", history.denied, "red"),
    ):
        yield Text.assemble((f"{name:<12}", "dim"), f"{now:>9}  ", (spark(steps, SPARK_CELLS), style))


def _alerts(alerts: Sequence[Alert]) -> Iterator[Text]:
    """Return a line for each kind of alert, with the nodes that it concerns."""
    kinds = [list(alike) for _, alike in groupby(alerts, key=lambda alert: (alert.level, alert.kind))]
    for first, *others in kinds[:ALERTS_MAX]:
        also = list(dict.fromkeys(alert.node for alert in others if alert.node != first.node))
        named = ", ".join(also[:ALERTS_MAX]) + (" and more" if len(also) > ALERTS_MAX else "")
        text = f"{first.node} {first.text}".strip() + (f" (also {named})" if also else "")
        yield Text.assemble((f"{first.level:<9}", LEVELS[first.level]), plain(text))
    if len(kinds) > ALERTS_MAX:
        yield Text(f"and {len(kinds) - ALERTS_MAX} more kinds of alerts", style="dim")


def _nodes(overview: OverviewAnswer, *, wide: bool) -> Table:
    columns = [column for column in NODE_COLUMNS if wide or column[0] in NARROW]
    table = new_table("node", "state", *(title for title, _ in columns), texts=2)
    for node in overview.nodes:
        state = styled(node.state, STYLES.get(node.state, ""))
        table.add_row(plain(node.node), state, *(plain(say(node)) for _, say in columns))
    for lost in overview.lost:
        ago = plain(f"{format_duration(lost.ago_ms)} ago")
        table.add_row(plain(lost.node), styled("lost", STYLES["lost"]), ago, *[""] * (len(columns) - 1))
    return table


def _tables(overview: OverviewAnswer) -> Iterator[Table]:
    rooms = new_table("largest rooms", "members", "users", "nodes")
    for room in overview.rooms:
        rooms.add_row(*map(plain, (room.room, room.count, room.users, len(room.nodes))))
    yield rooms
    denied = new_table("refused", "rule", "times", texts=2)
    for line in overview.throttled.top:
        denied.add_row(*map(plain, (line.key, line.rule, line.count)))
    yield denied
    deciding = new_table("limiter", "by", "a second", texts=2)
    for decided in overview.decisions:
        deciding.add_row(*map(plain, (decided.outcome, decided.source, format_rate(decided.rate))))
    yield deciding
    store = new_table("store", "memory", "commands/s", "clients", "evicted")
    for server in overview.store:
        numbers = (
            optional(server.memory_bytes, format_size),
            optional(server.commands, format_rate),
            optional(server.clients, format_count),
            optional(server.evicted_keys, format_count),
        )
        store.add_row(*map(plain, (" ".join(filter(None, (server.server, server.version))), *numbers)))
    yield store


def _side_by_side(tables: Sequence[Table]) -> Iterator[Table]:
    for i in range(0, len(tables), 2):
        pair = Table.grid(expand=True, padding=(0, 4, 0, 0))
        pair.add_column(ratio=1)
        pair.add_column(ratio=1)
        pair.add_row(*tables[i : i + 2])
        yield pair


def new_table(*titles: str, texts: int = 1) -> Table:
    """Make a table whose first columns are texts, which are cut where there is no room, and the others numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(
            title, justify="left" if number < texts else "right", no_wrap=True, overflow="ellipsis"
        )
    return table


def plain(value: object) -> Text:
    """Return a value as text in which nothing is markup, and nothing controls the terminal."""
    return styled(value, "")


def styled(value: object, style: str) -> Text:
    """Return a value as text in a style."""
    return Text(printable(str(value)), style=style)


# --- numbers ---

NUMBER_MAX: Final = 2**63
"""Greater numbers are of no node, and may not fit a float."""


def format_count(number: float) -> str:
    """Write a whole number."""
    return f"{number:,}" if isinstance(number, int) else f"{number:,.0f}"


def format_rate(number: float) -> str:
    """Write a rate: with a decimal place where it is small."""
    return f"{number:.1f}" if 0 < number < 10 else format_count(number)


def format_size(number: float) -> str:
    """Write a number of bytes."""
    number = min(number, NUMBER_MAX)
    for unit in ("B", "KiB", "MiB"):
        if number < 1_024:
            return f"{number:.0f} {unit}"
        number /= 1_024
    return f"{number:.1f} GiB"


def format_duration(ms: float) -> str:
    """Write how long something took, to two units."""
    seconds = max(0, round(min(ms, NUMBER_MAX) / 1_000))
    for unit, length, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // part} {smaller}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def optional(value: float | None, say: Callable[[float], str]) -> str:
    """Write a number that may be unknown."""
    return "-" if value is None else say(value)


def spark(numbers: list[int], cells: int) -> str:
    """Draw the last numbers as bars, the greatest full."""
    # Several steps in one cell, so that five minutes fit.
    each = max(1, -(-len(numbers) // cells))
    starts = range(-(-len(numbers) % each), len(numbers), each)
    shown = [max(0, *numbers[max(start, 0) : start + each]) for start in starts]
    greatest = max(shown, default=0) or 1
    return "".join(BARS[round(number / greatest * (len(BARS) - 1))] for number in shown)


def _rate_of(field: str) -> Callable[[NodeOverview], str]:
    return lambda node: "-" if node.rates is None else format_rate(getattr(node.rates, field))


NODE_COLUMNS: Final[tuple[tuple[str, Callable[[NodeOverview], str]], ...]] = (
    ("up", lambda node: format_duration(node.uptime_ms)),
    ("connections", lambda node: format_count(node.connections)),
    ("rooms", lambda node: format_count(node.rooms)),
    ("connects/s", _rate_of("connects")),
    ("messages/s", _rate_of("received")),
    ("deliveries/s", _rate_of("deliveries")),
    ("refused/s", _rate_of("denied")),
    ("cpu", lambda node: optional(node.cpu, lambda cores: f"{cores:.0%}")),
    ("memory", lambda node: optional(node.memory_bytes, format_size)),
    ("lag", lambda node: f"{format_count(node.lag_ms)} ms"),
    ("store", lambda node: optional(node.round_trip_ms, lambda ms: f"{ms:.1f} ms")),
)
NARROW: Final = {"up", "connections", "rooms", "deliveries/s", "cpu", "lag"}
"""Columns on a narrow terminal."""
