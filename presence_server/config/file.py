"""The file's layer: TOML, with the line of everything that is wrong in it."""

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import NODEFAULT, inspect

from presence_server.config.collected import Collected, Layer, Origin
from presence_server.config.setting_keys import KEYS, keys_of, nearest
from presence_server.config.settings import SECTIONS, RoomSettings
from presence_server.config.toml_positions import KeyPath, error_line, key_lines

Table = TypeVar("Table", bound=msgspec.Struct)


def read_file(path: Path, collected: Collected) -> bool:
    """Take the file's values; say whether it could be parsed."""
    try:
        text = path.read_bytes().decode()
    except OSError as exc:
        collected.problems.append(f"{path}: cannot read the file: {exc.strerror}")
        return False
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        collected.problems.append(f"{path}, line {line}: not UTF-8")
        return False
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        line, message = error_line(exc, text)
        collected.problems.append(f"{path}, line {line}: not TOML: {message}")
        return False
    except RecursionError:
        collected.problems.append(f"{path}: not TOML: nested too deeply")
        return False
    _Document(path, text, collected).read(document)
    return True


class _Document:
    """A parsed file, and where things are in it."""

    def __init__(self, path: Path, text: str, collected: Collected) -> None:
        self._path = path
        self._text = text
        self._collected = collected

    def read(self, document: dict[str, Any]) -> None:
        for section, table in document.items():
            if section == "rooms":
                self._read_tables((section,), table, RoomSettings)
            elif section not in SECTIONS:
                near = _home(section) or nearest(section, [*SECTIONS, "rooms"])
                self._problem((section,), f"unknown section; the nearest valid name is {near}")
            elif not isinstance(table, dict):
                self._problem((section,), f"expected a table, begun with [{section}]")
            else:
                self._read_section(section, table)

    def _read_section(self, section: str, table: dict[str, Any]) -> None:
        for name, value in table.items():
            path = (section, name)
            key = KEYS.get(f"{section}.{name}")
            if key is None:
                near = nearest(
                    f"{section}.{name}", [known for known in KEYS if known.startswith(f"{section}.")]
                )
                self._problem(path, f"unknown key; the nearest valid name is {_home(name) or near}")
                # Otherwise rules would be checked against the default of the key that was probably meant.
                self._collected.failed.add(near)
            elif isinstance(key.shape, inspect.ListType) and isinstance(
                key.shape.item_type, inspect.StructType
            ):
                self._read_tables(path, value, key.shape.item_type.cls)
            else:
                self._collected.take_value(key, value, self._origin(path))

    def _read_tables(self, path: KeyPath, tables: object, struct: type[Table]) -> None:
        name = _written(path)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem(path, f"expected a list of tables, each begun with [[{name}]]")
            return
        read = [self._read_table((*path, index), table, struct) for index, table in enumerate(tables)]
        self._collected.put_value(name, read, self._origin(path))

    def _read_table(self, path: KeyPath, table: dict[str, Any], struct: type[Table]) -> Table:
        """Make one of a list of tables into its struct; a text that must be there and is not becomes ""."""
        keys = keys_of(_written(path), struct)
        for name, value in table.items():
            if name in keys:
                self._collected.take_value(keys[name], value, self._origin((*path, name)))
            else:
                near = f"{_written(path)}.{nearest(name, keys)}"
                self._problem((*path, name), f"unknown key; the nearest valid name is {near}")
        values: dict[str, object] = {}
        for name, key in keys.items():
            if key.path in self._collected.values:
                values[name] = self._collected.values[key.path]
            elif key.default is NODEFAULT:
                values[name] = ""
                if name not in table:
                    self._problem((*path, name), "missing")
        return struct(**values)

    def _origin(self, path: KeyPath) -> Origin:
        return Origin(Layer.FILE, self._place(path))

    def _problem(self, path: KeyPath, text: str) -> None:
        self._collected.note_problem(self._place(path), _written(path), text)

    def _place(self, path: KeyPath) -> str:
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self._path}, line {self._lines.get(path, 1)}"

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return key_lines(self._text)


def _home(name: str) -> str | None:
    """Give the key of that name in whichever section has it."""
    return next((key.path for key in KEYS.values() if key.name == name), None)


def _written(path: KeyPath) -> str:
    """Write the way to a value as messages do: `throttle.rules[0].limit`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
