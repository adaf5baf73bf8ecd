"""The metrics of a node, as Prometheus would read them."""

from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import call
from tests.support.node import Node

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(node: Node) -> Samples:
    """Return every sample of this server by name and labels."""
    answer = await call(node, "GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.body.decode()))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("presence_")
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample; one that is not there yet is 0."""
    return samples.get((name, frozenset(labels.items())), 0.0)
