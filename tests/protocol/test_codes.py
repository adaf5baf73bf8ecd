"""The tables of error and close codes: complete, and what a range promises holds for each code in it."""

import pytest

from presence_server.protocol import codes
from presence_server.protocol.codes import (
    CLOSE_CODES,
    ERROR_MEANINGS,
    Advice,
    CloseCode,
    Ending,
    ErrorCode,
    advice,
    ending,
    ending_by_client,
)

ERRORS = [
    "bad_message",
    "unknown_type",
    "invalid_room",
    "forbidden",
    "unauthorized",
    "token_expired",
    "not_joined",
    "too_large",
    "too_many_rooms",
    "room_full",
    "throttled",
    "conflict",
    "unavailable",
    "internal",
]
CLOSES = {
    1000,
    1001,
    1002,
    1003,
    1005,
    1006,
    1007,
    1009,
    4000,
    4001,
    4003,
    4004,
    4008,
    4009,
    4010,
    4100,
    4101,
    4102,
    4200,
    4201,
}
REASON_BYTES_MAX = 123
"""RFC 6455, 5.5: a control frame has at most 125 bytes, and two of them are the code."""


def test_every_error_code_of_the_protocol_is_there_with_its_meaning() -> None:
    assert [str(code) for code in ErrorCode] == ERRORS
    assert list(ERROR_MEANINGS) == list(ErrorCode)
    assert all(ERROR_MEANINGS.values())


def test_every_close_code_of_the_protocol_is_there() -> None:
    assert set(CLOSE_CODES) == CLOSES
    defined = {value for value in vars(codes).values() if isinstance(value, CloseCode)}
    assert defined == set(CLOSE_CODES.values())


@pytest.mark.parametrize("entry", CLOSE_CODES.values(), ids=lambda entry: str(entry.code))
def test_a_close_code_has_a_reason_that_fits_a_close_frame(entry: CloseCode) -> None:
    assert CLOSE_CODES[entry.code] is entry
    assert 0 < len(entry.reason.encode()) <= REASON_BYTES_MAX
    assert entry.meaning


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1000, 1001, Advice.NOTHING),
        (1005, 1005, Advice.NOTHING),
        (1002, 1003, Advice.FIX),
        (1007, 1007, Advice.FIX),
        (1009, 1009, Advice.FIX),
        (1006, 1006, Advice.BACK_OFF),
        (1011, 1014, Advice.BACK_OFF),
        (4000, 4099, Advice.STOP),
        (4100, 4199, Advice.BACK_OFF),
        (4200, 4299, Advice.RECONNECT),
        (4300, 4999, Advice.BACK_OFF),
    ],
)
def test_the_range_says_what_a_client_should_do(first: int, last: int, expected: Advice) -> None:
    assert {advice(code) for code in range(first, last + 1)} == {expected}
    for code in CLOSE_CODES.keys() & set(range(first, last + 1)):
        assert CLOSE_CODES[code].advice is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1000, Ending.CLEAN), (1001, Ending.CLEAN), (1005, Ending.CLEAN),
        (1002, Ending.LOST), (1003, Ending.LOST), (1006, Ending.LOST), (1007, Ending.LOST),
        (1009, Ending.LOST),
        (4000, Ending.LOST),
        (4001, Ending.KICKED), (4003, Ending.KICKED), (4004, Ending.KICKED),
        (4008, Ending.KICKED), (4009, Ending.CLOSED),
        (4010, Ending.KEPT),
        (4100, Ending.LOST), (4101, Ending.LOST), (4102, Ending.LOST),
        (4200, Ending.LOST), (4201, Ending.LOST),
        (4999, Ending.LOST),
    ],
)  # fmt: skip
def test_what_becomes_of_the_memberships_follows_from_the_servers_code(code: int, expected: Ending) -> None:
    assert ending(code) is expected


@pytest.mark.parametrize("code", [*range(1000, 1016), *range(3000, 3010), *sorted(CLOSES), 4999])
def test_a_client_can_say_no_more_than_that_it_left(code: int) -> None:
    assert ending_by_client(code) is (Ending.CLEAN if code in {1000, 1001, 1005} else Ending.LOST)
