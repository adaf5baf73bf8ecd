"""The files of the operations dashboard, on the internal port: `/` and `/ops/…`.

They hold no data: what the dashboard shows it asks the HTTP API for, with the key where there is one.
"""

from importlib import resources
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from presence_server.api.problems import ProblemError
from presence_server.static_files import READING, StaticFile

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
        self._files: dict[str, StaticFile] = {}
        """By path."""
        for file in resources.files("presence_server").joinpath("static", "ops").iterdir():
            path = "/" if file.name == "index.html" else f"/ops/{file.name}"
            self._files[path] = StaticFile.from_bytes(file.name, file.read_bytes())

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def answer(self, path: str, method: str, headers: Headers) -> Response:
        """Answer with a file. Raises `ProblemError` with 405."""
        if method not in READING:
            raise ProblemError(405, f"{path} can be read only", headers={"Allow": "GET, HEAD"})
        file = self._files[path]
        version = HEADERS | {"ETag": file.etag}
        if file.is_known(headers.getlist("if-none-match")):
            return Response(None, 304, version)
        return Response(file.body, 200, version, file.content_type)
