"""The names of every key and channel. A room's keys share the hash tag `{room}`, so a room is one slot."""

import hashlib
import zlib
from typing import Final, NamedTuple

ROOM_PARTS: Final = ("expiry", "members", "users", "meta", "fences", "lingers")
KEY_CHARS_MAX: Final = 128
"""A throttled key or a user that is longer, or has other characters than a name would, is kept as its hash."""
USER_PARTS: Final = ("connections", "seen")
ROOM_SHARDS: Final = 16
"""Parts of the index of rooms, each in a slot of its own."""
ROOM_INDEX_PARTS: Final = ("names", "leases")


class RegistryKeys(NamedTuple):
    """The keys of the registry of nodes, in the order that its script takes them."""

    expiry: str
    """How long each node is taken to be alive."""
    records: str
    secret: str
    gone: str
    """When dead nodes were last heard of."""
    incarnations: str
    """The least incarnation of each node that counts."""
    commands: str
    bans: str


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

    def claim(self, cid: str) -> str:
        """Return the key of the highest epoch that a connection id has been resumed with."""
        return f"{self._prefix}:{{{cid}}}:claim"

    def connection(self, cid: str) -> str:
        """Return the key that says where a connection is, and whose."""
        return f"{self._prefix}:{{{cid}}}:connection"

    def node_channel(self, node: str) -> str:
        """Return the channel for what concerns one node alone."""
        return f"{self._prefix}:node:{node}:bus"

    def nonce_channel(self, node: str) -> str:
        """Return the channel on which a node hears itself."""
        return f"{self._prefix}:node:{node}:nonce"

    def node_figures(self, node: str) -> str:
        """Return the key of the figures that a node tells operators."""
        return f"{self._prefix}:node:{node}:figures"

    def link_contact(self, tag: str, node: str) -> str:
        """Return a key that a node writes to see that a server of a Cluster takes writes; `tag` is of a slot there."""
        return f"{self._prefix}:link:{{{tag}}}:{node}:contact"

    def link_nonce(self, tag: str, node: str) -> str:
        """Return the channel on which a node hears itself over a server of a Cluster."""
        return f"{self._prefix}:link:{{{tag}}}:{node}:nonce"

    def throttle(self, place: str, key: str) -> str:
        """Return the name of a key that a rule counts; all rules of one throttled key share a slot.

        `place` is `KIND:RULE` (`Rule.place`, `leases.PLACE`). A kind has no colon and the throttled key no brace, so
        that no two rules, whatever they are named, have one name.
        """
        return f"{self._prefix}:t:{{{name_tag(key)}}}:{place}"

    def purge_channel(self) -> str:
        """Return the channel on which limiters hear what to forget."""
        return f"{self._prefix}:t:purge"

    def policy(self) -> str:
        """Return the key of the rules and lists that operators have changed."""
        return f"{self._prefix}:t:policy"

    def policy_channel(self) -> str:
        """Return the channel on which nodes hear that those have changed."""
        return f"{self._prefix}:t:policy:bus"

    def talkers(self, node: str) -> str:
        """Return the key of what a node says of the keys that are hit most."""
        return f"{self._prefix}:t:talkers:{node}"

    def registry(self) -> RegistryKeys:
        """Return the keys of the registry of nodes."""
        # Commands are in `orders`, as they were called once: a store is not renamed with its server.
        parts = ("expiry", "records", "secret", "gone", "incarnations", "orders", "bans")
        return RegistryKeys(*(f"{{{self._prefix}:nodes}}:{part}" for part in parts))

    def commands_channel(self) -> str:
        """Return the channel for what concerns every node."""
        return f"{self._prefix}:nodes:bus"

    def user(self, user: str) -> list[str]:
        """Return a user's keys: connections over all nodes, and when one last ended."""
        return [f"{self._prefix}:user:{{{name_tag(user)}}}:{part}" for part in USER_PARTS]

    def user_end(self, user: str) -> str:
        """Return the key that says up to which time of issue a user's resume tokens have ended."""
        return f"{self._prefix}:user:{{{name_tag(user)}}}:ended"

    def session(self, session_id: str) -> str:
        """Return the key of an opaque session."""
        return f"{self._prefix}:session:{{{session_id}}}"

    def room_index(self, shard: int) -> list[str]:
        """Return the keys of one part of the index of rooms."""
        return [f"{self._prefix}:rooms:{{{shard:02}}}:{part}" for part in ROOM_INDEX_PARTS]

    @staticmethod
    def shard_of(room: str) -> int:
        """Return the part of the index that a room is in: the same on every node."""
        return zlib.crc32(room.encode()) % ROOM_SHARDS

    def probe_channel(self) -> str:
        """Return a channel named like a room's that is nobody's, to try whether one may publish."""
        return self.channel("")


def name_tag(name: str) -> str:
    """Return the hash tag of a name: the name itself or, where that could not be in a key, `#` and its hash."""
    fits = 0 < len(name) <= KEY_CHARS_MAX and name.isascii()
    plain = fits and "{" not in name and "}" not in name and name[0] != "#"
    return name if plain else "#" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
