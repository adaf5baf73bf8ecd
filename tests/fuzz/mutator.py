"""Random bytes, and good ones that were changed at random; the same again from the same seed."""

import random
from collections.abc import Callable, Sequence
from typing import Final

INTERESTING: Final = (
    *(
        b"\x00",
        b"\xff",
        b"\x80",
        b"\x7f",
        b"\r\n",
        b"\r\n\r\n",
        b"%00",
        b"%",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
    ),
    *(b"-1", b"1e999", b"NaN", b"null", b"true", b"9007199254740993", b"18446744073709551616", b"\\ud800"),
    *(
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"..",
        b"/",
        b"?",
        b"&",
        b"=",
        b":",
        b" ",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
    ),
)
BYTES_MAX: Final = 40_000


class Mutator(random.Random):
    """Makes inputs out of a corpus of good ones."""

    def changed(self, corpus: Sequence[bytes]) -> bytes:
        """Return one of the corpus, as it is, changed in a few places, or nothing but random bytes."""
        kind = self.random()
        if kind < 0.05:
            return self.randbytes(self.randrange(200))
        data = bytearray(self.choice(corpus))
        if kind < 0.15:
            return bytes(data)
        for _ in range(self.choice((1, 1, 2, 4, 8))):
            self.choice(self._changes)(self, data, corpus)
        return bytes(data[:BYTES_MAX])

    def _place(self, data: bytearray) -> int:
        return self.randrange(len(data) + 1)

    def _flip(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        del corpus
        if data:
            data[self.randrange(len(data))] ^= 1 << self.randrange(8)

    def _insert(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        del corpus
        place = self._place(data)
        data[place:place] = self.choice(INTERESTING) * self.choice((1, 1, 1, 2, 50))

    def _remove(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        del corpus
        place = self._place(data)
        del data[place : place + self.randrange(1, 20)]

    def _repeat(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        del corpus
        place = self._place(data)
        data[place:place] = data[place : place + self.randrange(1, 50)] * self.choice((1, 1, 2, 200))

    def _splice(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        other = self.choice(corpus)
        data[self._place(data) :] = other[self.randrange(len(other) + 1) :]

    _changes: tuple[Callable[["Mutator", bytearray, Sequence[bytes]], None], ...] = (
        _flip,
        _insert,
        _remove,
        _repeat,
        _splice,
    )
