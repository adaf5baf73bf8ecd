"""The request with which a client connects: its URL, credentials and subprotocols."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from presence_server.client.message_codec import MessageCodec

if TYPE_CHECKING:
    from ssl import SSLContext

    from presence_server.client.websocket import WebSocket

TokenSource = Callable[[], Awaitable[str]]
_is_header_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch


@dataclass
class Dialer:
    """Opens connections: everything that is the same for each attempt, but for the credentials, which may be renewed.

    `token` travels in the `Authorization` header and the resume token as a subprotocol, which keeps both out
    of URLs and so out of logs. Where it is a function, each connection asks it for a fresh one.
    """

    url: str
    codec: MessageCodec
    token: str | TokenSource | None
    headers: Mapping[str, str]
    ssl: "SSLContext | None"
    proxy: str | None

    @property
    def renews(self) -> bool:
        """Whether fresh credentials can be had without anybody bringing them."""
        return callable(self.token)

    async def credentials(self) -> str | None:
        """Return a token to use now. Raises `ConnectionError` where the function that gives them fails."""
        if not callable(self.token):
            return self.token
        try:
            return await self.token()
        except Exception as exc:
            raise ConnectionError(f"no token: {type(exc).__name__}: {exc}") from exc

    async def dial(self, resume: str | None) -> "WebSocket":
        """Connect. Raises `OSError`, or `HandshakeRefused` for an HTTP status."""
        from presence_server.client.websocket import open_websocket  # noqa: PLC0415 - see there

        subprotocols = [self.codec.subprotocol]
        if resume is not None:
            subprotocols.append(f"resume.{resume}")
        headers = dict(self.headers)
        token = await self.credentials()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await open_websocket(self.url, subprotocols, headers, self.ssl, self.proxy)


def address(url: str, user: str | None, info: Mapping[str, Any] | None) -> str:
    """Return `url` with the name and info of a client that names itself (`auth.mode = "none"`)."""
    parts = urlsplit(url)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError(f"not a ws:// or wss:// URL: {url!r}")
    query = parse_qsl(parts.query, keep_blank_values=True)
    if user is not None:
        query.append(("user", user))
    if info is not None:
        query.append(("info", msgspec.json.encode(info).decode()))
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote), fragment=""))


def check_resume(token: str) -> str:
    """Return a resume token that fits into a header; raises `ValueError` for anything else."""
    if not _is_header_token(token):
        raise ValueError("not a resume token")
    return token
