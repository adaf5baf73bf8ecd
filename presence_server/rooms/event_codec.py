"""Room events as bytes between nodes.

The first byte says which: `d` a delta from a script, `e` events from a node. Both say next which format they
are of, before anything that another format may write otherwise.
"""

from typing import Final, TypeAlias

import msgspec

from presence_server.presence import script_calls
from presence_server.rooms.events import NodeReentered, Publication, RoomEvent, Signalled

DELTA: Final = b"d"
EVENTS: Final = b"e"
HEADER: Final = EVENTS + bytes([script_calls.FORMAT])


class PublicationRow(msgspec.Struct, array_like=True, tag="p"):
    """A publication as it travels; `data` is JSON text."""

    cid: str | None
    user: str | None
    epoch: int
    data: str
    at: int


class SignalRow(msgspec.Struct, array_like=True, tag="s"):
    """A signal as it travels; `data` is JSON text."""

    cid: str
    user: str
    epoch: int
    key: str
    data: str


class NodeReenteredRow(msgspec.Struct, array_like=True, tag="n"):
    """A node that has entered its members of the room again; see `NodeReentered`."""

    node: str
    generation: int = 0


Row: TypeAlias = PublicationRow | SignalRow | NodeReenteredRow
_decode_delta = msgspec.msgpack.Decoder(script_calls.DeltaOnChannel).decode
_decode_events = msgspec.msgpack.Decoder(list[Row]).decode
_encode = msgspec.msgpack.Encoder().encode


class RoomEventCodec:
    """Packs and unpacks the events of rooms; a payload of another format raises `ValueError`."""

    def pack(self, event: RoomEvent) -> bytes:
        """Return one event's row."""
        match event:
            case Publication():
                data = script_calls.text(event.data)
                return _encode(PublicationRow(event.cid, event.user, event.epoch, data, event.at))
            case Signalled():
                data = script_calls.text(event.data)
                return _encode(SignalRow(event.cid, event.user, event.epoch, event.key, data))
            case NodeReentered():
                return _encode(NodeReenteredRow(event.node, event.generation))
            case _:
                raise TypeError(f"{type(event).__name__} is published by scripts alone")

    def join(self, packed: list[bytes]) -> bytes:
        """Return rows as one payload."""
        return HEADER + _encode([msgspec.Raw(row) for row in packed])

    def unpack(self, payload: bytes) -> list[RoomEvent]:
        """Return a payload's events."""
        kind, body = payload[:1], payload[1:]
        try:
            if kind == DELTA:
                _check_format(body[1:2])
                return [script_calls.delta(_decode_delta(body))]
            if kind == EVENTS:
                _check_format(body[:1])
                return [_event(row) for row in _decode_events(body[1:])]
        except msgspec.MsgspecError as exc:
            raise ValueError(f"a payload that cannot be read: {exc}") from None
        raise ValueError(f"a payload that cannot be read: it begins with {kind!r}")


def _check_format(number: bytes) -> None:
    if number and number[0] != script_calls.FORMAT:
        raise ValueError(f"a payload of format {number[0]}, not {script_calls.FORMAT}")


def _event(row: Row) -> RoomEvent:
    match row:
        case PublicationRow(cid, user, epoch, data, at):
            return Publication(cid, user, epoch, msgspec.Raw(data.encode()), at)
        case SignalRow(cid, user, epoch, key, data):
            return Signalled(cid, user, epoch, key, msgspec.Raw(data.encode()))
        case NodeReenteredRow(node, generation):
            return NodeReentered(node, generation)
