"""The two encodings of the same messages: JSON text and MessagePack.

What a client sends in `state` and `data` reaches other clients, so it is checked here, once: it must be
something that JSON and MessagePack can both say. msgspec alone is not enough for that: it lets `Raw`
through unread, turns bytes into base64 and NaN into null, and raises RecursionError on deep nesting.
"""

import math
from collections.abc import Callable
from itertools import chain
from types import NoneType
from typing import Any, Final, Protocol, get_args

import msgspec

from presence_server.errors import RequestError
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import (
    REQUEST_ID_MAX,
    TYPE_FIELD,
    ClientMessage,
    Join,
    Message,
    Publish,
    SendSignal,
    Update,
)

JSON_SUBPROTOCOL: Final = "presence.v1.json"
MSGPACK_SUBPROTOCOL: Final = "presence.v1.msgpack"
NESTING_MAX: Final = 32
ITEMS_MAX: Final = 4_096
"""Containers and values in a message, where nothing else is said; keys of maps do not count."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
ITEM_BYTES: Final = 16
"""The weight of an item beside its JSON where it is made an object and then MessagePack: a dense page takes twenty
times as long as its JSON."""
LONG_INTEGER: Final = "an integer does not fit 64 bits"
DOCUMENT_FIELDS: Final[dict[type, str]] = {
    Join: "state",
    Update: "state",
    Publish: "data",
    SendSignal: "data",
}
PLAIN: Final[tuple[type, ...]] = (str, dict, list, bool, int, float, NoneType)
"""The Python types of all JSON values, the most frequent first."""
CONTAINERS: Final = (dict, list)
CLIENT_TYPES: Final = frozenset(kind.__struct_config__.tag for kind in get_args(ClientMessage))

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode
_encode_msgpack = msgspec.msgpack.Encoder().encode


class Codec(Protocol):
    """One encoding of messages.

    `decode` raises `RequestError` (`bad_message`, `unknown_type`) for anything that is not a client's
    message, and for one of more than `items_max` containers and values. The documents in what it returns are
    `msgspec.Raw` JSON text, checked and complete.
    """

    subprotocol: str
    is_text: bool

    def encode(self, message: Message) -> bytes:
        """Encode one message."""

    def weigh(self, message: Message) -> int:
        """Return how many bytes of JSON cost as much to make as this message."""

    def decode(self, payload: bytes, items_max: int = ITEMS_MAX) -> ClientMessage:
        """Decode and check what a client sent."""


class JsonCodec:
    """Messages as JSON in text frames."""

    subprotocol = JSON_SUBPROTOCOL
    is_text = True

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(ClientMessage).decode

    def encode(self, message: Message) -> bytes:
        """Encode one message as UTF-8 JSON."""
        return _encode_json(message)

    def weigh(self, message: Message) -> int:
        """Return how long the message is."""
        return len(_encode_json(message))

    def decode(self, payload: bytes, items_max: int = ITEMS_MAX) -> ClientMessage:
        """Decode and check what a client sent."""
        try:
            # Every value but the outermost follows one of these bytes, which are counted faster than values.
            if len(payload) > items_max and (
                payload.count(b",") + payload.count(b"[") + payload.count(b"{") >= items_max
            ):
                message = _counted(_decode_json(payload), items_max)
            else:
                message = self._decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise _explain(exc, payload, _decode_json) from None
        # Nesting cannot be deeper than the brackets there are, which are counted faster than walked.
        return _checked(message, shallow=payload.count(b"[") + payload.count(b"{") <= NESTING_MAX)


class MsgpackCodec:
    """The same messages as MessagePack in binary frames."""

    subprotocol = MSGPACK_SUBPROTOCOL
    is_text = False

    def __init__(self) -> None:
        self._decode = msgspec.msgpack.Decoder(ClientMessage).decode

    def encode(self, message: Message) -> bytes:
        """Encode one message; its documents are JSON text, so the whole goes through JSON."""
        return _encode_msgpack(_decode_json(_encode_json(message)))

    def weigh(self, message: Message) -> int:
        """Return how long the message is as JSON, and more for each item; a comma in a text counts as one, too."""
        text = _encode_json(message)
        return len(text) + ITEM_BYTES * text.count(b",")

    def decode(self, payload: bytes, items_max: int = ITEMS_MAX) -> ClientMessage:
        """Decode and check what a client sent."""
        try:
            if len(payload) > items_max:  # an item has a byte at least
                message = _counted(msgspec.msgpack.decode(payload), items_max)
            else:
                message = self._decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise _explain(exc, payload, msgspec.msgpack.decode) from None
        return _checked(message, shallow=False)


JSON: Final = JsonCodec()
MSGPACK: Final = MsgpackCodec()
CODECS: Final[dict[str, Codec]] = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}


def document(value: object) -> msgspec.Raw:
    """Freeze a plain JSON value as JSON text.

    Raises `ValueError` where JSON or MessagePack cannot say it.
    """
    check_document(value)
    return msgspec.Raw(_encode_json(value))


def check_document(value: object) -> None:
    """Raise `ValueError` unless both JSON and MessagePack can say `value`, nested at most 32 deep."""
    level: list[Any] = [value]
    for _ in range(NESTING_MAX):
        level = _inside(level)
        if not level:
            return
    if any(isinstance(item, CONTAINERS) for item in level):
        raise ValueError(f"nested deeper than {NESTING_MAX}")
    _inside(level)


def _inside(level: list[Any]) -> list[Any]:
    """Check what is equally deep, and return what is in it. No function is called for most items."""
    inside: list[Any] = []
    keys: set[type] = set()
    for item in level:
        kind: type = type(item)
        if kind not in PLAIN:
            kind = _plain(kind)
        if kind is dict:
            for key in item:
                keys.add(type(key))
            inside += item.values()
        elif kind is list:
            inside += item
        elif kind is int or kind is float:
            _check_number(item)
    if keys and not all(issubclass(key, str) for key in keys):
        raise ValueError("a map's key is not a string")
    return inside


def has_more_items(value: object, items_max: int) -> bool:
    """Tell whether a decoded `value` is more than `items_max` containers and values.

    It looks at no more than that many, however many there are.
    """
    level: list[Any] = [value]
    count = 1
    while level:
        maps = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        count += sum(map(len, maps)) + sum(map(len, lists))
        if count > items_max:
            return True
        level = list(chain.from_iterable(item.values() for item in maps))
        level += chain.from_iterable(lists)
    return False


def _check_number(number: Any) -> None:
    if not isinstance(number, float):
        if not INTEGER_MIN <= number <= INTEGER_MAX:
            raise ValueError(LONG_INTEGER)
    elif not math.isfinite(number):
        raise ValueError("a number is not finite")


def _plain(kind: type) -> type:
    """Return what a subclass is written as. Raises `ValueError` for what JSON cannot say."""
    for plain in PLAIN:
        if issubclass(kind, plain):
            return plain
    raise ValueError(f"JSON cannot say {kind.__name__}")


def _counted(fields: object, items_max: int) -> ClientMessage:
    """Return the message that decoded `fields` are, if it has no more items than it may."""
    if has_more_items(fields, items_max):
        text = f"the message has more than {items_max} containers and values"
        raise RequestError(ErrorCode.BAD_MESSAGE, text, request_id=_request_id(fields))
    message: ClientMessage = msgspec.convert(fields, ClientMessage)
    return message


def _checked(message: ClientMessage, *, shallow: bool) -> ClientMessage:
    """Replace the message's document by its JSON text, or refuse it.

    `shallow` documents came as JSON and cannot be nested too deeply: only their integers may be at fault.
    """
    field = DOCUMENT_FIELDS.get(type(message))
    if field is None:
        return message
    value = getattr(message, field)
    if value is None and isinstance(message, Join):  # it was left out; `data` may be null
        return message
    try:
        if shallow:
            _encode_msgpack(value)  # a faster look at every integer than a walk
        else:
            check_document(value)
    except (OverflowError, ValueError) as exc:
        detail = LONG_INTEGER if isinstance(exc, OverflowError) else str(exc)
        raise RequestError(
            ErrorCode.BAD_MESSAGE, f"{detail} - at `$.{field}`", request_id=message.id
        ) from None
    setattr(message, field, msgspec.Raw(_encode_json(value)))
    return message


def _explain(exc: Exception, payload: bytes, decode: Callable[[bytes], Any]) -> RequestError:
    """Say what is wrong with a message, with the `id` it bears where that can be read."""
    try:
        fields = decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        fields = None
    if not isinstance(fields, dict):
        detail = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        return RequestError(ErrorCode.BAD_MESSAGE, detail)
    request_id = _request_id(fields)
    kind = fields.get(TYPE_FIELD)
    if isinstance(kind, str) and kind not in CLIENT_TYPES:
        return RequestError(ErrorCode.UNKNOWN_TYPE, f"unknown type {kind[:32]!r}", request_id=request_id)
    return RequestError(ErrorCode.BAD_MESSAGE, str(exc), request_id=request_id)


def _request_id(fields: object) -> int | None:
    """Return the `id` of a message that is not one, where it has one that could be answered."""
    request_id = fields.get("id") if isinstance(fields, dict) else None
    if type(request_id) is not int or not 0 <= request_id <= REQUEST_ID_MAX:
        return None
    return request_id
