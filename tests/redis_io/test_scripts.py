"""Which slot of a Cluster a call needs."""

import pytest

from presence_server.presence.redis import CLAIM
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Call, script_call, slot_of


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),  # the specification's own example
        ("{123456789}:members", 0x31C3),
        ("a{123456789}{b}", 0x31C3),
        ("{}123456789", slot_of("{}123456789")),
        ("{{123456789}}", slot_of("{123456789")),
    ],
)
def test_a_key_has_the_slot_of_its_tag(key: str, slot: int) -> None:
    assert slot_of(key) == slot


def test_a_key_with_empty_or_open_braces_has_the_slot_of_all_of_it() -> None:
    slots = {slot_of(key) for key in ("{}a", "{}b", "{a", "{b")}
    assert len(slots) == 4


def test_a_call_says_its_slot() -> None:
    room = Keys("ps").room("lobby")
    assert script_call(CLAIM, room, (1,)).slot == slot_of("lobby")
    assert Call(("GET", room[0])).slot == slot_of("lobby")
    assert script_call(CLAIM, [], (1,)).slot is None
    assert Call(("PUBLISH", "news", b"x")).slot is None


def test_a_call_with_keys_of_two_slots_is_refused_and_named() -> None:
    keys = Keys("ps")
    with pytest.raises(
        ValueError, match=r"claim is called with keys of several slots: ps:\{a\}:claim, ps:\{b\}"
    ):
        script_call(CLAIM, [keys.claim("a"), keys.claim("b")], ())
