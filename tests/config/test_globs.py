"""Globs of room names."""

import time

import pytest

from presence_server.config.globs import compile_glob, valid_glob


@pytest.mark.parametrize(
    ("pattern", "room", "matches"),
    [
        ("*", "anything/at:all", True),
        ("news:*", "news:", True),
        ("news:*", "news:a/b:c", True),
        ("news:*", "olds:a", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a.c", "abc", False),
        ("a+", "aa", False),
        ("room", "rooms", False),
        ("room", "Room", False),
    ],
)
def test_star_is_any_text_and_question_mark_any_character(pattern: str, room: str, matches: bool) -> None:
    assert (compile_glob(pattern).match(room) is not None) is matches


@pytest.mark.parametrize("pattern", ["", "a b", "[a]", "a\n", "{room}", "é", "a" * 165, "!x", "a#"])
def test_what_no_room_can_be_called_is_no_glob(pattern: str) -> None:
    assert not valid_glob(pattern)
    with pytest.raises(ValueError, match="not a glob"):
        compile_glob(pattern)


def test_many_stars_cost_no_backtracking() -> None:
    glob = compile_glob("*a" * 80 + "b")
    began = time.process_time()
    assert glob.match("a" * 164) is None
    assert time.process_time() - began < 1.0
