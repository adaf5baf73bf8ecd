"""Whole clusters against the promises of docs/presence.md: new seeds, and seeds that have failed."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

import presence_server
from tests.simulation.campaign import explain, failed_seeds, play_seeds
from tests.simulation.drawing import draw_plan
from tests.simulation.play import SLICED, play
from tests.support.effort import effort

NEW_SEEDS = effort(10, 60)
FAILED_PART = effort(8, 3)
"""Of the seeds that have failed, every so many-th is played: other ones for each version of the server."""
PARTS = effort(1, 4)
"""Tests that the seeds are shared out to, so that several workers play them."""
SHRINK_S = 60.0
OPEN_SEEDS: dict[int, str] = {}
"""Seeds that break a promise still, with what they break, each a defect to be mended."""


def _version() -> int:
    """Return a number that follows from the server's source.

    A change of it is tried with clusters that none was tried with before, and what fails for one commit fails for
    everybody who has it, on every day.
    """
    package = Path(presence_server.__file__).parent
    sources = sorted(path for path in package.rglob("*") if path.suffix in {".py", ".lua"})
    return crc32(b"".join(path.read_bytes() for path in sources))


def _play(seeds: list[int]) -> None:
    """Play seeds; the first that fails is explained."""
    failed = {result.seed: result.names for result in play_seeds(seeds, jobs=1) if result.broken}
    if failed:
        seed = min(failed)
        pytest.fail(
            f"of {len(seeds)} seeds failed: {failed}\n{explain(draw_plan(seed), failed[seed][0], SHRINK_S)}"
        )


@pytest.mark.early
@pytest.mark.parametrize("part", range(PARTS))
def test_new_seeds_break_no_promise(record_property: Callable[[str, object], None], part: int) -> None:
    first = SLICED.start + _version()
    seeds = range(first, first + NEW_SEEDS)[part::PARTS]
    record_property("seeds", f"{seeds[0]} to {seeds[-1]}, every {seeds.step}")
    _play([seed for seed in seeds if seed not in OPEN_SEEDS])


@pytest.mark.early
@pytest.mark.parametrize("part", range(PARTS))
def test_seeds_that_have_failed_break_no_promise_any_more(part: int) -> None:
    _play(sorted(failed_seeds())[_version() % FAILED_PART :: FAILED_PART][part::PARTS])


@pytest.mark.xfail(reason="not mended yet", strict=True)
@pytest.mark.parametrize("seed", OPEN_SEEDS)
def test_open_seeds_break_no_promise(seed: int) -> None:
    assert play(draw_plan(seed)).names == []
