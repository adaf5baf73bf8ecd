"""Makes a failing plan short: leaves out what is not needed to fail in the same way."""

import time
from collections.abc import Callable, Sequence

from tests.simulation.plan import Disaster, Plan
from tests.simulation.play import Outcome, play


def shrink(
    plan: Plan, invariant: str, within_s: float, played: Callable[[Plan], Outcome] | None = None
) -> list[int]:
    """Return the steps of the shortest plan found within a time that still breaks an invariant, as indexes.

    Halves are left out, then quarters, and so on (delta debugging, Zeller 1999): first of what clients do, then of all.
    """
    deadline_s = time.monotonic() + within_s
    needs_end = invariant == "nothing_left"
    run = played or (lambda part: play(part, until_empty=needs_end))

    def fails(indexes: Sequence[int]) -> bool:
        return invariant in run(plan.only(indexes)).names

    kept = list(range(len(plan.steps)))
    clients = {who for step in plan.steps if (who := getattr(step, "who", None)) is not None}
    for who in sorted(clients):  # whole clients first: what they do hangs together
        if time.monotonic() > deadline_s:
            break
        fewer = [i for i in kept if getattr(plan.steps[i], "who", None) != who]
        if len(fewer) < len(kept) and fails(fewer):
            kept = fewer
    gentle = [i for i in kept if not isinstance(plan.steps[i], Disaster)]
    kept = _reduce(kept, gentle, fails, deadline_s)
    return _reduce(kept, kept, fails, deadline_s)


def _reduce(
    kept: list[int], candidates: list[int], fails: Callable[[Sequence[int]], bool], deadline_s: float
) -> list[int]:
    """Leave out chunks of `candidates`, ever smaller ones, as long as what is left fails."""
    size = max(len(candidates) // 2, 1)
    while candidates:
        at = 0
        while at < len(candidates) and time.monotonic() < deadline_s:
            chunk = set(candidates[at : at + size])
            fewer = [i for i in kept if i not in chunk]
            if fewer and fails(fewer):
                kept, candidates = fewer, [i for i in candidates if i not in chunk]
            else:
                at += size
        if size == 1 or time.monotonic() >= deadline_s:
            break
        size = max(size // 2, 1)
    return kept
