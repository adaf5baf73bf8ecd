"""Assembly of frames into messages, and detection of clients that flood with frames that complete none."""

from typing import Final

from websockets.frames import CONT, TEXT, Frame

CONTROL_FRAMES_MAX: Final = 100
CONTROL_WITHIN_MS: Final = 5_000
"""More control or empty frames than this within this time is a flood."""
FRAGMENTS_MAX: Final = 128
"""Frames that one message may come in. Each costs what a short message costs, and no rate counts it."""
FRAGMENTS_WITHIN_MAX: Final = 1_000
FRAGMENTS_WITHIN_MS: Final = 5_000
"""More fragments than this within this time is a flood."""


class FrameRate:
    """Counts the frames of one kind that a connection sends in windows of a fixed length."""

    __slots__ = ("_began_ms", "_frames")

    def __init__(self) -> None:
        self._frames = 0
        self._began_ms = 0

    def exceeds(self, frames_max: int, within_ms: int, now_ms: int) -> bool:
        """Count one more frame; tell whether there are more than `frames_max` in this window."""
        if now_ms - self._began_ms > within_ms:
            self._began_ms = now_ms
            self._frames = 0
        self._frames += 1
        return self._frames > frames_max


class Assembly:
    """Puts the fragments of a message together; `ServerProtocol` has checked their order and total size."""

    __slots__ = ("_fragment_count", "_fragment_rate", "_fragments", "_idle_rate", "_is_text")

    def __init__(self) -> None:
        self._fragments: bytearray | None = None
        self._fragment_count = 0
        self._is_text = False
        self._idle_rate = FrameRate()
        self._fragment_rate = FrameRate()

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._fragments is not None

    def add_frame(self, frame: Frame) -> tuple[bytes, bool] | None:
        """Take a data frame; return the message and whether it is text, if this frame ends one."""
        if frame.opcode is not CONT:
            if frame.fin:
                return bytes(frame.data), frame.opcode is TEXT
            self._fragments = bytearray(frame.data)
            self._fragment_count = 1
            self._is_text = frame.opcode is TEXT
            return None
        fragments = self._fragments
        if fragments is None:
            return None
        fragments += frame.data
        self._fragment_count += 1
        if not frame.fin:
            return None
        self._fragments = None
        return bytes(fragments), self._is_text

    def has_too_many_fragments(self, now_ms: int) -> bool:
        """Count the fragment that `add_frame` has taken; tell whether its message or this time had too many."""
        return (
            self._fragment_rate.exceeds(FRAGMENTS_WITHIN_MAX, FRAGMENTS_WITHIN_MS, now_ms)
            or self._fragment_count > FRAGMENTS_MAX
        )

    def has_too_many_idle_frames(self, now_ms: int) -> bool:
        """Count a frame that carries nothing; tell whether there were too many of them."""
        return self._idle_rate.exceeds(CONTROL_FRAMES_MAX, CONTROL_WITHIN_MS, now_ms)
