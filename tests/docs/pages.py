"""The project's pages as tests read them: sections, tables, code."""

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = [
    *(
        PROJECT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md")
    ),
    *sorted((PROJECT / "docs").glob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    """Return a page's text."""
    return (PROJECT / name).read_text(encoding="utf-8")


def code(text: str, language: str) -> list[str]:
    """Return the code blocks in one language."""
    return [found[2] for found in FENCED.finditer(text) if found[1] == language]


def prose(text: str) -> str:
    """Return a text without its code blocks."""
    return FENCED.sub("", text)


def section(text: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or above."""
    level = heading.index(" ")
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        if line.rstrip("\n") == heading:
            break
    else:
        raise AssertionError(f"there is no {heading!r}")
    found = []
    fenced = False
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        marks = len(line) - len(line.lstrip("#"))
        if not fenced and 0 < marks <= level:
            break
        found.append(line)
    return "".join(found)


def rows(text: str) -> Iterator[list[str]]:
    """Give the cells of every row of every table, without the lines under the heads."""
    for line in prose(text).splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def headings(text: str) -> list[str]:
    """Return every heading's words."""
    return [line.lstrip("#").strip() for line in prose(text).splitlines() if re.match("#+ ", line)]
