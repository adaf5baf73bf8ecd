"""The PROXY protocol, versions 1 and 2: what a trusted proxy says before the first byte of its client.

Source: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt
"""

import ipaddress
from typing import Final, NamedTuple

V1_START: Final = b"PROXY "
V1_BYTES_MAX: Final = 107
"""The longest first line, its end included (section 2.1)."""
V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_HEAD_BYTES: Final = 16
V2_BYTES_MAX: Final = V2_HEAD_BYTES + 4_096
"""More than addresses and what proxies add to them take."""


class ProxyHeaderError(ValueError):
    """A trusted proxy has sent something else."""


class ProxyHeader(NamedTuple):
    """A parsed header: the client's address, None where a proxy speaks for itself, and the header's length."""

    source: str | None
    size: int


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of `data`; None: it is not complete. Raises `ProxyHeaderError`."""
    if data.startswith(V2_START):
        return _read_v2(data)
    if data.startswith(V1_START):
        return _read_v1(data)
    if V1_START.startswith(data[: len(V1_START)]) or V2_START.startswith(data[: len(V2_START)]):
        return None
    raise ProxyHeaderError("no PROXY header; see proxy.protocol")


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:V1_BYTES_MAX].partition(b"\r\n")
    if not end:
        if len(data) >= V1_BYTES_MAX:
            raise ProxyHeaderError("the PROXY line does not end")
        return None
    size = len(line) + 2
    fields = line.split(b" ")
    if fields[1:2] == [b"UNKNOWN"]:
        return ProxyHeader(None, size)
    if len(fields) != 6 or fields[1] not in {b"TCP4", b"TCP6"}:
        raise ProxyHeaderError("the PROXY line is malformed")
    try:
        address = ipaddress.ip_address(fields[2].decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("the PROXY line names no address") from None
    return ProxyHeader(str(address), size)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < V2_HEAD_BYTES:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    size = V2_HEAD_BYTES + int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1:
        raise ProxyHeaderError("a PROXY header of another version")
    if size > V2_BYTES_MAX:
        raise ProxyHeaderError("the PROXY header is too long")
    if len(data) < size:
        return None
    family = data[13] >> 4
    length = {1: 4, 2: 16}.get(family)
    if command == 0 or length is None:  # LOCAL, or neither IPv4 nor IPv6
        return ProxyHeader(None, size)
    if size < V2_HEAD_BYTES + 2 * length + 4:
        raise ProxyHeaderError("the PROXY header is too short for its addresses")
    address = data[V2_HEAD_BYTES : V2_HEAD_BYTES + length]
    return ProxyHeader(str(ipaddress.ip_address(address)), size)
