"""Delivery of frames to a session: messages are assembled, decoded and handed over, and floods are noticed."""

from typing import Final

from websockets.frames import CONT, PING, PONG, TEXT, Frame
from websockets.typing import BytesLike

from presence_server.clock import Clock
from presence_server.edge.assembly import Assembly
from presence_server.errors import RequestError
from presence_server.protocol import codes
from presence_server.protocol.codec import Codec
from presence_server.protocol.codes import CloseCode
from presence_server.session.session import Session

PROBE: Final = b"probe"
"""The payload of a ping that is to show that the client has this connection; others are empty."""


class FrameDispatch:
    """The frames of one client that was let in, but for close frames, as messages for its session."""

    __slots__ = ("_assembly", "_clock", "_codec", "_items_max", "session")

    def __init__(self, session: Session, codec: Codec, clock: Clock, items_max: int) -> None:
        self.session = session
        self._codec = codec
        self._clock = clock
        self._items_max = items_max
        self._assembly: Assembly | None = None
        """Made for the first client that needs it: most send every message in one frame."""

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._assembly is not None and self._assembly.incomplete

    def dispatch(self, frame: Frame) -> CloseCode | None:
        """Handle a frame; return the code to close with where its client must not go on."""
        opcode = frame.opcode
        if frame.fin and opcode is not CONT and opcode is not PING and opcode is not PONG:
            return self._dispatch_message(frame.data, is_text=opcode is TEXT)
        if self._assembly is None:
            self._assembly = Assembly()
        if opcode is PING or opcode is PONG or (opcode is CONT and not frame.data):
            # A frame without data is counted by no other limit.
            if self._assembly.has_too_many_idle_frames(self._clock.now_ms()):
                return codes.ABUSE
            if opcode is PONG and frame.data == PROBE:
                self.session.answer_probe()
            if opcode is not CONT:
                return None
        return self._dispatch_fragment(self._assembly, frame)

    def _dispatch_fragment(self, assembly: Assembly, frame: Frame) -> CloseCode | None:
        message = assembly.add_frame(frame)
        if assembly.has_too_many_fragments(self._clock.now_ms()):
            return codes.ABUSE
        if message is None:
            return None
        payload, is_text = message
        return self._dispatch_message(payload, is_text=is_text)

    def _dispatch_message(self, payload: BytesLike, *, is_text: bool) -> CloseCode | None:
        codec = self._codec
        if is_text is not codec.is_text:
            return codes.UNSUPPORTED
        if is_text:
            try:
                str(payload, "utf-8")
            except UnicodeDecodeError:
                return codes.INVALID_DATA
        try:
            message = codec.decode(bytes(payload), self._items_max)
        except RequestError as error:
            self.session.refuse_unread(error)
        else:
            self.session.receive_message(message)
        return None
