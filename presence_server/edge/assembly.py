"""From frames to messages, and the signs of a client that sends none."""

from typing import Final

from websockets.frames import CONT, TEXT, Frame

CONTROL_FRAMES_MAX: Final = 100
CONTROL_WITHIN_MS: Final = 5_000
"""More control or empty frames than this within this time is a flood."""


class Assembly:
    """Puts the fragments of a message together; `ServerProtocol` has checked their order and total size."""

    __slots__ = ("_fragments", "_idle_frames", "_idle_since_ms", "_is_text")

    def __init__(self) -> None:
        self._fragments: bytearray | None = None
        self._is_text = False
        self._idle_frames = 0
        self._idle_since_ms = 0

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._fragments is not None

    def add(self, frame: Frame) -> tuple[bytes, bool] | None:
        """Take a data frame; return the message and whether it is text, if this frame ends one."""
        if frame.opcode is not CONT:
            if frame.fin:
                return bytes(frame.data), frame.opcode is TEXT
            self._fragments = bytearray(frame.data)
            self._is_text = frame.opcode is TEXT
            return None
        fragments = self._fragments
        if fragments is None:
            return None
        fragments += frame.data
        if not frame.fin:
            return None
        self._fragments = None
        return bytes(fragments), self._is_text

    def floods(self, now_ms: int) -> bool:
        """Count a frame that carries nothing; tell whether there were too many of them."""
        if now_ms - self._idle_since_ms > CONTROL_WITHIN_MS:
            self._idle_since_ms = now_ms
            self._idle_frames = 0
        self._idle_frames += 1
        return self._idle_frames > CONTROL_FRAMES_MAX
