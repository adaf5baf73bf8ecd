"""The subprotocols, credentials and resume token of a request for a WebSocket, and the check of its origin."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol

from presence_server.auth.identity import Credentials
from presence_server.edge.request_parser import Request
from presence_server.edge.upgrade_refusals import HandshakeError, OriginError
from presence_server.protocol.codec import CODECS, JSON, Codec

WS_PATH: Final = "/ws"
PATH_TOLD_MAX: Final = 200
"""Characters of a path that a refusal repeats."""
BEARER: Final = "bearer."
RESUME: Final = "resume."
REFUSALS_CLOSE: Final = "refusals.close"
"""The entry of clients that cannot see a handshake's status: they are told every refusal with a close code."""
IN_LIST: Final = "add the origin to server.origins if its pages may connect"
SAME_HOST: Final = (
    "the page is not of the host that it connects to: a proxy must pass on Host with its port; "
    "else add the origin to server.origins"
)
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
LIST_ITEMS_MAX: Final = 64
"""The most items of a header that is a list: parsing an item costs more than a message does."""
LISTS: Final = {
    name.lower(): name
    for name in ("Connection", "Upgrade", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
}

FIELDS_MAX: Final = 32
"""The most fields of a query."""


def check_lists(request: Request) -> None:
    """Raise `HandshakeError` where a header has too many items to be parsed."""
    headers = request.headers
    for key, name in LISTS.items():
        values = headers.get(key)
        if values is None or (len(values) == 1 and len(values[0]) < LIST_ITEMS_MAX):
            continue  # a value of so many characters has one item more at most
        if sum(value.count(",") + value.count(";") + 1 for value in values) > LIST_ITEMS_MAX:
            raise HandshakeError(400, f"{name} has more than {LIST_ITEMS_MAX} items and parameters")


class SubprotocolOffer(NamedTuple):
    """The subprotocols of a request: `entries` are all of them, in the client's order.

    `subprotocol` is what the answer names; None where the client offered none that is known. `unknown` says that it
    offered others only. `closes` says that refusals are told with a close code.
    """

    entries: Sequence[str]
    codec: Codec
    subprotocol: str | None
    unknown: bool
    closes: bool


NO_OFFER: Final = SubprotocolOffer((), JSON, None, unknown=False, closes=False)


class UpgradeRequest(NamedTuple):
    """A request for a WebSocket: how it will speak, who it says it is, and what it continues."""

    offer: SubprotocolOffer
    credentials: Credentials
    resume: str | None


def read_offer(request: Request) -> SubprotocolOffer:
    """Read the subprotocols of a request. Raises `HandshakeError` with 400."""
    entries = offered_subprotocols(request)
    if not entries:
        return NO_OFFER
    named = [name for name in entries if name != REFUSALS_CLOSE and not name.startswith((BEARER, RESUME))]
    codecs = [CODECS[name] for name in named if name in CODECS]
    codec = codecs[0] if codecs else JSON
    closes = REFUSALS_CLOSE in entries
    # A browser fails a handshake whose answer names none of the entries that it offered.
    named_last = REFUSALS_CLOSE if closes else None
    return SubprotocolOffer(
        entries=entries,
        codec=codec,
        subprotocol=codec.subprotocol if codecs else named_last,
        unknown=bool(named) and not codecs,
        closes=closes,
    )


def read_upgrade_request(
    request: Request, offer: SubprotocolOffer, origins: Sequence[str], *, same_origin: bool = False
) -> UpgradeRequest:
    """Read a WebSocket request.

    `origins` are those that may connect, or `*`; none of them: any may, or, with `same_origin`, pages of the host
    that they connect to. Raises `HandshakeError` with 400, 403 or 404.
    """
    check_origin(request, origins, same_origin=same_origin)
    path, _ = split_target(request)
    if path != WS_PATH:
        logged = f"WebSockets are at {WS_PATH}"
        raise HandshakeError(404, f"{logged}, not at {path[:PATH_TOLD_MAX]}", logged=logged)
    fields = parse_query(request)
    query = {name: values[0] for name, values in fields.items()}
    if offer.unknown:
        raise HandshakeError(400, f"no subprotocol in common; there are {', '.join(CODECS)}")
    # In this order; the first place that has a token is the one that counts.
    places = (_bearers(request), _entries(offer.entries, BEARER), fields.get("token", []))
    tokens = next((found for found in places if found), [])
    credentials = Credentials(
        token=tokens[0] if tokens else None,
        user=query.get("user"),
        info=query.get("info"),
        repeated=len(tokens) > 1,
    )
    resume = next(iter(_entries(offer.entries, RESUME)), None) or query.get("resume")
    return UpgradeRequest(offer, credentials, resume)


def check_origin(request: Request, origins: Sequence[str], *, same_origin: bool) -> None:
    """Raise `HandshakeError` with 403 unless the page may connect; a client without `Origin` is no page."""
    found = request.headers.get_all("Origin")
    if not found or "*" in origins or not (origins or same_origin):
        return
    allowed = found[0].lower() in origins if origins else _is_same_origin(request, found[0])
    if len(found) > 1 or not allowed:
        raise OriginError(
            found[0], next(iter(request.headers.get_all("Host")), ""), IN_LIST if origins else SAME_HOST
        )


def _is_same_origin(request: Request, origin: str) -> bool:
    """Tell whether a page comes from the host that it connects to (RFC 6454, 5, but for the scheme).

    A proxy may have ended TLS, so the scheme is not known here; its default port is the page's.
    """
    hosts = request.headers.get_all("Host")
    try:
        page = urlsplit(origin.lower())
        here = urlsplit(f"//{hosts[0].lower()}" if len(hosts) == 1 else "")
        port = DEFAULT_PORTS.get(page.scheme)
        places = [(name.hostname, name.port or port) for name in (page, here)]
    except ValueError:
        return False
    return places[0] == places[1] and page.hostname is not None


def offered_subprotocols(request: Request) -> list[str]:
    """Return the subprotocols that the client offers, in its order."""
    try:
        return [
            name
            for value in request.headers.get_all("Sec-WebSocket-Protocol")
            for name in parse_subprotocol(value)
        ]
    except InvalidHeaderFormat as exc:
        raise HandshakeError(400, str(exc), logged="Sec-WebSocket-Protocol cannot be read") from None


def is_for_websocket(request: Request) -> bool:
    """Tell whether a request is for a WebSocket: by its path, or by asking for refusals as close codes."""
    return split_target(request)[0] == WS_PATH or any(
        REFUSALS_CLOSE in value for value in request.headers.get_all("Sec-WebSocket-Protocol")
    )


def split_target(request: Request) -> tuple[str, str]:
    """Return the path and the query of a request in origin form (RFC 9112, 3.2.1), which all of ours are."""
    path, _, query = request.path.partition("?")
    return path, query


def parse_query(request: Request) -> dict[str, list[str]]:
    """Return the query's fields, every value of each name."""
    query = split_target(request)[1]
    fields: dict[str, list[str]] = {}
    if query.count("&") >= FIELDS_MAX:
        raise HandshakeError(400, f"the query cannot be read: it has more than {FIELDS_MAX} fields")
    try:
        for pair in query.split("&"):
            if pair:
                name, _, value = pair.partition("=")
                fields.setdefault(_unquoted(name), []).append(_unquoted(value))
    except UnicodeDecodeError as exc:
        raise HandshakeError(400, f"the query cannot be read: {exc}") from None
    return fields


def _unquoted(text: str) -> str:
    """Return a name or value of a form (WHATWG URL, 5.1). Raises `UnicodeDecodeError`."""
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="strict") if "%" in text else text


def _bearers(request: Request) -> list[str]:
    split = (value.partition(" ") for value in request.headers.get_all("Authorization"))
    return [token.strip() for scheme, _, token in split if scheme.lower() == "bearer" and token.strip()]


def _entries(offered: Sequence[str], prefix: str) -> list[str]:
    return [name[len(prefix) :] for name in offered if name.startswith(prefix)]
