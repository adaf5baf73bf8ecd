"""When a node is overloaded, and when it is no more."""

import asyncio

import pytest

from presence_server.edge.overload import WINDOW_S, Overload, Shedding

pytestmark = pytest.mark.anyio

BAR_MS = 100


def noted(*samples: tuple[float, float]) -> Overload:
    overload = Overload(asyncio.get_running_loop(), BAR_MS, lambda: 0.0)
    for delay_s, now_s in samples:
        overload.note_delay(delay_s, now_s)
    return overload


async def test_one_long_pause_is_no_overload() -> None:
    assert noted((5.0, 10.0), (0.01, 10.05)).sheds is Shedding.NOTHING
    assert noted((5.0, 10.0)).sheds is Shedding.NOTHING


async def test_handshakes_go_first_then_signals() -> None:
    above = BAR_MS / 1_000 + 0.001
    times = [10 + n * 0.05 for n in range(60)]
    levels = [noted(*((above, at) for at in times[: n + 1])).sheds for n in range(60)]
    assert levels == sorted(levels)
    assert levels[round(WINDOW_S / 0.05) - 1] is Shedding.NOTHING
    assert levels[round(WINDOW_S / 0.05) + 1] is Shedding.HANDSHAKES
    assert levels[-1] is Shedding.SIGNALS


async def test_one_sample_below_the_bar_ends_it() -> None:
    samples = [(1.0, 10 + n * 0.05) for n in range(60)]
    overload = noted(*samples)
    assert overload.sheds_handshake()
    assert overload.sheds_signal()
    overload.note_delay(BAR_MS / 1_000, 13.0)
    assert not overload.sheds_handshake()
    assert not overload.sheds_signal()
    assert (overload.handshakes_shed, overload.signals_shed) == (1, 1)
