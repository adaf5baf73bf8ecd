import pytest

from bench.fit import exponent


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_a_power_is_found(power: float) -> None:
    sizes = [1, 10, 100, 1_000]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_what_is_added_to_each_cost_makes_the_exponent_less() -> None:
    assert 0 < exponent([1, 10, 100], [50 + size for size in (1, 10, 100)]) < 0.3


@pytest.mark.parametrize("sizes", [[10], [10, 10]])
def test_one_size_has_no_exponent(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="two sizes"):
        exponent(sizes, [1] * len(sizes))


def test_a_cost_of_nothing_has_no_exponent() -> None:
    with pytest.raises(ValueError, match="math domain"):
        exponent([1, 10], [1, 0])
