"""`presence-server top`: all nodes at a glance in a terminal, from the overview of any of them.

Exit codes: 0 told to end, or one frame was printed; 1 with `--once`, no node was reached, or it has refused; 2 a wrong
command line, or Rich, of the extra `top`, is not installed.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from presence_server.operate import DEFAULT_API, FAILED, USAGE_ERROR, ApiClient, CallError, read_key

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

PROGRAM: Final = "presence-server top"
MISSING: Final = (
    f"{PROGRAM}: this needs Rich: install the extra, as in: pip install 'presence-server[top]' "
    "(in the project's folder: pip install '.[top]')"
)
EVERY_S: Final = 1.0
ANSWER_S: Final = 5.0
PATH: Final = "/v1/overview?rooms=10&throttled=10&history=true"
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


def run(arguments: argparse.Namespace) -> int:
    """Show frames until told to end, or one; give the exit code."""
    if find_spec("rich") is None:
        print(MISSING, file=sys.stderr)
        return USAGE_ERROR
    from rich.console import Console  # noqa: PLC0415 - an extra

    try:
        client = ApiClient(arguments.url, read_key(arguments.key_file), timeout_s=ANSWER_S)
    except (OSError, ValueError) as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return USAGE_ERROR
    console = Console(highlight=False, emoji=False, markup=False)
    if arguments.once or not console.is_terminal:
        return _once(client, console)
    with contextlib.suppress(KeyboardInterrupt):
        _follow(client, console)
    return 0


def _once(client: ApiClient, console: "Console") -> int:
    try:
        overview = client.call("GET", PATH)
    except CallError as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return FAILED
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # of no terminal there is none
    console.print(Frame(overview).render(console.width))
    return 0


def _follow(client: ApiClient, console: "Console") -> None:
    """Show a frame each second, for ever; where there is no answer, the last one and why."""
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415 - an extra
    from rich.text import Text  # noqa: PLC0415 - an extra

    frame = Frame({})
    answered_s = time.monotonic()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            began_s = time.monotonic()
            problem = ""
            try:
                frame = Frame(client.call("GET", PATH))
                answered_s = time.monotonic()
            except CallError as exc:
                problem = f"{exc}; last answer {duration((time.monotonic() - answered_s) * 1_000)} ago, trying again"
            parts = [Text(problem, style="bold red")] if problem else []
            live.update(Group(*parts, frame.render(console.width)), refresh=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began_s)))


class Frame:
    """One frame, of an overview; {}: there was none yet. Whatever names hold is shown as text."""

    def __init__(self, overview: Mapping[str, Any]) -> None:
        self._overview = overview

    def render(self, width: int) -> "Group":
        """Return what is to be printed on so many columns."""
        from rich.console import Group  # noqa: PLC0415 - an extra

        if not self._overview:
            return Group()
        return Group(
            *self._head(), *self._alerts(), "", self._nodes(wide=width >= WIDE), "", *self._tables(width)
        )

    def _head(self) -> "Iterator[Text]":
        from rich.text import Text  # noqa: PLC0415 - an extra

        told, rates = self._overview, self._overview["rates"]
        live = [node for node in told["nodes"] if node["state"] != "silent"]
        connections = sum(node["connections"] for node in live)
        yield Text.assemble(
            ("presence-server", "bold"),
            f"  nodes: {len(told['nodes'])}, connections: {count(connections)}, as {told['node']} sees them"
            + ("" if told["complete"] else " (the store is out of reach: the others are not shown)"),
        )
        history = told["history"] or {}
        for name, field, now in (
            ("connections", "connections", count(connections)),
            ("connects", "connects", f"{rate(rates['connects'])}/s"),
            ("deliveries", "deliveries", f"{rate(rates['deliveries'])}/s"),
            ("refused", "denied", f"{rate(rates['denied'])}/s"),
        ):
            bars = spark(history.get(field, []), SPARK_CELLS)
            yield Text.assemble(
                (f"{name:<12}", "dim"), f"{now:>9}  ", (bars, "red" if field == "denied" else "cyan")
            )

    def _alerts(self) -> "Iterator[Text]":
        from rich.text import Text  # noqa: PLC0415 - an extra

        kinds = groupby(self._overview["alerts"], key=lambda alert: (alert["level"], alert["kind"]))
        lines = [(level, list(alerts)) for (level, _), alerts in kinds]
        for level, (first, *others) in lines[:ALERTS_MAX]:
            also = list(dict.fromkeys(alert["node"] for alert in others if alert["node"] != first["node"]))
            named = ", ".join(also[:ALERTS_MAX]) + (" and more" if len(also) > ALERTS_MAX else "")
            text = f"{first['node']} {first['text']}".strip() + (f" (also {named})" if also else "")
            yield Text.assemble((f"{level:<9}", LEVELS[level]), plain(text))
        if len(lines) > ALERTS_MAX:
            yield Text(f"and {len(lines) - ALERTS_MAX} more kinds of alerts", style="dim")

    def _nodes(self, *, wide: bool) -> "Table":
        columns = [column for column in NODE_COLUMNS if wide or column[0] in NARROW]
        table = new_table("node", "state", *(title for title, _ in columns), texts=2)
        for node in self._overview["nodes"]:
            state = styled(node["state"], STYLES.get(node["state"], ""))
            table.add_row(plain(node["node"]), state, *(plain(say(node)) for _, say in columns))
        for node in self._overview["lost"]:
            ago = plain(f"{duration(node['ago_ms'])} ago")
            table.add_row(
                plain(node["node"]), styled("lost", STYLES["lost"]), ago, *[""] * (len(columns) - 1)
            )
        return table

    def _tables(self, width: int) -> "Iterator[Table]":
        told = self._overview
        rooms = new_table("largest rooms", "members", "users", "nodes")
        for room in told["rooms"]:
            rooms.add_row(
                plain(room["room"]), *map(plain, (room["count"], room["users"], len(room["nodes"])))
            )
        refused = new_table("refused", "rule", "times", texts=2)
        for line in told["throttled"]["top"]:
            refused.add_row(plain(line["key"]), plain(line["rule"]), plain(line["count"]))
        deciding = new_table("limiter", "by", "a second", texts=2)
        for decided in told["decisions"]:
            deciding.add_row(*map(plain, (decided["outcome"], decided["source"], rate(decided["rate"]))))
        store = new_table("store", "memory", "commands/s", "clients", "evicted")
        for server in told["store"]:
            fields = ("memory_bytes", size), ("commands", rate), ("clients", count), ("evicted_keys", count)
            name = " ".join(filter(None, (server["server"], server["version"])))
            store.add_row(plain(name), *(plain(optional(server[field], say)) for field, say in fields))
        tables = [table for table in (rooms, refused, deciding, store) if table.row_count]
        if width < WIDE:
            yield from tables
            return
        from rich.table import Table  # noqa: PLC0415 - an extra

        for i in range(0, len(tables), 2):
            beside = Table.grid(expand=True, padding=(0, 4, 0, 0))
            beside.add_column(ratio=1)
            beside.add_column(ratio=1)
            beside.add_row(*tables[i : i + 2])
            yield beside


def new_table(*titles: str, texts: int = 1) -> "Table":
    """Make a table whose first columns are texts, which are cut where there is no room, and the others numbers."""
    from rich.table import Table  # noqa: PLC0415 - an extra

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(
            title, justify="left" if number < texts else "right", no_wrap=True, overflow="ellipsis"
        )
    return table


def plain(value: object) -> "Text":
    """Return a value as text in which nothing is markup, and nothing controls the terminal."""
    return styled(value, "")


def styled(value: object, style: str) -> "Text":
    """Return a value as text in a style."""
    from rich.text import Text  # noqa: PLC0415 - an extra

    return Text("".join(char if char.isprintable() else "�" for char in str(value)), style=style)


# --- numbers ---


def count(number: float) -> str:
    """Write a whole number."""
    return f"{number:,.0f}"


def rate(number: float) -> str:
    """Write a rate: with a decimal place where it is small."""
    return f"{number:.1f}" if 0 < number < 10 else count(number)


def size(number: float) -> str:
    """Write a number of bytes."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1_024:
            return f"{number:.0f} {unit}"
        number /= 1_024
    return f"{number:.1f} GiB"


