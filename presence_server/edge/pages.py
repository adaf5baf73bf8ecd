"""The pages of the client port: the demo page, the browser client, a health check."""

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from mimetypes import guess_type
from typing import Final

from websockets.http11 import Request, Response

from presence_server.edge.refusals import HandshakeError, respond
from presence_server.edge.upgrade_request import split_target

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TEXT_TYPES: Final = {"text/html", "text/css", "text/javascript"}


@dataclass(frozen=True, slots=True)
class Page:
    """A file, as it is served."""

    content_type: str
    body: bytes
    etag: str


class Pages:
    """The files that come with the package, read once. `demo` says whether `/` is the demo page."""

    def __init__(self, *, demo: bool) -> None:
        self._pages: dict[str, Page] = {}
        for file in resources.files("presence_server").joinpath("static").iterdir():
            page = _read(file.name, file.read_bytes())
            if file.name != "index.html":
                self._pages[f"/static/{file.name}"] = page
            elif demo:
                self._pages["/"] = page

    def __contains__(self, path: str) -> bool:
        return path in self._pages

    def answer(self, request: Request) -> Response:
        """Answer a request that is not for a WebSocket; raise `HandshakeError` with 404 or 405."""
        path, _ = split_target(request)
        if path == "/healthz":
            page = Page("application/json", b'{"status":"ok"}', "")
        elif path in self._pages:
            page = self._pages[path]
        else:
            raise HandshakeError(404, f"there is nothing at {path}")
        if request.method not in {"GET", "HEAD"}:
            raise HandshakeError(405, f"{path} can be read only", [("Allow", "GET, HEAD")])
        return _respond(page, request)


def _respond(page: Page, request: Request) -> Response:
    headers = [("Cache-Control", "no-cache"), ("Content-Security-Policy", CONTENT_SECURITY_POLICY)]
    if page.etag:
        headers.append(("ETag", page.etag))
        if _is_known(page.etag, request):
            return respond(HTTPStatus.NOT_MODIFIED, page.content_type, b"", headers)
    response = respond(HTTPStatus.OK, page.content_type, page.body, headers)
    if request.method == "HEAD":
        response.body = b""
    return response


def _is_known(etag: str, request: Request) -> bool:
    """Tell whether the client has this version (RFC 9110, 13.1.2: a list, weakly compared, or `*`)."""
    values = ",".join(request.headers.get_all("If-None-Match")).split(",")
    return any(value.strip().removeprefix("W/") in {etag, "*"} for value in values)


def _read(name: str, body: bytes) -> Page:
    content_type = guess_type(name)[0] or "application/octet-stream"
    if name.endswith(".js"):
        content_type = "text/javascript"
    if content_type in TEXT_TYPES:
        content_type += "; charset=utf-8"
    return Page(content_type, body, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
