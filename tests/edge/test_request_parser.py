"""Requests, read as websockets reads them, whatever comes and in whatever pieces."""

from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.http11 import Request as LibraryRequest
from websockets.server import ServerProtocol

from presence_server.edge.negotiation import negotiate
from presence_server.edge.request_parser import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINE_BYTES_MAX,
    Headers,
    NoRequestError,
    Request,
    RequestParser,
    RequestTooLongError,
)
from presence_server.edge.upgrade_refusals import HandshakeError
from presence_server.edge.upgrade_request import FIELDS_MAX, parse_query
from tests.support.rawclient import request

PLAIN = request("/ws?user=ann", {"Cookie": "a=b", "X-Empty": ""})
LINES = PLAIN.split(b"\r\n")[:-2]
ODD = st.one_of(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"\r\n ", b":", b" ", b"\t", b"\x00", b"\x7f", b"\xff", b",", b"="]
    ),
    st.sampled_from(
        [b"13", b"Upgrade", b"keep-alive, upgrade", b"WebSocket", b"HTTP/1.0", b"POST", b"Origin: a"]
    ),
    st.sampled_from(
        [b"Transfer-Encoding: chunked", b"Content-Length: 0", b"Content-Length: 1", b"Sec-WebSocket-Key: "]
    ),
    st.binary(max_size=3),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Return a request in which a few things are left out, doubled, moved or replaced."""
    lines = draw(st.lists(st.sampled_from(LINES[1:]), max_size=8)) if draw(st.booleans()) else LINES[1:]
    head = bytearray(b"\r\n".join([LINES[0], *lines, b"", b""]))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(head)))
        head[at : draw(st.integers(at, min(at + 20, len(head))))] = draw(ODD)
    return bytes(head)


def parsed(head: bytes, pieces: list[int]) -> Request | None:
    """Return what is read of `head` when it comes in pieces; None: it is not complete."""
    parser, start = RequestParser(), 0
    for size in (*pieces, len(head)):
        found = parser.parse(head[start : start + size])
        if found is not None:
            return found[0]
        start += size
    return None


def parsed_by_library(head: bytes) -> LibraryRequest | None:
    """Return what websockets reads of it. Raises what its parser does."""
    protocol = ServerProtocol()
    protocol.receive_data(head)
    if protocol.handshake_exc is not None:
        raise protocol.handshake_exc
    events = [event for event in protocol.events_received() if isinstance(event, LibraryRequest)]
    return events[0] if events else None


@given(heads(), st.lists(st.integers(1, 50), max_size=5))
@example(PLAIN, [])
def test_a_request_is_read_as_the_library_reads_it(head: bytes, pieces: list[int]) -> None:
    try:
        read = parsed(head, pieces)
    except (NoRequestError, RequestTooLongError):
        read = None
    try:
        expected = parsed_by_library(head)
    except Exception:  # noqa: BLE001 - whatever its parser raises: it is no request
        expected = None
    if read is None:
        # Its request line may be stricter: the library takes any bytes for a method and a target.
        target = "" if expected is None else expected.method + expected.path
        assert (
            expected is None or not target.isprintable() or not expected.method.isalpha() or not expected.path
        )
        return
    assert expected is not None
    assert (read.method, read.path, read.protocol) == (expected.method, expected.path, expected.protocol)
    assert {name: read.headers.get_all(name) for name in read.headers} == {
        name.lower(): expected.headers.get_all(name) for name in expected.headers
    }


@given(heads())
@example(PLAIN)
@example(PLAIN.replace(b"Upgrade\r", b"keep-alive, Upgrade\r"))
def test_a_handshake_is_agreed_on_as_the_library_agrees(head: bytes) -> None:
    try:
        read, asked = parsed(head, []), parsed_by_library(head)
    except Exception:  # noqa: BLE001 - no request: see above
        return
    if read is None or asked is None:
        return
    response = ServerProtocol().accept(asked)
    expected: Any = response.status_code, response.headers.get("Sec-WebSocket-Accept")
    try:
        answer: Any = 101, negotiate(read, None).accept
    except HandshakeError as error:
        answer = error.status, None
    assert answer == expected


def test_what_follows_a_request_is_given_back() -> None:
    found = RequestParser().parse(PLAIN + b"more\r\n\r\n")
    assert found is not None
    assert found[1] == b"more\r\n\r\n"


@pytest.mark.parametrize("over", [0, 1])
def test_a_request_has_its_bounds(over: int) -> None:
    line = b"GET / HTTP/1.1\r\n"
    many = line + b"A: b\r\n" * (HEADERS_MAX + over) + b"\r\n"
    long = line + b"A: " + b"x" * (LINE_BYTES_MAX - 5 + over) + b"\r\n\r\n"
    unended = line + b"x" * (LINE_BYTES_MAX + over)
    for head, detail in (
        (many, "the request has more than 128 headers"),
        (long, "a line of the request is longer than 8192 bytes"),
        (unended, "a line of the request is longer than 8192 bytes"),
    ):
        if over:
            with pytest.raises(RequestTooLongError, match=detail):
                RequestParser().parse(head)
        else:
            assert (RequestParser().parse(head) is None) is (head is unended)
    filler = b"A: " + b"x" * (LINE_BYTES_MAX // 2 - 5) + b"\r\n"
    begun = (line + filler * 4)[: HEAD_BYTES_MAX + over]
    if over:
        with pytest.raises(RequestTooLongError, match="the request is longer than 16384 bytes"):
            RequestParser().parse(begun)
    else:
        assert RequestParser().parse(begun) is None


@pytest.mark.parametrize("header", ["Content-Length: 1", "Transfer-Encoding: chunked"])
def test_a_body_is_not_called_something_else(header: str) -> None:
    with pytest.raises(NoRequestError, match="a request on this port has no body"):
        RequestParser().parse(PLAIN.replace(b"X-Empty:", f"{header}\r\nX-Empty:".encode()))


@given(
    st.lists(
        st.sampled_from(["&", "&&", "=", "+", "%", "%41", "%c3%a9", "%ff", "%zz", "token", "user", ";"]),
        max_size=12,
    ).map("".join)
)
@example("&".join("a" * FIELDS_MAX))
@example("&".join("a" * (FIELDS_MAX + 1)))
def test_a_query_is_read_as_the_library_reads_it(query: str) -> None:
    try:
        expected: Any = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        expected = 400
    try:
        read: Any = parse_query(Request("GET", f"/ws?{query}", "HTTP/1.1", Headers()))
    except HandshakeError as error:
        read = error.status
    assert read == expected
