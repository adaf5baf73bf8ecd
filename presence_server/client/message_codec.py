"""The two encodings from a client's side: plain Python documents, rosters decoded in place."""

from collections.abc import Callable
from typing import Final, Literal, get_args

import msgspec

from presence_server.client.errors import ProtocolViolation
from presence_server.protocol.codec import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL
from presence_server.protocol.messages import (
    TYPE_FIELD,
    Bye,
    ClientMessage,
    Count,
    Diff,
    Error,
    Member,
    Ok,
    Page,
    Pong,
    Published,
    Removed,
    Resume,
    Signal,
    Stale,
    Sync,
    Welcome,
)

Encoding = Literal["json", "msgpack"]


class RosterSync(Sync, tag="sync", kw_only=True):
    """A `sync` with its members decoded."""

    members: tuple[Member, ...]


class RosterPage(Page, tag="page", kw_only=True):
    """A `page` with its members decoded."""

    members: tuple[Member, ...]


Incoming = (
    Welcome
    | Ok
    | RosterSync
    | RosterPage
    | Diff
    | Count
    | Published
    | Signal
    | Removed
    | Stale
    | Pong
    | Resume
    | Error
    | Bye
)
INCOMING_TYPES: Final = frozenset(kind.__struct_config__.tag for kind in get_args(Incoming))


class _Typed(msgspec.Struct):
    kind: str = msgspec.field(name=TYPE_FIELD)


class MessageCodec:
    """One encoding of messages: `subprotocol` names it in the handshake, `is_text` the kind of its frames."""

    _encode: Callable[[ClientMessage], bytes]
    _decode: Callable[[bytes], Incoming]
    _decode_kind: Callable[[bytes], _Typed]

    def __init__(self, encoding: Encoding) -> None:
        if encoding == "json":
            self.subprotocol, self.is_text = JSON_SUBPROTOCOL, True
            self._encode = msgspec.json.Encoder().encode
            self._decode = msgspec.json.Decoder(Incoming).decode
            self._decode_kind = msgspec.json.Decoder(_Typed).decode
        elif encoding == "msgpack":
            self.subprotocol, self.is_text = MSGPACK_SUBPROTOCOL, False
            self._encode = msgspec.msgpack.Encoder().encode
            self._decode = msgspec.msgpack.Decoder(Incoming).decode
            self._decode_kind = msgspec.msgpack.Decoder(_Typed).decode
        else:
            raise ValueError(f"no encoding is called {encoding!r}")

    def encode(self, message: ClientMessage) -> bytes:
        """Encode one message."""
        return self._encode(message)

    def decode(self, payload: bytes) -> Incoming | None:
        """Decode one message; None for a type that only a newer server knows.

        Raises `ProtocolViolation` for anything else that is not a server's message.
        """
        try:
            message: Incoming = self._decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            if isinstance(exc, msgspec.ValidationError) and self._is_unknown(payload):
                return None
            raise ProtocolViolation(f"not a message of this protocol: {exc}") from exc
        return message

    def _is_unknown(self, payload: bytes) -> bool:
        try:
            return self._decode_kind(payload).kind not in INCOMING_TYPES
        except msgspec.ValidationError:
            return False
