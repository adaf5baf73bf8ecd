"""The old names that CONTRIBUTING.md lists do not come back."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import PROJECT, read, rows, section

TABLE: Final = [
    (old, (place.strip("`") or "*"))
    for was, _, place in list(rows(section(read("CONTRIBUTING.md"), "### Old names")))[1:]
    for old in re.findall(r"`([^`]+)`", was)
]
SEARCHED: Final = [
    *sorted(path for path in (PROJECT / "presence_server").rglob("*") if path.suffix in {".py", ".lua"}),
    *sorted((PROJECT / "docs").glob("*.md")),
    PROJECT / "README.md",
    PROJECT / "ARCHITECTURE.md",
]
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _finder(old: str) -> Callable[[str], bool]:
    """Return a function that tells whether a line has a name; a plain word is also found within identifiers."""
    if re.fullmatch("[a-z]+", old):
        return lambda line: any(word.lower() == old for word in WORD.findall(line))
    found = re.compile(rf"(?<![\w/]){re.escape(old)}(?!\w)").search
    return lambda line: found(line) is not None


def _places(old: str, where: str, lines: dict[Path, list[str]]) -> list[str]:
    """Return the places that have a name: the path, the number of the line, and the line."""
    has = _finder(old)
    return [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path, text in lines.items()
        if Path(path.relative_to(PROJECT)).match(where)
        for number, line in enumerate(text, 1)
        if has(line)
    ]


@pytest.fixture(scope="module")
def lines() -> dict[Path, list[str]]:
    return {path: path.read_text(encoding="utf-8").splitlines() for path in SEARCHED}


@pytest.mark.parametrize(("old", "where"), TABLE, ids=[old for old, _ in TABLE])
def test_an_old_name_does_not_come_back(old: str, where: str, lines: dict[Path, list[str]]) -> None:
    assert _places(old, where, lines) == []


@pytest.mark.parametrize("old", [old for old, _ in TABLE if old.endswith(".py")])
def test_a_module_is_not_at_its_old_path(old: str) -> None:
    assert not (PROJECT / "presence_server" / old).exists()


def test_a_word_is_found_within_identifiers_and_a_name_only_whole() -> None:
    assert _finder("census")("class MemoryCensus:")
    assert _finder("census")("self._census_of(room)")
    assert not _finder("census")("consensus")
    assert _finder("Order")("def obey(order: Order)")
    assert not _finder("Order")("OrderedDict")
    assert _finder("presence/census.py")("asked in `presence/census.py`")
