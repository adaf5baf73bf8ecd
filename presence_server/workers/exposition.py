"""Merges the metrics pages of several workers into one, each sample with a label `worker`."""

from collections.abc import Iterable, Mapping

COMMENTS = ("# HELP ", "# TYPE ")


def merge(pages: Mapping[str, str]) -> str:
    """Return one page in the text format of Prometheus, from pages by the value of the label `worker`.

    The samples of a metric must stand together, so they are gathered by name. A sample that has the label keeps it.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        name = ""
        for line in page.splitlines():
            if line.startswith(COMMENTS):
                name = line.split(" ", 3)[2]
                head = heads.setdefault(name, [])
                if line not in head:
                    head.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(name, []).append(_labelled(line, worker))
    return "".join(_lines(heads, samples))


def _lines(heads: Mapping[str, list[str]], samples: Mapping[str, list[str]]) -> Iterable[str]:
    for name, head in heads.items():
        for line in (*head, *samples.get(name, ())):
            yield f"{line}\n"


def _labelled(sample: str, worker: str) -> str:
    """Add the label to a sample, such as `name 1.0` or `name{code="1000"} 1.0`."""
    label = f'worker="{worker}"'
    name, _, value = sample.partition(" ")
    if "{" not in name:
        return f"{name}{{{label}}} {value}"
    if '{worker="' in sample or ',worker="' in sample:
        return sample
    name, _, rest = sample.partition("{")
    return f"{name}{{{label},{rest}"
