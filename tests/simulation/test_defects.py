"""The simulator can fail: a defect that is put back is found."""

import pytest

from tests.simulation.defects import DEFECTS
from tests.simulation.play import play
from tests.simulation.scenarios import SCENARIOS


@pytest.mark.parametrize(("number", "name", "invariant"), [(1, "FLUSHALL", "no_false_leave")])
def test_a_defect_that_is_put_back_is_found_and_without_it_nothing_is(
    number: int, name: str, invariant: str
) -> None:
    assert play(SCENARIOS[name], until_empty=False).names == []
    with DEFECTS[number].put_back():
        assert invariant in play(SCENARIOS[name], until_empty=False).names
