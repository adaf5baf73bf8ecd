"""What a measurement found: per-round figures, targets, and how both are printed and kept."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

RESULTS = Path(__file__).parent / "results"
SUMMARY = "README.md"
WIDTH = 110


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number, measured once in each round."""

    name: str
    unit: str
    rounds: list[float]

    @property
    def median(self) -> float:
        """The figure."""
        return median(self.rounds)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a figure's median is held to."""

    figure: str
    bound: Literal["at most", "at least"]
    limit: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement, complete enough to be read by itself."""

    name: str
    what: str
    """What was done and what the figures mean, in a paragraph."""
    figures: list[Figure]
    targets: list[Target]
    left_out: dict[str, str] = {}
    """What could not be measured, and why."""
    command: str = ""
    date: str = ""
    machine: dict[str, str] = {}

    def figure(self, name: str) -> Figure:
        """Return a figure by its name; raises `LookupError`."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise LookupError(name)

    def met(self, target: Target) -> bool:
        """Tell whether a target is met."""
        value = self.figure(target.figure).median
        return value <= target.limit if target.bound == "at most" else value >= target.limit

    @property
    def passed(self) -> bool:
        """Whether every target is met."""
        return all(map(self.met, self.targets))


def per_round(name: str, unit: str, rounds: Iterable[float]) -> Figure:
    """Make a figure."""
    return Figure(name=name, unit=unit, rounds=[round(value, 4) for value in rounds])


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    """Make a figure of the ratio within each round."""
    return per_round(name, "", (a / b for a, b in zip(above, below, strict=True)))


def save(result: Result) -> None:
    """Write a result, and the summary of all that there are."""
    RESULTS.mkdir(exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / f"{result.name}.json").write_bytes(data + b"\n")
    results = [msgspec.json.decode(path.read_bytes(), type=Result) for path in sorted(RESULTS.glob("*.json"))]
    (RESULTS / SUMMARY).write_text(_summary(results))


def table(result: Result) -> str:
    """Return a result's figures as a Markdown table."""
    lines = ["| figure | median | min | max | rounds | target |", "|---|---:|---:|---:|---:|---|"]
    for figure in result.figures:
        low, high = min(figure.rounds), max(figure.rounds)
        unit = f" {figure.unit}" if figure.unit else ""
        verdicts = [
            f"{target.bound} {target.limit:g}: {'met' if result.met(target) else '**missed**'}"
            for target in result.targets
            if target.figure == figure.name
        ]
        lines.append(
            f"| {figure.name} | {figure.median:.2f}{unit} | {low:.2f} | {high:.2f} | {len(figure.rounds)} "
            f"| {', '.join(verdicts)} |"
        )
    lines += ["", *(f"**Left out**: {name}: {why}" for name, why in result.left_out.items())]
    return "\n".join(lines).rstrip()


def _summary(results: Sequence[Result]) -> str:
    parts = [
        "# Results\n\nWritten by `python -m bench`; `NAME.json` beside this file has every round.\n"
        "A target is held to the median of the rounds.\n"
    ]
    for result in results:
        machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
        parts.append(f"\n## {result.name}\n\n{textwrap.fill(result.what, WIDTH)}\n\n{table(result)}\n")
        parts.append(f"\n`{result.command}`, {result.date}\n({machine}).\n")
    return "".join(parts)
