"""Lua scripts by name: their text from files, and their digest."""

import binascii
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple


class Script:
    """One script: the text of `parts`, files in the folder `lua` of a package, one after the other."""

    def __init__(self, package: str, *parts: str) -> None:
        folder = resources.files(package).joinpath("lua")
        self.name = parts[-1]
        self.text = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in parts)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SLOTS: Final = 16_384
"""The number of hash slots of a Redis Cluster."""
KEYLESS: Final = {"INFO", "PING", "PUBLISH", "SCRIPT", "TIME"}
"""Commands that any server of a Cluster carries out."""
checks_slots = False
"""Whether a script's call is refused when it is made with keys of two slots. Tests set it: it would cost production
twice what making the call does."""


class Call(NamedTuple):
    """A command for the pipeline; for a script also its text, for a server that has never seen it."""

    command: tuple[str | bytes | int, ...]
    script: Script | None = None

    @property
    def slot(self) -> int | None:
        """The slot that the call needs; None: any server will do."""
        command = self.command
        if self.script is not None:
            return slot_of(str(command[3])) if command[2] else None
        return None if command[0] in KEYLESS else slot_of(str(command[1]))

    def by_text(self) -> tuple[str | bytes | int, ...]:
        """Return the command with the script's text instead of its digest."""
        if self.script is None:
            return self.command
        return ("EVAL", self.script.text, *self.command[2:])


def slot_of(key: str) -> int:
    """Return a key's slot in a Cluster.

    It goes by what is between the key's first braces, or else by all of it (Cluster specification, "Hash tags").
    """
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return binascii.crc_hqx((tag if opened and closed and tag else key).encode(), 0) % SLOTS


def slot_of_tag(tag: str) -> int:
    """Return the slot of every key with a hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def script_call(script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Call:
    """Make a call of a script by its digest.

    Raises `ValueError`, where `checks_slots`, for keys that a Cluster has on two servers: the script would run on none.
    """
    if checks_slots and len(set(map(slot_of, keys))) > 1:
        raise ValueError(f"{script.name} is called with keys of several slots: {', '.join(keys)}")
    return Call(("EVALSHA", script.digest, len(keys), *keys, *arguments), script)
