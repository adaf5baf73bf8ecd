"""The names of every key and channel. A room's keys share the hash tag `{room}`, so a room is one slot."""

import hashlib
from typing import Final

ROOM_PARTS: Final = ("expiry", "members", "users", "meta", "fences", "lingers")
KEY_CHARS_MAX: Final = 128
"""A throttled key that is longer, or has other characters than a name would, is kept as its hash."""
REGISTRY_PARTS: Final = ("expiry", "records", "secret")


class Keys:
    """Names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def room(self, room: str) -> list[str]:
        """Return a room's keys, in the order that its scripts take them."""
        return [f"{self._prefix}:{{{room}}}:{part}" for part in ROOM_PARTS]

    def channel(self, room: str) -> str:
        """Return the channel on which a room's deltas and messages travel."""
        return f"{self._prefix}:{{{room}}}:bus"

    def room_of(self, channel: str) -> str:
        """Return the room of a channel."""
        return channel[len(self._prefix) + 2 : -len("}:bus")]

    def claim(self, cid: str) -> str:
        """Return the key of the highest epoch that a connection id has been resumed with."""
        return f"{self._prefix}:{{{cid}}}:claim"

    def node_channel(self, node: str) -> str:
        """Return the channel for what concerns one node alone."""
        return f"{self._prefix}:node:{node}:bus"

    def nonce_channel(self, node: str) -> str:
        """Return the channel on which a node hears itself."""
        return f"{self._prefix}:node:{node}:nonce"

    def throttle(self, rule: str, key: str) -> str:
        """Return where a rule counts a key; all rules of one key are one slot."""
        if not key.isascii() or len(key) > KEY_CHARS_MAX or "{" in key or "}" in key or not key:
            key = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return f"{self._prefix}:t:{{{key}}}:{rule}"

    def purge_channel(self) -> str:
        """Return the channel on which limiters hear what to forget."""
        return f"{self._prefix}:t:purge"

    def nodes(self) -> list[str]:
        """Return the keys of the registry of nodes, in the order that its script takes them."""
        return [f"{{{self._prefix}:nodes}}:{part}" for part in REGISTRY_PARTS]

    def probe_channel(self) -> str:
        """Return a channel named like a room's that is nobody's, to try whether one may publish."""
        return self.channel("")
