"""The simulator can fail: a defect that is put back is found, and without it the same plan breaks nothing."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.defects import DEFECTS
from tests.simulation.drawing import LATER, THEMED_FROM, draw_plan, theme_of
from tests.simulation.play import play
from tests.support.effort import THOROUGH

SEEDS_MAX: Final = 2_000
CONTRIBUTING: Final = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.mark.parametrize("number", [number for number, defect in DEFECTS.items() if defect.seed])
def test_a_defect_that_is_put_back_is_found_and_without_it_nothing_is(number: str) -> None:
    defect = DEFECTS[number]
    plan = draw_plan(defect.seed)
    if THOROUGH:
        with defect.among():
            assert play(plan, until_empty=False).names == []
    with defect.among(), defect.put_back():
        names = play(plan, until_empty=False).names
    assert defect.breaks in names
    assert "no_exception" not in names  # or what is put back does not fit the code any more


def test_every_defect_is_found_within_so_many_seeds() -> None:
    seeds = [defect.seed for defect in DEFECTS.values() if defect.seed]
    played = [range(first, first + SEEDS_MAX) for first in (THEMED_FROM, LATER.start)]
    assert all(any(seed in some for some in played) for seed in seeds)


def test_the_table_of_defects_says_which_seed_finds_each_and_what_breaks() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \| `(.+?)` \|$", CONTRIBUTING.read_text(), re.MULTILINE)
    told = {number: (what, seed, breaks) for number, what, seed, breaks in rows}
    assert told == {
        number: (defect.what, f"{defect.seed}, {theme_of(defect.seed)}", defect.breaks)
        for number, defect in DEFECTS.items()
        if defect.seed
    }
