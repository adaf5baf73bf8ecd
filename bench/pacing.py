"""Messages at a rate, each timed by itself."""

import time
from collections.abc import Callable


def numbered(number: int, size: int) -> bytes:
    """Return a text that no other message of a round has."""
    return b"%08d" % number + b"m" * (size - 8)


def until_s(begin_ns: int, number: int, rate: float) -> float:
    """Return how long it is until a message is due."""
    return (begin_ns + number * 1_000_000_000 / rate - time.perf_counter_ns()) / 1e9


def paced(carry: Callable[[bytes], None], messages: int, rate: float, size: int) -> list[float]:
    """Carry messages, so many a second; return how long each took, in µs. Who is late sends at once."""
    took_us = []
    begin_ns = time.perf_counter_ns()
    for number in range(messages):
        text = numbered(number, size)
        time.sleep(max(0, until_s(begin_ns, number, rate)))
        sent_ns = time.perf_counter_ns()
        carry(text)
        took_us.append((time.perf_counter_ns() - sent_ns) / 1e3)
    return took_us
