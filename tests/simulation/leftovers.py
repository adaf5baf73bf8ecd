"""What a node still knows of somebody: every map, list and record that can be reached from it is looked through."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

KEPT: Final = frozenset(("_ended_users", "_ended_cids", "_revoked", "_bans", "_noted_ms", "settings"))
"""What is kept on purpose, with a bound: commands for handshakes that are under way, which rooms were noted lately."""
PACKAGE: Final = "presence_server."


def leftovers(root: object, names: frozenset[str]) -> list[str]:
    """Return where any of `names` (cids, users, rooms) is still found, as paths from `root`."""
    return sorted(set(_search(root, names)))


def _search(root: object, names: frozenset[str]) -> Iterator[str]:
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        path, thing = stack.pop()
        if isinstance(thing, str):
            if thing in names:
                yield path
            continue
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        stack.extend(_inside(path, thing))


def _inside(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, dict | OrderedDict):
        for key, value in list(thing.items()):
            yield path, key
            yield f"{path}[]", value
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        for value in list(thing):
            yield f"{path}[]", value
    elif type(thing).__module__.startswith(PACKAGE) and not isinstance(thing, msgspec.Struct):
        for name in list(_attributes(thing)):
            if name not in KEPT:
                yield f"{path}.{name}", getattr(thing, name, None)


def _attributes(thing: Any) -> list[str]:
    slots = [slot for kind in type(thing).__mro__ for slot in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(thing, "__dict__", ())]
