"""The file that `presence-server init` writes: every setting with its meaning and its default, commented out."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import NODEFAULT

from presence_server import __version__
from presence_server.config.setting_keys import KEYS, SettingKey, choices_of, expected, keys_of, shown_default
from presence_server.config.settings import SECTIONS, RoomSettings, ThrottleRule

WIDTH: Final = 100
HEAD: Final = f"""\
# Settings of presence-server {__version__}: every key with its default.
# Remove the # before a key to set it. Flags and PRESENCE_SECTION__KEY variables win over this file.
# After a change: presence-server check-config FILE; docs/operations.md says what SIGHUP reads again.
"""
EXAMPLES: Final = {"throttle.rules.name": '"login"', "throttle.rules.limit": '"5/60s"'}
"""Values of keys that have no default."""


def starter_file() -> str:
    """Return the whole file."""
    tables = [
        (f"[{section}]", struct.__doc__, [key for key in KEYS.values() if key.section == section])
        for section, struct in SECTIONS.items()
    ]
    lists = {"throttle": ("throttle.rules", ThrottleRule)}
    lines = [HEAD]
    for section, (title, meaning, keys) in zip(SECTIONS, tables, strict=True):
        lines += [*_comment(meaning or ""), title, *_keys(keys), ""]
        if section in lists:
            lines += _example(*lists[section])
    return "\n".join([*lines, *_example("rooms", RoomSettings)])


def _example(name: str, struct: type[RoomSettings | ThrottleRule]) -> list[str]:
    keys = keys_of(name, struct).values()
    return [*_comment(f"{struct.__doc__} As many tables as needed."), f"#[[{name}]]", *_keys(keys), ""]


def _keys(keys: Iterable[SettingKey]) -> Iterator[str]:
    for key in keys:
        if key.file_only:
            continue
        choices = f" ({expected(key.shape)})" if choices_of(key.shape) else ""
        yield from _comment(f"{key.meaning}{choices}.")
        value = EXAMPLES[key.path] if key.default is NODEFAULT else shown_default(key)
        yield f"#{key.name} = {value}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text.replace("`", ""), WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
