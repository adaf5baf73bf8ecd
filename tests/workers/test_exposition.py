"""Pages of metrics of several workers as one."""

from prometheus_client.parser import text_string_to_metric_families

from presence_server.workers.exposition import merge

HEAD = "# HELP calls_total Calls\n# TYPE calls_total counter\n"


def test_each_sample_gets_the_label_of_its_page() -> None:
    ones = HEAD + 'calls_total{path="/a b{}"} 1.0\n'
    page = merge({"1": ones + "# HELP up Up\n# TYPE up gauge\nup 1.0\n", "2": HEAD + "calls_total 2.0\n"})
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found == {
        ("calls_total", frozenset({("worker", "1"), ("path", "/a b{}")})): 1.0,
        ("calls_total", frozenset({("worker", "2")})): 2.0,
        ("up", frozenset({("worker", "1")})): 1.0,
    }


def test_samples_of_a_metric_stand_together_below_one_head() -> None:
    page = merge({"1": HEAD + "calls_total 1.0\n# TYPE up gauge\nup 1.0\n", "2": HEAD + "calls_total 2.0\n"})
    assert page == (
        HEAD
        + 'calls_total{worker="1"} 1.0\ncalls_total{worker="2"} 2.0\n# TYPE up gauge\nup{worker="1"} 1.0\n'
    )


def test_a_sample_that_names_its_worker_keeps_the_name() -> None:
    assert merge({"supervisor": '# TYPE up gauge\nup{worker="2"} 0.0\n'}).endswith('\nup{worker="2"} 0.0\n')