def duration(ms: float) -> str:
    """Write how long something took, to two units."""
    seconds = max(0, round(ms / 1_000))
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
    shown = [max(numbers[max(start, 0) : start + each]) for start in starts]
    greatest = max(shown, default=0) or 1
    return "".join(BARS[round(number / greatest * (len(BARS) - 1))] for number in shown)


def _rated(field: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda node: "-" if node["rates"] is None else rate(node["rates"][field])


def _told(field: str, say: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda node: optional(node[field], say)


WIDE: Final = 110
NODE_COLUMNS: Final[tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...]] = (
    ("up", _told("uptime_ms", duration)),
    ("connections", _told("connections", count)),
    ("rooms", _told("rooms", count)),
    ("connects/s", _rated("connects")),
    ("messages/s", _rated("received")),
    ("deliveries/s", _rated("deliveries")),
    ("refused/s", _rated("denied")),
    ("cpu", _told("cpu", lambda cores: f"{cores:.0%}")),
    ("memory", _told("memory_bytes", size)),
    ("lag", _told("lag_ms", lambda ms: f"{ms:.0f} ms")),
    ("store", _told("round_trip_ms", lambda ms: f"{ms:.1f} ms")),
)
NARROW: Final = {"up", "connections", "rooms", "deliveries/s", "cpu", "lag"}
"""Columns on a narrow terminal."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    top = commands.add_parser(
        "top",
        allow_abbrev=False,
        help="show all nodes at a glance in the terminal",
        description="Show all nodes at a glance, each second. Ctrl-C ends it.",
    )
    top.add_argument(
        "--url",
        default=DEFAULT_API,
        metavar="URL",
        help=f"the internal port of any node (default: {DEFAULT_API})",
    )
    top.add_argument("--key-file", metavar="FILE", help="file whose first line is api.key")
    top.add_argument(
        "--once", action="store_true", help="print one frame and end, as where the output is no terminal"
    )
