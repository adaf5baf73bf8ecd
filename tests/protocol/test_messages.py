"""Every message that the server sends has exactly the fields that the protocol lists, in both encodings."""

import json
from typing import Any, get_args

import msgpack
import msgspec
import pytest

from presence_server.protocol.codec import CLIENT_TYPES, JSON, MSGPACK, document
from presence_server.protocol.messages import (
    Bye,
    Count,
    Diff,
    Error,
    Member,
    MemberLeave,
    MemberUpdate,
    Message,
    Ok,
    Page,
    Pong,
    Published,
    Removed,
    Resume,
    ServerMessage,
    Signal,
    Stale,
    Sync,
    Welcome,
)

RAW = document({"a": [1]})
MEMBER = Member("c", "u", RAW, RAW, 1, 2)
CASES: list[tuple[Message, str]] = [
    (
        Welcome("c", "u", RAW, False, "r", "n", 1, 2, {"rooms": 1}),
        "t cid user info resumed resume node ping_ms time limits",
    ),
    (Ok(0), "t id"),
    (Ok(1, v=2), "t id v"),
    (Ok(1, at=2), "t id at"),
    (
        Sync("r", "full", False, 0, 0, 0, [], None, False),
        "t room mode you seq count users members cursor stale",
    ),
    (
        Sync("r", "none", True, 1, 1, 1, [MEMBER], "next", True, id=0),
        "t id room mode you seq count users members cursor stale",
    ),
    (Page("r", [], None, id=0), "t id room members cursor"),
    (Page("r", [MEMBER], "next"), "t room members cursor"),
    (Diff("r", 0, 0, 0), "t room seq count users"),
    (Diff("r", 1, 1, 1, joins=(MEMBER,)), "t room seq count users joins"),
    (
        Diff("r", 1, 1, 1, (MEMBER,), (MemberUpdate("c", RAW, 2),), (MemberLeave("c", "u", "left"),)),
        "t room seq count users joins updates leaves",
    ),
    (Count("r", 0, 0), "t room count users"),
    (Published("r", "c", "u", RAW, 1), "t room cid user data at"),
    (Published(None, None, None, document(None), 0), "t room cid user data at"),
    (Signal("r", "c", "u", "k", document(None)), "t room cid user key data"),
    (Removed("r", "kicked"), "t room reason"),
    (Stale("r", True), "t room stale"),
    (Stale("r", False), "t room stale"),
    (Pong(1), "t time"),
    (Pong(1, id=0), "t id time"),
    (Resume("r"), "t resume"),
    (Error("internal", "m"), "t code message"),
    (
        Error("conflict", "m", id=0, room="r", retry_after_ms=0, v=0),
        "t id code message room retry_after_ms v",
    ),
    (Bye(4200, "draining"), "t code reason"),
    (Bye(4200, "draining", reconnect_ms=0), "t code reason reconnect_ms"),
]


def both(message: Message) -> dict[str, Any]:
    """Encode a message in both encodings and return what both say."""
    text = json.loads(JSON.encode(message))
    assert msgpack.unpackb(MSGPACK.encode(message)) == text
    assert isinstance(text, dict)
    return text


@pytest.mark.parametrize(
    ("message", "fields"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_message_has_the_fields_of_the_protocol_and_no_other(message: Message, fields: str) -> None:
    assert sorted(both(message)) == sorted(fields.split())


def test_every_message_of_the_server_is_among_them() -> None:
    assert {type(message) for message, _ in CASES} == set(get_args(ServerMessage))
    names = {both(message)["t"] for message, _ in CASES}
    assert names == {
        "welcome", "ok", "sync", "page", "diff", "count", "message", "signal", "removed", "stale", "pong",
        "resume", "error", "bye",
    }  # fmt: skip


def test_a_client_may_send_nine_types() -> None:
    assert {
        "join",
        "watch",
        "leave",
        "update",
        "publish",
        "signal",
        "members",
        "ping",
        "auth",
    } == CLIENT_TYPES


def test_what_is_in_a_roster_has_its_fields() -> None:
    diff = both(
        Diff("r", 1, 1, 1, (MEMBER,), (MemberUpdate("c", RAW, 2),), (MemberLeave("d", "u", "kicked"),))
    )
    assert diff["joins"] == [
        {"cid": "c", "user": "u", "info": {"a": [1]}, "state": {"a": [1]}, "v": 1, "at": 2}
    ]
    assert diff["updates"] == [{"cid": "c", "state": {"a": [1]}, "v": 2}]
    assert diff["leaves"] == [{"cid": "d", "user": "u", "reason": "kicked"}]


def test_nothing_that_is_null_is_left_out_where_the_protocol_says_null() -> None:
    assert both(Sync("r", "full", True, 1, 0, 0, [], None, False))["cursor"] is None
    assert both(Page("r", [], None, id=1))["cursor"] is None
    sent = both(Published(None, None, None, document(None), 1))
    assert (sent["room"], sent["cid"], sent["user"], sent["data"]) == (None, None, None, None)


@pytest.mark.parametrize(("message", "_"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_client_built_on_the_same_structs_reads_what_was_sent(message: Message, _: str) -> None:
    read = msgspec.json.decode(JSON.encode(message), type=ServerMessage)
    assert type(read) is type(message)
    assert JSON.encode(read) == JSON.encode(message)
