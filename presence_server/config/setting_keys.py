"""The settings as a table of keys: what each accepts, in words, and how text becomes its value."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import NODEFAULT, inspect

from presence_server.config.settings import SECTIONS


class SettingKey(NamedTuple):
    """One setting: its names, its type, and what the reference says of it."""

    section: str
    name: str
    type: Any
    shape: inspect.Type
    default: object
    meaning: str
    secret: bool

    @property
    def path(self) -> str:
        """The key as messages write it: `server.port`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it: `PRESENCE_SERVER__PORT`."""
        return f"PRESENCE_{self.section}__{self.name}".upper()

    @property
    def flag(self) -> str:
        """The flag that sets it: `--server.port`."""
        return f"--{self.path}"

    @property
    def file_only(self) -> bool:
        """Whether it is a list of tables, which only the file can hold."""
        return isinstance(self.shape, inspect.ListType) and isinstance(
            self.shape.item_type, inspect.StructType
        )


def keys_of(section: str, struct: type[msgspec.Struct]) -> dict[str, SettingKey]:
    """Give the keys of one struct, in order."""
    keys = {}
    for found in msgspec.structs.fields(struct):
        shape, meaning, secret = inspect.type_info(found.type), "", False
        if isinstance(shape, inspect.Metadata):
            meaning = (shape.extra_json_schema or {}).get("description", "")
            secret = (shape.extra or {}).get("secret", False)
            shape = shape.type
        default = found.default if found.default_factory is NODEFAULT else found.default_factory()
        keys[found.name] = SettingKey(section, found.name, found.type, shape, default, meaning, secret)
    return keys


KEYS: Final[dict[str, SettingKey]] = {
    key.path: key for section, struct in SECTIONS.items() for key in keys_of(section, struct).values()
}
"""Every key outside `[[rooms]]`, by its path."""
VARIABLES: Final[dict[str, SettingKey]] = {key.variable: key for key in KEYS.values()}
SHORT_FLAGS: Final[dict[str, str]] = {
    "--host": "server.host",
    "--port": "server.port",
    "--api-host": "server.api_host",
    "--api-port": "server.api_port",
    "--redis-url": "redis.url",
    "--workers": "server.workers",
}
FLAGS: Final[dict[str, SettingKey]] = {flag: KEYS[path] for flag, path in SHORT_FLAGS.items()} | {
    key.flag: key for key in KEYS.values()
}


def nearest(name: str, names: Iterable[str]) -> str:
    """Give the one of `names` that is written most like `name`."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def expected(shape: inspect.Type) -> str:
    """Say in words what a type accepts."""
    text = "a text"
    match shape:
        case inspect.BoolType():
            text = "true or false"
        case inspect.IntType(ge=low, le=high):
            text = f"an integer from {low} to {high}"
        case inspect.LiteralType():
            text = f"{'one of ' if len(choices_of(shape)) > 1 else ''}{', '.join(choices_of(shape))}"
        case inspect.ListType(item_type=inspect.LiteralType(), min_length=least):
            text = f"a list of {'one or more of ' if least else ''}{', '.join(choices_of(shape))}"
        case inspect.ListType(item_type=inspect.StructType()):
            text = "a list of tables"
        case inspect.ListType():
            text = "a list of texts"
        case inspect.UnionType(types=types):
            text = " or ".join(expected(each) for each in types)
        case inspect.StrType(min_length=1):
            text = "a text that is not empty"
        case inspect.StrType(pattern=str(pattern)):
            text = f"a text like {pattern}"
    return text


def from_text(key: SettingKey, text: str) -> object:
    """Read the text of a variable or a flag; what cannot be read stays text, which is then refused.

    A list is a JSON array, or texts with commas between.
    """
    if isinstance(key.shape, inspect.BoolType):
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if isinstance(key.shape, inspect.IntType) or _has_integer(key.shape):
        return int(text) if re.fullmatch("[+-]?[0-9]{1,20}", text.strip()) else text
    if isinstance(key.shape, inspect.ListType):
        return _list_from_text(text)
    return text


def _has_integer(shape: inspect.Type) -> bool:
    return isinstance(shape, inspect.UnionType) and any(
        isinstance(each, inspect.IntType) for each in shape.types
    )


def _list_from_text(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text.strip() else []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def wrong_value(key: SettingKey, value: object) -> str | None:
    """Say what is wrong with a value for `key`, or None; a secret is never repeated."""
    try:
        msgspec.convert(value, key.type)
    except msgspec.ValidationError:
        pass
    else:
        return None
    text = f"expected {expected(key.shape)}"
    if not key.secret:
        text += f", got {_shown(value)}"
    for item in value if isinstance(value, list) else [value]:
        choices = choices_of(key.shape)
        if choices and isinstance(item, str) and item not in choices:
            text += f"; the nearest valid name is {nearest(item, choices)}"
            break
    return text


def shown_default(key: SettingKey) -> str:
    """Write a key's default as the file would."""
    return json.dumps(key.default, ensure_ascii=False)


def choices_of(shape: inspect.Type) -> list[str]:
    """Give the words that a type accepts; empty where it is not a choice of words."""
    if isinstance(shape, inspect.ListType):
        return choices_of(shape.item_type)
    if isinstance(shape, inspect.UnionType):
        return [choice for each in shape.types for choice in choices_of(each)]
    return [str(value) for value in shape.values] if isinstance(shape, inspect.LiteralType) else []


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"
