"""Pictures of results, in `results/`: `python -m bench` draws them, and `python -m bench.plots` alone, too."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

import msgspec

from bench.report import RESULTS, Result

KINDS: Final = ("png", "svg")
AXES: Final = {
    "growth-room": ("members of a room", "members of one room"),
    "growth-rooms": ("rooms of a node", "rooms of a node, with one member each"),
    "growth-heartbeat": ("heartbeat", "members"),
}
"""Of each picture: what the names of its costs have in them, and what its horizontal axis is."""
GREY: Final = "#888888"


def _draw_growth(costs: Mapping[str, Mapping[int, Sequence[float]]], exponents: Mapping[str, float]) -> None:
    """Draw what each cost was for each size, on logarithmic axes, with the range of the rounds."""
    for picture, (part, axis) in AXES.items():
        figure, axes = _canvas()
        for name, by_size in costs.items():
            if part in name:
                sizes = sorted(by_size)
                middle = [median(by_size[size]) for size in sizes]
                below = [m - min(by_size[size]) for m, size in zip(middle, sizes, strict=True)]
                above = [max(by_size[size]) - m for m, size in zip(middle, sizes, strict=True)]
                label = f"{name} (N^{exponents[name]:.2f})"
                axes.errorbar(sizes, middle, yerr=[below, above], marker="o", capsize=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="µs of CPU")
        axes.grid(visible=True, which="major", color=GREY, alpha=0.3)
        axes.legend(fontsize=8)
        _keep(figure, picture)


def _draw_peers(costs: Mapping[str, Mapping[str, Sequence[float]]], units: Mapping[str, str]) -> None:
    """Draw what each thing cost each server."""
    names = list(costs)
    figure, grid = _canvas(rows=len(names))
    for name, axes in zip(names, grid, strict=True):
        peers = [*costs[name]][::-1]
        values = [median(costs[name][peer]) for peer in peers]
        bars = axes.barh(peers, values, color=[f"C{peer != 'presence-server':d}" for peer in peers])
        axes.bar_label(bars, fmt=_short, padding=3, fontsize=8)
        axes.set_title(f"{name}, {units[name]}", loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    _keep(figure, "peers")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _canvas(rows: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes; only who draws needs matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it
    from matplotlib import pyplot  # noqa: PLC0415 - only who draws needs it

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "presence-server"  # the same picture is the same file
    return pyplot.subplots(nrows=rows, figsize=(8, 5 if rows == 1 else 1.5 * rows), layout="constrained")


def _keep(figure: Any, picture: str) -> None:
    from matplotlib import pyplot  # noqa: PLC0415 - only who draws needs it

    for kind in KINDS:
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(RESULTS / f"{picture}.{kind}", dpi=100, metadata=metadata)
    pyplot.close(figure)


def draw(result: Result) -> None:
    """Draw the pictures of a result, if it has any."""
    if result.name == "growth":
        _draw_growth(*_by_size(result))
    elif result.name == "peers":
        _draw_peers(*_by_peer(result))


def _by_size(result: Result) -> tuple[dict[str, dict[int, list[float]]], dict[str, float]]:
    """Return each cost's rounds by size, and its exponent."""
    costs: dict[str, dict[int, list[float]]] = {}
    exponents = {}
    for figure in result.figures:
        name, _, size = figure.name.rpartition(": ")
        if size == "exponent":
            exponents[name] = figure.median
        else:
            costs.setdefault(name, {})[int(size.replace(",", ""))] = figure.rounds
    return costs, exponents


def _by_peer(result: Result) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Return each cost's rounds by peer, and its unit; ratios have none."""
    costs: dict[str, dict[str, list[float]]] = {}
    units = {}
    for figure in result.figures:
        name, _, peer = figure.name.rpartition(": ")
        if figure.unit:
            costs.setdefault(name, {})[peer] = figure.rounds
            units[name] = figure.unit
    return costs, units


def main() -> None:
    """Draw those of every result that there is."""
    for path in sorted(RESULTS.glob("*.json")):
        draw(msgspec.json.decode(path.read_bytes(), type=Result))


if __name__ == "__main__":
    main()
