"""docs/wire.md says what the code does."""

import json
import re
from itertools import takewhile
from typing import get_args

import msgspec
import pytest

from presence_server.config.setting_keys import KEYS
from presence_server.edge.assembly import (
    CONTROL_FRAMES_MAX,
    CONTROL_WITHIN_MS,
    FRAGMENTS_MAX,
    FRAGMENTS_WITHIN_MAX,
    FRAGMENTS_WITHIN_MS,
)
from presence_server.edge.frames import COMPRESS_FROM_BYTES
from presence_server.edge.listener import CLOSING_MS, TRICKLE_MS
from presence_server.hub.window import WINDOWS
from presence_server.protocol import codes
from presence_server.protocol.codec import JSON, NESTING_MAX
from presence_server.protocol.codes import CLOSE_CODES, ERROR_MEANINGS, CloseCode
from presence_server.protocol.messages import (
    TYPE_FIELD,
    ClientMessage,
    Diff,
    Member,
    MemberLeave,
    MemberUpdate,
    Message,
    Reason,
    ServerMessage,
    Sync,
)
from presence_server.rooms.participant import STRIKES_MAX, STRIKES_WITHIN_MS
from presence_server.rooms.rooms import SIGNAL_KEY_CHARS_MAX
from presence_server.rooms.view import UNCROWDED
from presence_server.rooms.watched_roster import SYNC_MEMBERS_MAX
from tests.docs.pages import PROJECT, code, read, rows, section

PAGE = read("docs/wire.md")
BY_CLIENTS = "## Client to server"
BY_SERVERS = "## Server to client"
FIELDS_HEAD = ["field", "type", ""]
MESSAGES: list[tuple[str, type[Message]]] = [
    *((BY_CLIENTS, kind) for kind in get_args(ClientMessage)),
    *((BY_SERVERS, kind) for kind in get_args(ServerMessage)),
]
EVERY_MESSAGE = pytest.mark.parametrize(
    ("side", "kind"), MESSAGES, ids=[kind.__name__ for _, kind in MESSAGES]
)
SOURCES = [
    path
    for path in (PROJECT / "presence_server").rglob("*.py")
    if path.name != "codes.py" and path.parent.name != "client"
]


def said_of(side: str, kind: type[Message]) -> str:
    return section(section(PAGE, side), f"### `{kind.__struct_config__.tag}`")


def fields_in(text: str) -> set[str]:
    """The names in the first column of the first table of fields."""
    head, *table = (cells for cells in rows(text))
    assert head == FIELDS_HEAD
    own = takewhile(lambda cells: len(cells) == len(FIELDS_HEAD) and cells != FIELDS_HEAD, table)
    return {name for cells in own for name in re.findall("`(.+?)`", cells[0])}


@EVERY_MESSAGE
def test_every_message_has_a_section_with_exactly_its_fields(side: str, kind: type[Message]) -> None:
    assert fields_in(said_of(side, kind)) == set(kind.__struct_fields__)


@EVERY_MESSAGE
def test_every_message_has_an_example_that_is_one(side: str, kind: type[Message]) -> None:
    (example,) = code(said_of(side, kind), "json")
    message: Message
    if side == BY_CLIENTS:
        message = JSON.decode(example.encode())
        assert isinstance(message, kind)
    else:
        message = msgspec.json.decode(example, type=kind)
    assert json.loads(JSON.encode(message)) == json.loads(example)


def test_the_page_has_no_other_messages() -> None:
    for side in (BY_CLIENTS, BY_SERVERS):
        sections = re.findall(r"^### `(\w+)`$", section(PAGE, side), re.MULTILINE)
        assert sections == [kind.__struct_config__.tag for where, kind in MESSAGES if where == side]
        examples = [json.loads(text)[TYPE_FIELD] for text in code(section(PAGE, side), "json")]
        assert examples == sections


def test_the_roster_entries_in_the_examples_are_complete() -> None:
    (sync,) = code(said_of(BY_SERVERS, Sync), "json")
    (member,) = json.loads(sync)["members"]
    assert set(member) == set(Member.__struct_fields__)
    (diff,) = code(said_of(BY_SERVERS, Diff), "json")
    entries = json.loads(diff)
    for name, kind in (("joins", Member), ("updates", MemberUpdate), ("leaves", MemberLeave)):
        assert [set(entry) for entry in entries[name]] == [set(kind.__struct_fields__)]


