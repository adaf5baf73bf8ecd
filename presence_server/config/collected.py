"""The values found so far, where each came from, and everything that is wrong with them."""

from enum import IntEnum
from typing import NamedTuple

from presence_server.config.setting_keys import SettingKey, wrong_value


class Layer(IntEnum):
    """The layer that a value comes from; the higher one wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


class Origin(NamedTuple):
    """The layer of a value, and its place in words: a line, a variable, a flag."""

    layer: Layer
    place: str


DEFAULT = Origin(Layer.DEFAULT, "default")


class Collected:
    """Values by the path of their key; a key that failed keeps the value of the layer below."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.values: dict[str, object] = {}
        self.failed: set[str] = set()
        self._origins: dict[str, Origin] = {}

    def origin(self, path: str) -> Origin:
        """Say where the value of a key came from."""
        return self._origins.get(path, DEFAULT)

    def take_value(self, key: SettingKey, value: object, origin: Origin) -> None:
        """Take a value if `key` accepts it."""
        wrong = wrong_value(key, value)
        if wrong is None:
            self.put_value(key.path, value, origin)
        else:
            self.note_problem(origin.place, key.path, wrong)

    def put_value(self, path: str, value: object, origin: Origin) -> None:
        """Take a value that has been looked at already."""
        self.values[path] = value
        self._origins[path] = origin

    def note_problem(self, place: str, path: str, text: str) -> None:
        """Note what is wrong with a key, which no rule is then checked on."""
        self.problems.append(f"{place}: {path}: {text}")
        self.failed.add(path)
