"""Rounds: what is compared is measured in turns, so that whatever else the machine does hits all alike."""

from collections.abc import Callable, Mapping


def interleaved(kinds: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each kind spends in each round, after one round that warms up and does not count."""
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, spend in kinds.items():
            value = spend()
            if number:
                spent[kind].append(value)
    return spent
