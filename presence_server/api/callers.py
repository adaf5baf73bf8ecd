"""The callers of the internal port: those with a key or, without one, programs and the dashboard of this machine.

Without a key every web page that a browser of this machine shows could ask the port: by a name of its own that it has
resolved to 127.0.0.1 (DNS rebinding), or with a request that a browser sends without asking first (CSRF), also from
another port of this machine.
"""

import hmac
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers

from presence_server.api.problems import ProblemError
from presence_server.config.addresses import is_loopback

OWN_SITES: Final = frozenset(("same-origin", "none"))
"""`Sec-Fetch-Site` of a request by a page of the same origin, and of one by the user (Fetch Metadata, 2.3)."""
DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
READING: Final = frozenset(("GET", "HEAD"))
BLANKS: Final = " \t"
"""The white space around a header's value (RFC 9110, 5.5); any other character belongs to the key."""


def check_key(headers: Headers, keys: Sequence[str]) -> None:
    """Raise `ProblemError` for a request without one of the keys, which are compared as UTF-8."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    key = given.strip(BLANKS).encode("latin-1")  # Starlette decodes headers as ISO 8859-1
    right = [hmac.compare_digest(key, each.encode()) for each in keys]
    if scheme.lower() != "bearer" or not any(right) or len(headers.getlist("authorization")) > 1:
        bearer = {"WWW-Authenticate": "Bearer"}
        raise ProblemError(401, "Authorization: Bearer with api.key is needed", "unauthorized", bearer)


def check_same_origin(method: str, headers: Headers) -> None:
    """Raise `ProblemError` for a request under a name that is not of loopback, or from any page but the dashboard.

    Other pages may link to what is read: their scripts do not see what is shown.
    """
    host = headers.get("host", "").lower()
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if not is_loopback(name.strip("[]")) or not (port == "" or port.isdigit()):
        raise ProblemError(403, "without api.key this port is asked by a loopback address only")
    is_link = method in READING and headers.get("sec-fetch-mode") == "navigate"
    is_own_site = is_link or headers.get("sec-fetch-site", "none") in OWN_SITES
    if not is_own_site or not _is_same_origin(headers.get("origin"), host):
        raise ProblemError(403, "without api.key no web page but the dashboard may ask this port")


def _is_same_origin(origin: str | None, host: str) -> bool:
    """Tell whether a request comes from no page, or from one of the host that it is for."""
    if origin is None:
        return True
    scheme, _, authority = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and authority.removesuffix(port) == host.removesuffix(port)
