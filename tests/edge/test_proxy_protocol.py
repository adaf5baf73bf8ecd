"""The PROXY protocol, from trusted peers alone."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.edge.proxy_protocol import ProxyHeaderError, read_proxy_header
from tests.support.properties import examples

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(source: str, *, command: int = 1, extra: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    family, zeros = (1, bytes(4)) if address.version == 4 else (2, bytes(16))
    body = address.packed + zeros + struct.pack("!HH", 1234, 80) + extra
    return V2 + bytes([0x20 | command, family << 4 | 1]) + struct.pack("!H", len(body)) + body


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (b"PROXY TCP4 1.2.3.4 10.0.0.1 1234 80\r\n", "1.2.3.4"),
        (b"PROXY TCP6 2001:db8::1 ::1 1234 80\r\n", "2001:db8::1"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n", None),
        (v2("1.2.3.4"), "1.2.3.4"),
        (v2("2001:db8::1", extra=b"\x04\x00\x01x"), "2001:db8::1"),
        (v2("1.2.3.4", command=0), None),
        (V2 + b"\x21\x00\x00\x00", None),
    ],
)
def test_a_header_is_read_however_it_arrives(header: bytes, source: str | None) -> None:
    for end in range(len(header)):
        assert read_proxy_header(header[:end]) is None
    assert read_proxy_header(header + b"GET / HTTP/1.1") == (source, len(header))


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 nobody 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY UDP4 1.2.3.4 10.0.0.1 1 2\r\n",
        V2 + b"\x11\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\xff\xff",
        V2 + b"\x21\x11\x00\x04" + bytes(4),
        V2 + b"\x22\x11\x00\x0c" + bytes(12),
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        read_proxy_header(header)


@given(data=st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: V2 + rest))
@examples(500)
def test_any_bytes_are_a_header_or_its_beginning_or_refused(data: bytes) -> None:
    try:
        header = read_proxy_header(data)
    except ProxyHeaderError:
        return
    assert header is None or header.size <= len(data)
