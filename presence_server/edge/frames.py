"""Messages as bytes on a WebSocket: encoded once, framed once, compressed once.

Frames from a server are not masked, so one frame serves every connection that has the same subprotocol; with
permessage-deflate too, as long as no context is taken over from frame to frame (RFC 7692, 7.1.1.1).
"""

import struct
from collections.abc import Sequence
from typing import Final

from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import BINARY, TEXT, Frame

from presence_server.protocol.codec import Codec
from presence_server.protocol.messages import Message

COMPRESS_FROM_BYTES: Final = 256
"""Shorter messages go uncompressed: deflate gains nothing on them."""
DEFLATE_WEIGHT: Final = 4
"""The weight of a compressed byte: to deflate takes up to fifty times as long as to encode."""
WINDOW_BITS: Final = 12
"""4 KiB of deflate window: messages are short, and 15 bits cost eight times the memory."""
_HEADER_16: Final = struct.Struct("!BBH")
_HEADER_64: Final = struct.Struct("!BBQ")
_COMPRESS_SETTINGS: Final = {"level": 6, "memLevel": 5}

DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
    compress_settings=_COMPRESS_SETTINGS,
)


class FrameEncoding:
    """Messages as frames of one subprotocol, compressed with a window of `deflate_bits` where it is given."""

    def __init__(self, codec: Codec, deflate_bits: int | None) -> None:
        self.codec = codec
        self._opcode = TEXT if codec.is_text else BINARY
        self._first_byte = 0x80 | self._opcode
        self._deflate: list[PerMessageDeflate] = []
        if deflate_bits is not None:
            self._deflate.append(
                PerMessageDeflate(
                    remote_no_context_takeover=True,
                    local_no_context_takeover=True,
                    remote_max_window_bits=WINDOW_BITS,
                    local_max_window_bits=deflate_bits,
                    compress_settings=_COMPRESS_SETTINGS,
                )
            )

    def encode(self, message: Message) -> bytes:
        """Encode and frame one message."""
        payload = self.codec.encode(message)
        size = len(payload)
        if self._deflate and size >= COMPRESS_FROM_BYTES:
            return Frame(self._opcode, payload).serialize(mask=False, extensions=self._deflate)
        # RFC 6455, 5.2: FIN and opcode, no mask, the length in 7, 16 or 64 bits. `Frame` takes four times as
        # long.
        if size < 126:
            return bytes((self._first_byte, size)) + payload
        if size < 65_536:
            return _HEADER_16.pack(self._first_byte, 126, size) + payload
        return _HEADER_64.pack(self._first_byte, 127, size) + payload

    def weigh(self, message: Message, data: bytes) -> int:
        """Return how many bytes of plain JSON cost as much as `data`, whose compressed length says nothing."""
        if self.codec.is_text and not self._deflate:
            return len(data)
        weight = self.codec.weigh(message)
        return weight * DEFLATE_WEIGHT if self._deflate and weight >= COMPRESS_FROM_BYTES else weight


class Encodings:
    """One encoding for each subprotocol and set of deflate parameters that clients have negotiated."""

    def __init__(self) -> None:
        self._encodings: dict[tuple[str, int | None], FrameEncoding] = {}

    def of(self, codec: Codec, extensions: Sequence[Extension]) -> FrameEncoding:
        """Return the encoding for a connection that has agreed on `extensions`."""
        bits = None
        for extension in extensions:
            if isinstance(extension, PerMessageDeflate):
                bits = extension.local_max_window_bits
        key = (codec.subprotocol, bits)
        encoding = self._encodings.get(key)
        if encoding is None:
            encoding = self._encodings[key] = FrameEncoding(codec, bits)
        return encoding
