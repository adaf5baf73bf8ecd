from bench import report
from bench.comparison import _figures
from bench.growth import _exponent
from bench.plots import _by_peer, _by_size


def growth() -> report.Result:
    costs = {10: [3.0, 5.0], 100: [30.0, 5.0], 1_000: [300.0, 5.0]}
    sizes = [report.per_round(f"a thing: {size:,}", "µs", values) for size, values in costs.items()]
    return report.Result(name="growth", what="", figures=[*sizes, _exponent("a thing", costs)], targets=[])


def test_an_exponent_is_fitted_in_each_round() -> None:
    assert growth().figure("a thing: exponent").rounds == [1.0, 0.0]


def test_a_plot_of_growth_has_each_size_and_the_exponent() -> None:
    costs, exponents = _by_size(growth())
    assert costs == {"a thing": {10: [3.0, 5.0], 100: [30.0, 5.0], 1_000: [300.0, 5.0]}}
    assert exponents == {"a thing": 0.5}


def test_servers_are_compared_within_each_round() -> None:
    figures = _figures({"memory": {"presence-server": [4.0, 9.0], "other": [8.0, 3.0]}})
    result = report.Result(name="peers", what="", figures=figures, targets=[])
    assert result.figure("memory: presence-server / other").rounds == [0.5, 3.0]
    costs, units = _by_peer(result)
    assert costs == {"memory": {"presence-server": [4.0, 9.0], "other": [8.0, 3.0]}}
    assert units == {"memory": "KiB"}


def test_what_was_left_out_is_under_the_table() -> None:
    result = report.Result(name="peers", what="", figures=[], targets=[], left_out={"one": "go is missing"})
    assert report.table(result).endswith("\n\n**Left out**: one: go is missing")
