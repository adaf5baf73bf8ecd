"""Log lines, as a stream and as a terminal."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from presence_server import logs


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    token = "sesame"
    raise RuntimeError(f"failed with {len(token)} characters")


def test_a_line_is_one_json_object_with_level_and_time() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    structlog.get_logger("a").info("joined", room="r\n1")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "joined", "level": "info", "logger": "a", "room": "r\n1"}


def test_the_standard_library_goes_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    logging.getLogger("asyncio").warning("slow %d", 3)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("slow 3", "warning", "asyncio")


def test_what_repeats_for_every_connection_is_left_out() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    for name in logs.QUIET:
        logging.getLogger(name).info("GET /ws?token=sesame")
    logging.getLogger("x").debug("not this")
    structlog.get_logger("y").debug("nor this")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["stream", "terminal"])
def test_a_traceback_shows_no_local_variables(stream: io.StringIO) -> None:
    logs.configure(stream)
    log = structlog.get_logger("a")
    try:
        fail()
    except RuntimeError:
        log.exception("broke")
        logging.getLogger("b").exception("broke")
    text = stream.getvalue()
    assert text.count("RuntimeError: failed with 6 characters") == 2
    assert text.replace('token = "sesame"', "").count("sesame") == 0


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    logs.configure(stream)
    structlog.get_logger("a").info("joined", room="r")
    assert "joined" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_configuring_twice_writes_each_line_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(first)
    logs.configure(second)
    structlog.get_logger("a").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_a_flood_is_one_line_a_second_with_a_count() -> None:
    stream = io.StringIO()
    logs.configure(stream)
    flood = logs.FloodLog("some.module", "refused")
    for number in range(100):
        flood.note(number=number)
    assert [line["number"] for line in lines(stream)] == [0]
    flood.next_second()
    flood.note(number=100)
    flood.next_second()
    flood.next_second()
    flood.note(number=101)
    told = [(line["number"], line.get("times", 1)) for line in lines(stream)]
    assert told == [(0, 1), (99, 99), (100, 1), (101, 1)]
    assert {line["logger"] for line in lines(stream)} == {"some.module"}


@pytest.mark.parametrize(("level", "events"), [("info", [1, 2, 3]), ("warning", [2, 3]), ("error", [3])])
def test_lines_below_the_level_are_not_written(level: Any, events: list[int]) -> None:
    stream = io.StringIO()
    logs.configure(stream, level=level)
    logger = structlog.get_logger("a")
    logger.info(1)
    logger.warning(2)
    logging.getLogger("b").error("3")
    assert [int(line["event"]) for line in lines(stream)] == events
    logs.set_level("error")
    logger.warning(4)
    assert len(lines(stream)) == len(events)


def test_the_form_can_be_chosen_against_the_kind_of_stream() -> None:
    for stream, form, is_json in ((Terminal(), "json", True), (io.StringIO(), "text", False)):
        logs.configure(stream, form=form)  # type: ignore[arg-type]  # of a tuple
        structlog.get_logger("a").info("joined")
        assert stream.getvalue().startswith("{") is is_json


def test_lines_of_a_worker_have_its_number() -> None:
    stream = io.StringIO()
    logs.configure(stream, worker=3)
    structlog.get_logger("a").info("joined")
    logging.getLogger("b").warning("slow")
    assert [line["worker"] for line in lines(stream)] == [3, 3]
