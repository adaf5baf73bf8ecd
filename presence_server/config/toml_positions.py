"""The line of each key in a TOML file, which the standard library's parser does not tell."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and indexes in lists of tables."""
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def error_line(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """Split the parser's message into a line, counted from 1, and what is wrong there."""
    message = str(error)
    found = _POSITION.search(message)
    if found is None:
        return 1, message
    line = int(found[1]) if found[1] else max(1, len(text.splitlines()))
    return line, message[: found.start()]


def key_lines(text: str) -> dict[KeyPath, int]:
    """Give the line, counted from 1, on which each table and each key of a valid document begins."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    tables_seen: dict[KeyPath, int] = {}
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table, is_list = _header(parsed)
            table = _indexed(table, tables_seen)
            if is_list:
                index = tables_seen.get(table, -1) + 1
                tables_seen[table] = index
                lines.setdefault(table, line)
                table = (*table, index)
            lines.setdefault(table, line)
        else:
            for path in _paths(parsed):
                lines.setdefault((*table, *path), line)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Split a valid document into its headers and key-value pairs.

    A pair whose value goes over several lines is no document before its last line.
    """
    pending, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            start = number
        pending += line + "\n"
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        yield start, pending
        pending = ""


def _header(parsed: Mapping[str, Any]) -> tuple[KeyPath, bool]:
    path: list[str] = []
    value: Any = parsed
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        path.append(name)
    return tuple(path), isinstance(value, list)


def _indexed(table: KeyPath, tables_seen: Mapping[KeyPath, int]) -> KeyPath:
    """Put the present index behind each list of tables on the way to `table`, except its own."""
    path: KeyPath = ()
    for depth, name in enumerate(table, 1):
        path = (*path, name)
        if depth < len(table) and path in tables_seen:
            path = (*path, tables_seen[path])
    return path


def _paths(value: object) -> Iterator[KeyPath]:
    """Give the way to everything inside a value, the containers included."""
    items: Iterator[tuple[str | int, object]]
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        return
    for name, item in items:
        yield (name,)
        for rest in _paths(item):
            yield (name, *rest)
