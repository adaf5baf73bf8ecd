"""Calls of the internal port, as commands make them."""

import http.client
import json
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

TIMEOUT_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 2**26
Answer = TypeVar("Answer")


class CallError(Exception):
    """A call that was not answered, or not with success; the text says why."""


class ApiClient:
    """Makes calls of the internal port at `url`. Raises `ValueError` for what is no http or https URL."""

    def __init__(self, url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f'"{url}" is no http:// or https:// URL')
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
        host, port = parts.hostname, parts.port
        self._connect: Callable[[], http.client.HTTPConnection] = lambda: (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )

    def call(
        self, answer: type[Answer], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """Make a call and return its answer, decoded as `answer`. Raises `CallError`."""
        status, reason, payload = self._ask(method, path, body)
        if status >= 400:
            raise CallError(f"{status}: {_detail(payload) or reason}")
        try:
            return msgspec.json.decode(payload, type=answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            what = f"it answered {status}, and {exc}"
            raise CallError(f"{self._url} is no presence-server, or one of another version: {what}") from None

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, str, bytes]:
        """Return the status of an answer, its reason, and its body."""
        headers = self._headers | ({"Content-Type": b"application/json"} if body is not None else {})
        payload = None if body is None else json.dumps(body).encode()
        try:
            with closing(self._connect()) as connection:
                connection.request(method, self._path + path, payload, headers)
                response = connection.getresponse()
                answer = response.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException, UnicodeError) as exc:  # UnicodeError: of a host or a path
            raise CallError(f"{self._url} cannot be asked: {str(exc) or type(exc).__name__}") from None
        if len(answer) > ANSWER_BYTES_MAX:
            raise CallError(f"{self._url} answered with more than {ANSWER_BYTES_MAX} bytes")
        return response.status, response.reason, answer


def read_key(file: str | None) -> str:
    """Return the first line of a file with `api.key`; "": there is no file. Raises `OSError` or `ValueError`."""
    if not file:
        return ""
    return re.split("[\r\n]", Path(file).read_bytes().decode(), maxsplit=1)[0].strip(" \t")


class _Problem(msgspec.Struct):
    """The part of a refusal that is shown (RFC 9457)."""

    detail: str


def _detail(payload: bytes) -> str:
    try:
        return msgspec.json.decode(payload, type=_Problem).detail
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