def test_every_field_of_a_roster_entry_is_told() -> None:
    assert set(Member.__struct_fields__) <= set(re.findall("`(.+?)`", said_of(BY_SERVERS, Sync)))
    told = {cells[0]: cells[1] for cells in rows(said_of(BY_SERVERS, Diff))}
    assert set(re.findall("`(.+?)`", told["`updates`"])) == set(MemberUpdate.__struct_fields__)
    assert set(re.findall("`(.+?)`", told["`leaves`"])) == set(MemberLeave.__struct_fields__)
    assert {f"`{reason}`" for reason in get_args(Reason)} <= told.keys()


def test_the_table_of_errors_is_that_of_the_code() -> None:
    _, *table = rows(section(PAGE, "## Errors"))
    assert table == [[f"`{code}`", meaning] for code, meaning in ERROR_MEANINGS.items()]


def test_the_table_of_close_codes_is_that_of_the_code() -> None:
    _, *table = rows(section(PAGE, "## Close codes"))
    assert table == [
        [str(entry.code), entry.reason, entry.meaning, entry.advice.value, entry.ending.value]
        for entry in CLOSE_CODES.values()
    ]


def used(name: str, but: str = "") -> bool:
    """Whether a source other than `but` has a word."""
    texts = (path.read_text(encoding="utf-8") for path in SOURCES if path.name != but)
    return any(re.search(rf"\b{name}\b", text) for text in texts)


def test_every_error_and_close_code_on_the_page_is_sent() -> None:
    assert [str(error) for error in ERROR_MEANINGS if not used(rf"ErrorCode\.{error.name}")] == []
    names = {entry.code: name for name, entry in vars(codes).items() if isinstance(entry, CloseCode)}
    assert [code for code, name in names.items() if code >= 4000 and not used(name, but="codes.py")] == []


def test_limits_on_the_page_are_those_of_the_code() -> None:
    limits = {what: (limit, over) for what, limit, over in rows(section(PAGE, "## Names and limits"))}
    assert limits["`key` of a signal"][0] == f"{SIGNAL_KEY_CHARS_MAX} characters"
    assert limits["one message, from its first byte to its last"][0] == f"{TRICKLE_MS // 1000} s"
    flood = f"{CONTROL_FRAMES_MAX} in {CONTROL_WITHIN_MS // 1000} s"
    assert limits["pings, pongs and empty fragments"][0] == flood
    assert limits["frames of one message"][0] == str(FRAGMENTS_MAX)
    fragments = f"{FRAGMENTS_WITHIN_MAX:,} in {FRAGMENTS_WITHIN_MS // 1000} s"
    assert limits["frames of messages in more than one frame"][0] == fragments
    assert f"{STRIKES_MAX} refusals with" in PAGE
    assert f"within {STRIKES_WITHIN_MS // 1000} s do" in PAGE
    assert f"The client has {CLOSING_MS // 1000} s to end its side" in PAGE
    assert f"nested at most {NESTING_MAX} deep" in PAGE
    assert f"the first {SYNC_MEMBERS_MAX} in mode" in PAGE
    assert f"messages below {COMPRESS_FROM_BYTES} bytes go uncompressed" in PAGE
    assert "nine tenths of `full_max`" in PAGE
    assert UNCROWDED == 0.9


def test_batching_windows_on_the_pages_are_those_of_the_code() -> None:
    text = section(read("docs/presence.md"), "## Sync, diff, conflation")
    assert list(rows(text))[1:] == [
        ["below 100", "none"],
        *(
            [f"from {members:,}", f"{wait} ms" if wait < 1000 else f"{wait // 1000} s"]
            for members, wait in WINDOWS[1:]
        ),
    ]
    assert "From 100 members on, two diffs are at least 50 ms apart" in re.sub(r"\s+", " ", PAGE)


@pytest.mark.parametrize("page", ["docs/wire.md", "docs/presence.md"])
def test_defaults_on_the_pages_are_those_of_the_settings(page: str) -> None:
    told = re.findall(r"`(\w+\.\w+)` \(([\d,]+)\)", read(page))
    for path, number in told:
        assert KEYS[path].default == int(number.replace(",", "")), path


def test_the_times_of_what_happens_when_follow_from_the_defaults() -> None:
    text = section(read("docs/presence.md"), "## What happens when")
    times = {key.name: key.default for key in KEYS.values() if key.section == "presence"}
    clean, lost, ping, silence = (
        int(str(times[name])) // 1000
        for name in ("grace_clean_ms", "grace_lost_ms", "ping_ms", "ping_timeout_ms")
    )
    assert f"`grace_clean_ms`: {clean} s" in text
    assert f"`grace_lost_ms`: {lost} s" in text
    assert f"{silence + lost} to {ping + silence + lost} s" in text
