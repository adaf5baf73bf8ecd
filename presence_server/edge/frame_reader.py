"""Frames from a client: plain ones are read here, all others by websockets.

A *plain frame* is a whole message, a ping or a pong, masked and short, as almost every frame is. Whatever else a client
sends, such as fragments, a close frame or what breaks the rules, is for websockets' `ServerProtocol`, which then reads
that client's frames from there on. It is made when it is needed: most connections never have one, which takes 1.2 KiB
more for each connection and seven times as long for each frame.
"""

from collections.abc import Callable, Sequence
from typing import Final

from websockets.frames import BINARY, PING, PONG, TEXT, Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # a build without a C compiler
    from websockets.utils import apply_mask

FIN: Final = 0x80
MASKED: Final = 0x80
LENGTH_16: Final = 126
MASK_BYTES: Final = 4
CONTROLS: Final = frozenset((PING, PONG))
PING_FRAME: Final = Frame(PING, b"").serialize(mask=False)
CONTROL_BYTES_MAX: Final = 125
"""RFC 6455, 5.5."""
OPCODES: Final = {FIN | opcode: opcode for opcode in (TEXT, BINARY, PING, PONG)}
"""The opcodes of plain frames, by their first byte: it ends its message and has no reserved bit."""


class FrameReader:
    """Reads the frames of one client; `new_protocol` makes websockets' protocol for it."""

    __slots__ = (
        "_frame_bytes",
        "_message_bytes_max",
        "_new_protocol",
        "_partial_frame",
        "_to_send",
        "protocol",
    )

    def __init__(self, new_protocol: Callable[[], ServerProtocol], message_bytes_max: int) -> None:
        self._new_protocol = new_protocol
        self._message_bytes_max = message_bytes_max
        self._partial_frame = bytearray()
        """The part that has come of a plain frame, which is no longer than the longest message."""
        self._frame_bytes = 0
        """The length of that frame; 0: not known yet."""
        self._to_send: list[bytes] = []
        self.protocol: ServerProtocol | None = None
        """websockets' protocol, from the first frame that is not plain; None before."""

    @property
    def close_sent(self) -> bool:
        """Whether there is a close frame among what has been or is to be sent."""
        return self.protocol is not None and self.protocol.close_sent is not None

    def read(self, data: bytes) -> Sequence[Frame]:
        """Return the frames that `data` completes."""
        if self.protocol is not None:
            return self._read_by_protocol(self.protocol, data)
        if self._partial_frame:
            self._partial_frame += data
            if len(self._partial_frame) < self._frame_bytes:
                return ()
            data = bytes(self._partial_frame)
            self._partial_frame.clear()
        return self._read_plain(data)

    def _read_plain(self, data: bytes) -> Sequence[Frame]:
        frames: list[Frame] = []
        start, size = 0, len(data)
        while size - start >= 2:
            opcode = OPCODES.get(data[start])
            length = data[start + 1] - MASKED
            if opcode is None or not 0 <= length <= (CONTROL_BYTES_MAX if opcode in CONTROLS else LENGTH_16):
                break
            payload = start + 2 + MASK_BYTES
            if length == LENGTH_16:
                if size - start < 4:
                    return self._keep(frames, data[start:], 0)
                length = data[start + 2] << 8 | data[start + 3]
                payload += 2
            if length > self._message_bytes_max:
                break
            end = payload + length
            if end > size:
                return self._keep(frames, data[start:], end - start)
            unmasked = apply_mask(data[payload:end], data[payload - MASK_BYTES : payload])
            if opcode is PING:
                self._to_send.append(Frame(PONG, unmasked).serialize(mask=False))
            frames.append(Frame(opcode, unmasked))
            start = end
        else:
            return self._keep(frames, data[start:], 0)
        return [*frames, *self._read_by_protocol(self.start_protocol(), data[start:])]

    def _keep(self, frames: list[Frame], partial_frame: bytes, frame_bytes: int) -> list[Frame]:
        self._partial_frame += partial_frame
        self._frame_bytes = frame_bytes
        return frames

    def start_protocol(self) -> ServerProtocol:
        """Have websockets read from here on, if it does not yet."""
        if self.protocol is None:
            self.protocol = self._new_protocol()
            if self._partial_frame:
                self.protocol.receive_data(bytes(self._partial_frame))
                self._partial_frame.clear()
        return self.protocol

    @staticmethod
    def _read_by_protocol(protocol: ServerProtocol, data: bytes) -> Sequence[Frame]:
        protocol.receive_data(data)
        return [event for event in protocol.events_received() if isinstance(event, Frame)]

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, unless there was one."""
        protocol = self.start_protocol()
        if protocol.state is OPEN:
            protocol.send_close(code, reason)

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping; the client's pong has the payload."""
        if self.protocol is None:
            self._to_send.append(Frame(PING, payload).serialize(mask=False) if payload else PING_FRAME)
        else:
            self.protocol.send_ping(payload)

    def data_to_send(self) -> Sequence[bytes]:
        """Return what the WebSocket protocol itself has to say: pings, pongs, the close frame, the end."""
        if self.protocol is None and not self._to_send:
            return ()
        data, self._to_send = self._to_send, []
        return data if self.protocol is None else [*data, *self.protocol.data_to_send()]

    def receive_eof(self) -> None:
        """Note that nothing more comes."""
        if self.protocol is not None:
            self.protocol.receive_eof()

    def stop(self) -> None:
        """Break the cycles by which the protocol's generator and errors refer to it."""
        if self.protocol is not None:
            self.protocol.parser.close()
            self.protocol.parser_exc = None
