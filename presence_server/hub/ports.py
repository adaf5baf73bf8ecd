"""The ports between the hub and the parts around it."""

from typing import Protocol

from presence_server.protocol.codes import CloseCode
from presence_server.protocol.messages import Count, Diff, Message, Mode, Sync


class Encoding(Protocol):
    """Encodes messages for a set of connections; hashed by identity.

    What it returns can be written to each of these connections as it is, alone or joined with more.
    """

    def encode(self, message: Message) -> bytes:
        """Encode and frame one message."""

    def weigh(self, message: Message, data: bytes) -> int:
        """Return how many bytes of plain JSON cost as much to make as `data`, which `message` was encoded as."""


class Wire(Protocol):
    """A connection's way out."""

    @property
    def congested(self) -> bool:
        """Whether more than the soft limit is unsent; when that ends, its transport calls `Outbox.check_drained`."""

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that were written and have not been sent; 0 when none can be sent any more."""

    def write(self, data: bytes) -> None:
        """Write now; never blocks. Tells the connection's outbox when the client falls behind."""

    def resume_reading(self) -> None:
        """Read from the client again: its outbox is not behind any more."""

    def probe(self) -> None:
        """Ask the client for a sign of life; `Session.answer_probe` is called when that comes."""

    def close(self, code: CloseCode) -> None:
        """Say `bye` and close."""

    def abort(self) -> None:
        """Drop what is unsent, and the socket with it."""


class RosterSource(Protocol):
    """A room's roster, as its channel needs it."""

    @property
    def members(self) -> int:
        """The number of members."""

    @property
    def crowded(self) -> bool:
        """Whether there are too many for rosters: watchers in `full` mode are served in `count` mode."""

    def take_diff(self) -> Diff | None:
        """Return what changed since the last call, if anything did."""

    def count(self) -> Count:
        """Return the numbers as they are."""

    def sync(self, mode: Mode, *, you: str | None, request_id: int | None) -> Sync:
        """Return the room as it is, for one watcher; `you` is its cid if it is a member."""
