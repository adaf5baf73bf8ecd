"""A connection's way out that keeps what is written, and an encoding that can be taken apart again."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from presence_server.protocol.codec import JSON, Codec
from presence_server.protocol.codes import CloseCode
from presence_server.protocol.messages import Member, Message, Page, ServerMessage, Sync

if TYPE_CHECKING:
    from presence_server.hub.outbox import Outbox

_LENGTH_BYTES: Final = 4
_from_json = msgspec.json.Decoder(ServerMessage).decode
_from_msgpack = msgspec.msgpack.Decoder(ServerMessage).decode


class LengthPrefixed:
    """Messages of one codec, each behind its length; `encoded` holds every message that was encoded."""

    def __init__(self, codec: Codec = JSON) -> None:
        self.codec = codec
        self.encoded: list[Message] = []

    def encode(self, message: Message) -> bytes:
        """Encode and frame one message."""
        self.encoded.append(message)
        data = self.codec.encode(message)
        return len(data).to_bytes(_LENGTH_BYTES, "big") + data

    def weigh(self, message: Message, data: bytes) -> int:
        """Return what a message weighs."""
        del data
        return self.codec.weigh(message)

    def split(self, data: bytes) -> list[ServerMessage]:
        """Decode everything in `data`, which holds whole frames."""
        decode: Callable[[bytes], ServerMessage] = _from_json if self.codec.is_text else _from_msgpack
        messages = []
        while data:
            end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
            messages.append(decode(data[_LENGTH_BYTES:end]))
            data = data[end:]
        return messages


class RecordingWire:
    """Keeps what is written to it.

    While the client does not read (`stall`), what is written stays unsent, and above `soft_bytes` of it the
    connection's outbox is behind, as with a socket's transport. `on_close` is called once.
    """

    def __init__(self, encoding: LengthPrefixed, soft_bytes: int = 0) -> None:
        self.encoding = encoding
        self.soft_bytes = soft_bytes
        self.outbox: Outbox | None = None
        self.on_close: Callable[[CloseCode], None] | None = None
        self.closed_with: CloseCode | None = None
        self.writes = 0
        self.heard_again = 0
        self.probes = 0
        self.aborted = False
        self.congested = False
        self._reading = True
        self._sent = b""
        self._unsent = b""

    def write(self, data: bytes) -> None:
        """Keep `data`; tell the outbox when too much is unsent."""
        assert self.closed_with is None, "written to a closed connection"
        self.writes += 1
        if self._reading:
            self._sent += data
            return
        self._unsent += data
        if len(self._unsent) > self.soft_bytes and self.outbox is not None:
            self.congested = True
            self.outbox.mark_behind()

    def close(self, code: CloseCode) -> None:
        """Close as the server does: say why, write what there is, forget the rest."""
        if self.closed_with is None:
            if self.on_close is not None:
                self.on_close(code)
            self.closed_with = code

    def probe(self) -> None:
        """Count it."""
        self.probes += 1

    def stall(self) -> None:
        """Stop reading."""
        self._reading = False

    def read_on(self) -> None:
        """Read everything that is unsent, and go on reading."""
        self._reading = True
        self._sent += self._unsent
        self._unsent = b""
        self.congested = False
        if self.outbox is not None:
            self.outbox.check_drained()

    def resume_reading(self) -> None:
        """Take note that the client may be read from."""
        self.heard_again += 1

    def abort(self) -> None:
        """Drop what is unsent."""
        self.aborted = True
        self._unsent = b""

    @property
    def unsent_bytes(self) -> int:
        """How much the server has written that the client has not read."""
        return len(self._unsent)

    def take(self) -> list[ServerMessage]:
        """Return the messages that have arrived since the last call."""
        sent, self._sent = self._sent, b""
        return self.encoding.split(sent)


def members_in(message: Sync | Page) -> dict[str, Member]:
    """Return the members in a sync or a page, by cid, in its order."""
    members: list[Any] = message.members
    return {member.cid: member for member in msgspec.convert(members, list[Member])}


class RecordingObserver:
    """Whom rooms tell what concerns more than one of them; it does nothing about it."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        """Rooms whose store had lost a member of this node."""
        self.broken: list[str] = []
        """Rooms whose history broke."""
        self.stale = False
        """Whether rooms are said to be out of date."""

    def is_stale(self, room: str) -> bool:
        """Tell whether other nodes' members of a room may be out of date."""
        del room
        return self.stale

    def note_occupied(self, room: str) -> None:
        """Nothing is to be noted."""

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Record it."""
        del asked_ms
        self.lost.append(room)

    def history_broken(self, room: str) -> None:
        """Record it."""
        self.broken.append(room)

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Send at once."""
        del room, cid
        send()
