"""What a simulated store holds: keys with values and ends, as in Redis; a room is one value, its pure state."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

Argument: TypeAlias = str | bytes | int
Hash: TypeAlias = dict[str, bytes]
SortedSet: TypeAlias = dict[str, float]
NEVER_MS: Final = 2**62


class Entry(NamedTuple):
    """A value, and when it ends, in ms by the store's clock."""

    value: Any
    ends_ms: int


class Keyspace:
    """Keys that are gone once their end has come. `now_ms` is set before each command."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Any:
        """Return a value; None: there is none (any more)."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.ends_ms <= self.now_ms:
            del self._entries[key]
            return None
        return entry.value

    def set(self, key: str, value: Any, ttl_ms: int | None = None) -> None:
        """Put a value in place of what is there."""
        self._entries[key] = Entry(value, NEVER_MS if ttl_ms is None else self.now_ms + ttl_ms)

    def expire(self, key: str, ttl_ms: int) -> None:
        """Have a key end after a while; nothing where it is not there."""
        value = self.get(key)
        if value is not None:
            self.set(key, value, ttl_ms)

    def delete(self, key: str) -> int:
        """Delete a key; return 1 where it was there."""
        present = self.get(key) is not None
        self._entries.pop(key, None)
        return int(present)

    def hash(self, key: str) -> Hash:
        """Return a hash to write to; made where it is not there."""
        value: Hash | None = self.get(key)
        if value is None:
            value = {}
            self.set(key, value)
        return value

    def sorted_set(self, key: str) -> SortedSet:
        """Return a sorted set to write to; made where it is not there."""
        value: SortedSet | None = self.get(key)
        if value is None:
            value = {}
            self.set(key, value)
        return value

    def drop_empty(self, key: str) -> None:
        """Delete a key whose collection is empty, as Redis does."""
        value = self.get(key)
        if value is not None and not value:
            del self._entries[key]

    def ttls(self) -> dict[str, int | None]:
        """Return every key with how long it will last, in ms; None: for ever."""
        keys = [key for key in list(self._entries) if self.get(key) is not None]
        ends = {key: self._entries[key].ends_ms for key in keys}
        return {key: None if end == NEVER_MS else end - self.now_ms for key, end in ends.items()}

    def values(self) -> Iterator[Any]:
        """Yield every value."""
        for key in list(self._entries):
            value = self.get(key)
            if value is not None:
                yield value


def by_score(values: SortedSet) -> list[tuple[str, float]]:
    """Return members in a sorted set's order, with their scores."""
    return sorted(values.items(), key=lambda item: (item[1], item[0]))


def number(value: float) -> bytes:
    """Write a score as Redis does."""
    return f"{value:.17g}".encode()


def text(argument: Argument) -> str:
    """Return an argument as text."""
    return argument.decode() if isinstance(argument, bytes) else str(argument)


def raw(argument: Argument) -> bytes:
    """Return an argument as bytes."""
    return argument if isinstance(argument, bytes) else str(argument).encode()
