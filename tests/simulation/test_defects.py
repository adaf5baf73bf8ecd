"""The simulator can fail: a defect that is put back is found, and without it the same plan breaks nothing."""

from typing import Final

import pytest

from tests.simulation.defect_scenarios import DEFECT_SCENARIOS
from tests.simulation.defects import DEFECTS
from tests.simulation.drawing import draw_plan
from tests.simulation.plan import Plan
from tests.simulation.play import play
from tests.simulation.scenarios import SCENARIOS

SEEDS: Final = {"6": 6, "8": 15, "9": 3}
"""Drawn plans that meet a defect."""


def _plan(number: str) -> Plan:
    if number in SEEDS:
        return draw_plan(SEEDS[number])
    return SCENARIOS["FLUSHALL"] if number == "1" else DEFECT_SCENARIOS[number]


@pytest.mark.parametrize("number", [number for number, defect in DEFECTS.items() if defect.breaks])
def test_a_defect_that_is_put_back_is_found_and_without_it_nothing_is(number: str) -> None:
    defect, plan = DEFECTS[number], _plan(number)
    with defect.among():
        assert play(plan, until_empty=False).names == []
    with defect.among(), defect.put_back():
        assert defect.breaks in play(plan, until_empty=False).names
