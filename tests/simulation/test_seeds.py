"""Whole clusters against the promises of docs/presence.md: new seeds each day, and seeds that have failed."""

import os
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.simulation.campaign import explain, failed_seeds, play_seeds
from tests.simulation.drawing import draw_plan

NEW_SEEDS = 150 if "CI" in os.environ else 20
SHRINK_S = 60.0


def _first_of_today() -> int:
    return int(datetime.now(UTC).strftime("%Y%m%d")) * 1_000


def _play(seeds: list[int]) -> None:
    """Play seeds; the first that fails is explained."""
    failed = {result.seed: result.names for result in play_seeds(seeds) if result.broken}
    if failed:
        seed = min(failed)
        pytest.fail(
            f"of {len(seeds)} seeds failed: {failed}\n{explain(draw_plan(seed), failed[seed][0], SHRINK_S)}"
        )


@pytest.mark.xfail(
    strict=False, reason="about one new seed in a hundred still breaks a promise; each is to be mended"
)
def test_new_seeds_break_no_promise(record_property: Callable[[str, object], None]) -> None:
    first = _first_of_today()
    record_property("seeds", f"{first} to {first + NEW_SEEDS - 1}")
    _play(list(range(first, first + NEW_SEEDS)))


def test_seeds_that_have_failed_break_no_promise_any_more() -> None:
    _play(sorted(failed_seeds()))
