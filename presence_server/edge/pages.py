"""The pages of the client port: the demo page, the browser client, a health check."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from websockets.http11 import Response

from presence_server.edge.request_parser import Request
from presence_server.edge.upgrade_refusals import HandshakeError, respond
from presence_server.edge.upgrade_request import split_target
from presence_server.static_files import READING, StaticFile

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
VERSIONED: Final = re.compile(r"presence-\d+(\.classic)?\.js")
"""The browser client: other sites may load it, and its name changes with what its users see."""
VERSIONED_HEADERS: Final = (
    # A day, and not a year: a mistake that is mended without a new name must reach the browsers.
    ("Cache-Control", "public, max-age=86400, immutable"),
    ("Access-Control-Allow-Origin", "*"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
)
PAGE_HEADERS: Final = (("Cache-Control", "no-cache"),)


@dataclass(frozen=True, slots=True)
class Page:
    """A file, as it is served: as it is, and compressed where that is shorter."""

    plain: StaticFile
    compressed: StaticFile | None = None
    headers: tuple[tuple[str, str], ...] = PAGE_HEADERS


HEALTHY: Final = Page(StaticFile(b'{"status":"ok"}', "application/json", ""))


class Pages:
    """The files that come with the package, read once. `demo` says whether `/` is the demo page."""

    def __init__(self, *, demo: bool) -> None:
        self._pages: dict[str, Page] = {}
        static = resources.files("presence_server").joinpath("static")
        for path, file in (*_files(static, "/static"), *_files(static.joinpath("demo"), "/static/demo")):
            page = _read(file.name, file.read_bytes())
            if file.name != "index.html":
                self._pages[path] = page
            elif demo:
                self._pages["/"] = page

    def __contains__(self, path: str) -> bool:
        return path in self._pages

    def answer(self, request: Request) -> Response:
        """Answer a request that is not for a WebSocket; raise `HandshakeError` with 404 or 405."""
        path, _ = split_target(request)
        if path == "/healthz":
            page = HEALTHY
        elif path in self._pages:
            page = self._pages[path]
        else:
            raise HandshakeError(404, f"there is nothing at {path}")
        if request.method not in READING:
            raise HandshakeError(405, f"{path} can be read only", [("Allow", "GET, HEAD")])
        return _respond(page, request)


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    """Return the files in a folder, each with its path on the client port; `ops/` is for the internal port alone."""
    return ((f"{path}/{file.name}", file) for file in folder.iterdir() if file.is_file())


def _respond(page: Page, request: Request) -> Response:
    headers = [*page.headers, ("Content-Security-Policy", CONTENT_SECURITY_POLICY)]
    chosen = page.plain
    if page.compressed is not None:
        headers.append(("Vary", "Accept-Encoding"))
        if _accepts_gzip(request):
            chosen = page.compressed
    if chosen.coding:
        headers.append(("Content-Encoding", chosen.coding))
    if chosen.etag:
        headers.append(("ETag", chosen.etag))
        if chosen.is_known(request.headers.get_all("If-None-Match")):
            return respond(HTTPStatus.NOT_MODIFIED, chosen.content_type, b"", headers)
    response = respond(HTTPStatus.OK, chosen.content_type, chosen.body, headers)
    if request.method == "HEAD":
        response.body = b""
    return response


def _accepts_gzip(request: Request) -> bool:
    """Tell whether the client names gzip, or anything, as a coding that it takes (RFC 9110, 12.5.3)."""
    weights: dict[str, str] = {}
    for item in ",".join(request.headers.get_all("Accept-Encoding")).lower().split(","):
        coding, _, weight = item.partition(";")
        weights[coding.strip()] = weight.replace(" ", "")
    named = weights.get("gzip", weights.get("*"))
    return named is not None and re.fullmatch(r"q=0(\.0*)?", named) is None


@cache
def _read(name: str, body: bytes) -> Page:
    headers = VERSIONED_HEADERS if VERSIONED.fullmatch(name) else PAGE_HEADERS
    plain = StaticFile.from_bytes(name, body)
    return Page(plain, plain.compressed(), headers)
