"""Files that a port serves to browsers: their types, their versions, and what a browser has of them already."""

import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from mimetypes import guess_type
from typing import Final, Self

TEXT_TYPES: Final = {"text/html", "text/css", "text/javascript"}
COMPRESSED_TYPES: Final = {*TEXT_TYPES, "image/svg+xml"}
READING: Final = frozenset(("GET", "HEAD"))
"""The methods by which files are read."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """The bytes of a file in one content coding, `""` or `gzip`; `etag` is the version of these bytes."""

    body: bytes
    content_type: str
    etag: str
    coding: str = ""

    @classmethod
    def from_bytes(cls, name: str, body: bytes) -> Self:
        """Return a file as it is."""
        # What the system thinks of .js differs.
        kind = (
            "text/javascript" if name.endswith(".js") else guess_type(name)[0] or "application/octet-stream"
        )
        charset = "; charset=utf-8" if kind in TEXT_TYPES else ""
        return cls(body, kind + charset, f'"{hashlib.sha256(body).hexdigest()[:16]}"')

    def compressed(self) -> "StaticFile | None":
        """Return the file compressed; None: its type is not worth it, or the result is not shorter."""
        if self.content_type.partition(";")[0] not in COMPRESSED_TYPES:
            return None
        shorter = gzip.compress(self.body, mtime=0)
        if len(shorter) >= len(self.body):
            return None
        return StaticFile(shorter, self.content_type, f'{self.etag[:-1]}-gzip"', "gzip")

    def is_known(self, if_none_match: Iterable[str]) -> bool:
        """Tell whether a client has this version, by its headers (RFC 9110, 13.1.2: lists, weakly compared, or `*`)."""
        known = ",".join(if_none_match).split(",")
        return any(each.strip().removeprefix("W/") in {self.etag, "*"} for each in known)
