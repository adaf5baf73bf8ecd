"""Who a client is where it names itself, and where nothing can be checked."""

import json

import msgspec
import pytest

from presence_server.auth.anonymous import Anonymous
from presence_server.auth.identity import Credentials, IdentityError


@pytest.fixture
def anonymous() -> Anonymous:
    return Anonymous(info_bytes_max=100)


def test_a_client_is_who_it_says(anonymous: Anonymous) -> None:
    identity = anonymous.identify_unverified(Credentials(user="alice", info='{"name": "Alice"}'))
    assert identity.user == "alice"
    assert msgspec.json.decode(identity.info) == {"name": "Alice"}


def test_who_gives_no_name_is_a_guest(anonymous: Anonymous) -> None:
    names = {anonymous.identify_unverified(Credentials()).user for _ in range(50)}
    assert len(names) == 50
    for name in names:
        prefix, _, rest = name.partition("-")
        assert (prefix, len(rest)) == ("guest", 8)


def test_who_gives_no_info_has_an_empty_map(anonymous: Anonymous) -> None:
    assert msgspec.json.decode(anonymous.identify_unverified(Credentials(user="a")).info) == {}


@pytest.mark.parametrize(
    "user", ["a", "x" * 128, "\u00e9l\u00e9onore", "\U0001f680", "with space", "a/b?c=d&e"]
)
def test_what_can_be_a_name(anonymous: Anonymous, user: str) -> None:
    assert anonymous.identify_unverified(Credentials(user=user)).user == user


@pytest.mark.parametrize(
    ("given", "user"),
    [
        ("a ", "a"),
        (" a b ", "a b"),
        ("e\u0301", "\u00e9"),
        ("x" * 128 + " " * 10, "x" * 128),
        ("e\u0301" * 128, "\u00e9" * 128),
    ],
)
def test_a_name_is_taken_in_nfc_and_without_blanks_around_it(
    anonymous: Anonymous, given: str, user: str
) -> None:
    assert anonymous.identify_unverified(Credentials(user=given)).user == user


@pytest.mark.parametrize(
    "user", ["", " ", "\u3000", "\u0958" * 65, "x" * 129, "a\nb", "\x00", "\x7f", "\x85", "\ud800"]
)
def test_what_cannot_be_a_name(anonymous: Anonymous, user: str) -> None:
    with pytest.raises(IdentityError) as refused:
        anonymous.identify_unverified(Credentials(user=user))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "info",
    [
        "", "x", "[]", "1", "null", '"text"', "{", '{"a":NaN}', '{"a":1e999}', '{"a":1}}', "\ud800",
        '{"a":"\\ud800"}', json.dumps({"a": "x" * 100}), '{"a":' + "[" * 40 + "]" * 40 + "}",
        '{"a":' + "[" * 100_000, '{"a":' + "9" * 30 + "}",
    ],
)  # fmt: skip
def test_info_is_a_small_map_that_json_can_say(anonymous: Anonymous, info: str) -> None:
    with pytest.raises(IdentityError) as refused:
        anonymous.identify_unverified(Credentials(user="a", info=info))
    assert refused.value.status == 400


def test_info_of_exactly_the_limit_is_taken() -> None:
    info = json.dumps({"a": "x" * 92}, separators=(",", ":"))
    assert len(info) == 100
    assert bytes(Anonymous(100).identify_unverified(Credentials(info=info)).info) == info.encode()
    with pytest.raises(IdentityError):
        Anonymous(99).identify_unverified(Credentials(info=info))
