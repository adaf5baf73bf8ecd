"""The request that begins a connection, put together from the pieces in which it comes.

The only place that parses HTTP on the client port. It is as strict as websockets' own parser, which takes with its
end of the handshake eight times as long as this and `negotiation.py`: when a node is lost, all its clients send a
request elsewhere at once. RFC 9112, without what the client port has no use for, such as bodies and folded lines.
"""

import re
from typing import Final, NamedTuple

from presence_server.edge.upgrade_refusals import HandshakeError

HEAD_BYTES_MAX: Final = 16_384
"""The longest request, with its line and all its headers."""
LINE_BYTES_MAX: Final = 8_192
"""The longest line of it."""
HEADERS_MAX: Final = 128
"""The most headers that it may have."""

NAME: Final = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
REQUEST_LINE: Final = re.compile(rf"({NAME}) ([!-~]+) (HTTP/1\.[01])\r\n")
HEADER_LINE: Final = re.compile(rf"({NAME}):[\t ]*([\t -~\x80-\xff]*)\r\n")
"""RFC 9112, 5: a name is a token, followed by a colon at once; a value has no control characters."""


class NoRequestError(HandshakeError):
    """The client has sent something that is not HTTP, or a request with a body."""

    def __init__(self, detail: str = "this is not an HTTP/1.1 request") -> None:
        super().__init__(400, detail)


class RequestTooLongError(HandshakeError):
    """The client has sent more than a request may have."""

    def __init__(self, detail: str) -> None:
        super().__init__(431, detail)


class Headers(dict[str, list[str]]):
    """The values of each header, by its name in lower case; bytes that are not ASCII are read as ISO 8859-1."""

    def get_all(self, name: str) -> list[str]:
        """Return the values of a header, in their order; none: it is not there."""
        return self.get(name.lower(), [])


class Request(NamedTuple):
    """A request without a body. `path` is its target with the query, `protocol` its version of HTTP."""

    method: str
    path: str
    protocol: str
    headers: Headers


class RequestParser:
    """Parses one request."""

    __slots__ = ("_head_bytes", "_headers", "_headers_left", "_partial_line", "_request_line")

    def __init__(self) -> None:
        self._partial_line = b""
        """The line of which the end has not come."""
        self._head_bytes = 0
        """The length of the lines that have ended."""
        self._request_line: tuple[str, str, str] | None = None
        """Method, target and version of HTTP, once that line has come."""
        self._headers = Headers()
        self._headers_left = HEADERS_MAX

    def parse(self, data: bytes) -> tuple[Request, bytes] | None:
        """Return the request that `data` completes, and what follows it; None: it is not complete.

        Raises `NoRequestError` or `RequestTooLongError`; nothing more is parsed then.
        """
        if self._partial_line:
            data = self._partial_line + data
        start = 0
        while end := data.find(b"\n", start) + 1:
            self._head_bytes += end - start
            self._check_length(self._head_bytes, end - start)
            line = data[start:end]
            start = end
            if line != b"\r\n" or self._request_line is None:
                self._add(line.decode("iso-8859-1"))
            else:
                return self._request(self._request_line), data[end:]
        self._partial_line = data[start:]
        self._check_length(self._head_bytes + len(self._partial_line), len(self._partial_line))
        return None

    @staticmethod
    def _check_length(head_bytes: int, line_bytes: int) -> None:
        if head_bytes > HEAD_BYTES_MAX:
            raise RequestTooLongError(f"the request is longer than {HEAD_BYTES_MAX} bytes")
        if line_bytes > LINE_BYTES_MAX:
            raise RequestTooLongError(f"a line of the request is longer than {LINE_BYTES_MAX} bytes")

    def _add(self, line: str) -> None:
        """Add a line that is complete."""
        if self._request_line is None:
            found = REQUEST_LINE.fullmatch(line)
            if found is None:
                raise NoRequestError
            method, path, protocol = found.groups()
            self._request_line = method, path, protocol
            return
        found = HEADER_LINE.fullmatch(line)
        if found is None:
            raise NoRequestError
        if not self._headers_left:
            raise RequestTooLongError(f"the request has more than {HEADERS_MAX} headers")
        self._headers_left -= 1
        name, value = found.groups()
        self._headers.setdefault(name.lower(), []).append(value.rstrip("\t "))

    def _request(self, line: tuple[str, str, str]) -> Request:
        """Return the request, unless a body follows it (RFC 9112, 6)."""
        headers = self._headers
        if "transfer-encoding" in headers or set(headers.get_all("Content-Length")) - {"0"}:
            raise NoRequestError("a request on this port has no body")
        return Request(*line, headers)
