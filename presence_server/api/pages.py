"""The files of the operations dashboard, on the internal port: `/` and `/ops/…`.

They hold no data: what the dashboard shows it asks the HTTP API for, with the key where there is one.
"""

import hashlib
from importlib import resources
from mimetypes import guess_type
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from presence_server.api.problems import ProblemError

HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class DashboardPages:
    """The files, read once."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {}
        """Their bytes and types, by path."""
        for file in resources.files("presence_server").joinpath("static", "ops").iterdir():
            path = "/" if file.name == "index.html" else f"/ops/{file.name}"
            kind = (
                "text/javascript" if file.name.endswith(".js") else guess_type(file.name)[0] or "text/plain"
            )
            self._files[path] = file.read_bytes(), kind

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def answer(self, path: str, method: str, headers: Headers) -> Response:
        """Answer with a file. Raises `ProblemError` with 405."""
        if method not in {"GET", "HEAD"}:
            raise ProblemError(405, f"{path} can be read only", headers={"Allow": "GET, HEAD"})
        body, kind = self._files[path]
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        known = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
        if etag in known or "*" in known:
            return Response(None, 304, HEADERS | {"ETag": etag})
        return Response(body, 200, HEADERS | {"ETag": etag}, kind)
