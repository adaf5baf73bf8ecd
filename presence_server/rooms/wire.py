"""Room events as bytes between nodes.

The first byte says which: `d` a delta from a script, `e` events from a node.
"""

from typing import Any, Final

import msgspec

from presence_server.presence import calls
from presence_server.rooms.events import Publication, RoomEvent, Settled, Signalled

DELTA: Final = b"d"
EVENTS: Final = b"e"

_decode_delta = msgspec.msgpack.Decoder(calls.DeltaOnChannel).decode
_decode_events = msgspec.msgpack.Decoder(list[list[Any]]).decode
_encode = msgspec.msgpack.Encoder().encode


class RoomEvents:
    """Packs and unpacks the events of rooms; a payload of another format raises `ValueError`."""

    def pack(self, event: RoomEvent) -> bytes:
        """Return one event's row."""
        match event:
            case Publication():
                row = ("p", event.cid, event.user, event.epoch, calls.text(event.data), event.at)
                return _encode(row)
            case Signalled():
                return _encode(("s", event.cid, event.user, event.epoch, event.key, calls.text(event.data)))
            case Settled():
                return _encode(("n", event.node))
            case _:
                raise TypeError(f"{type(event).__name__} is published by scripts alone")

    def join(self, packed: list[bytes]) -> bytes:
        """Return rows as one payload."""
        return EVENTS + _encode([(calls.FORMAT,), *(msgspec.Raw(row) for row in packed)])

    def unpack(self, payload: bytes) -> list[RoomEvent]:
        """Return a payload's events."""
        kind, body = payload[:1], payload[1:]
        if kind == DELTA:
            if body[1:2] != bytes((calls.FORMAT,)):
                raise ValueError(f"a delta of format {body[1:2].hex()}, not {calls.FORMAT}")
            return [calls.delta(_decode_delta(body))]
        if kind != EVENTS:
            raise ValueError(f"a payload that begins with {kind!r}")
        rows = _decode_events(body)
        if rows[0][0] != calls.FORMAT:
            raise ValueError(f"events of format {rows[0][0]}, not {calls.FORMAT}")
        return [event for row in rows[1:] if (event := _event(row)) is not None]


def _event(row: list[Any]) -> RoomEvent | None:
    match row:
        case ["p", cid, user, epoch, data, at]:
            return Publication(cid, user, epoch, msgspec.Raw(data.encode()), at)
        case ["s", cid, user, epoch, key, data]:
            return Signalled(cid, user, epoch, key, msgspec.Raw(data.encode()))
        case ["n", node]:
            return Settled(node)
        case _:
            return None
