"""One WebSocket handshake, from its request to its session or its refusal.

The order, so that no client makes a node do expensive checks faster than the limiter lets it:

1. the request itself: form, origin, room for one more;
2. a resume token's signature, which costs a hash and asks nobody, and how often its cid has resumed;
3. where both are right the credentials, then the limit `resume`; for every other client the limit `connect` first, and
   then the credentials.

So a client is identified before the limiter has counted it only if it holds a token of this server, at most
`RESUMES_PER_CID` times a minute for each cid; one whose credentials are another user's is counted under `connect`.
"""

from typing import TYPE_CHECKING, Final

from presence_server.auth.identity import Identity, IdentityError
from presence_server.edge.negotiation import Acceptance
from presence_server.edge.request_parser import Request
from presence_server.edge.upgrade_refusals import HandshakeError, OriginError
from presence_server.edge.upgrade_request import SubprotocolOffer, UpgradeRequest, read_upgrade_request
from presence_server.logs import FloodLog
from presence_server.protocol import codes
from presence_server.throttle.address import Address

if TYPE_CHECKING:
    from presence_server.edge.connection import Connection
    from presence_server.edge.listener import Listener
    from presence_server.edge.upgrade import Upgrade
    from presence_server.session.resume import ResumeClaim

_refused = FloodLog(__name__, "handshake refused")
_foreign = FloodLog(__name__, "page refused by its origin")
LOGGED_MAX: Final = 200
"""The number of characters that a log line repeats of what a client sent."""


class Opening:
    """Asks everybody who must agree, and tells the upgrade the result, once.

    Each question is answered at once or later on the loop; the next step waits for its turn.
    """

    __slots__ = (
        "_acceptance",
        "_address",
        "_claim",
        "_connection",
        "_identity",
        "_listener",
        "_request",
        "_resume",
        "_upgrade",
    )

    def __init__(
        self, upgrade: "Upgrade", connection: "Connection", listener: "Listener", acceptance: Acceptance
    ) -> None:
        self._upgrade = upgrade
        self._connection = connection
        self._listener = listener
        self._acceptance = acceptance
        self._address: Address | None = None
        self._request: UpgradeRequest | None = None
        self._claim: ResumeClaim | None = None
        self._identity: Identity | IdentityError | None = None
        self._resume: str | None = None
        """The token to resume with, unless it may not be used."""

    def begin(self, request: Request, offer: SubprotocolOffer, peer: Address | None) -> None:
        """Begin with a request that is an upgrade. Raises `HandshakeError` where nothing else can be told."""
        listener = self._listener
        addresses = listener.gate.addresses
        self._address = peer
        if peer is not None:
            self._address = addresses.client(peer, request.headers.get_all(addresses.header))
        try:
            self._request = read_upgrade_request(
                request, offer, listener.origins, same_origin=listener.same_origin
            )
            listener.check_room_for_one()
        except HandshakeError as error:
            log_refused_handshake(error, self._address)
            if not offer.closes:
                raise
            self._upgrade.refuse_with_close_code(self._acceptance, offer, error)
            return
        self._resume = self._request.resume
        claim = listener.directory.claim_of(self._resume)
        if claim is None:
            self._ask_gate()
        else:
            self._claim = claim
            listener.gate.count_resume(claim.cid, self._resume_counted)

    def _resume_counted(self, allowed: bool) -> None:
        """Ask about the credentials of a client that holds a token, unless its cid has resumed too often."""
        if allowed:
            self._connection.reader.take_step(self._identify)
        else:
            self._claim = self._resume = None
            self._connection.reader.take_step(self._ask_gate)

    def _ask_gate(self) -> None:
        """Ask the limiter."""
        resumes = self._claim is not None
        self._listener.gate.admit(self._address, resumes=resumes, done=self._admitted)

    def _admitted(self, refusal: HandshakeError | None, lease: str) -> None:
        if not self._connection.hold_lease(lease):
            return
        if refusal is not None:
            self._connection.reader.take_step(self._refuse, refusal)
        elif self._identity is None:
            self._connection.reader.take_step(self._identify)
        else:
            self._connection.reader.take_step(self._open)

    def _identify(self) -> None:
        """Ask who the credentials say that it is."""
        if self._request is not None:
            self._listener.authenticator.identify(self._request.credentials, self._identified)

    def _identified(self, identity: Identity | IdentityError) -> None:
        if isinstance(identity, IdentityError):
            identity.with_traceback(None)  # which leads back here: a cycle
        self._identity = identity
        claim = self._claim
        if claim is None:  # the limiter has been asked
            self._connection.reader.take_step(self._open)
            return
        if isinstance(identity, IdentityError) or identity.user != claim.user:
            self._claim = self._resume = None
        self._connection.reader.take_step(self._ask_gate)

    def _open(self) -> None:
        """Let the client in, if its credentials are good and it is not banned."""
        request, identity = self._request, self._identity
        if request is None or identity is None:
            return
        try:
            welcome = self._listener.welcome(identity)
        except HandshakeError as error:
            log_refused_handshake(error, self._address)
            self._refuse(error)
        else:
            self._upgrade.complete(self._acceptance, request.offer, welcome, self._resume)

    def _refuse(self, error: HandshakeError) -> None:
        """Refuse with a status, or so that a browser can read it."""
        request = self._request
        if request is None:
            return
        if request.offer.closes or (error.close is codes.THROTTLED and self._listener.gate.closes):
            self._upgrade.refuse_with_close_code(self._acceptance, request.offer, error)
        else:
            self._upgrade.refuse(error)


def log_refused_handshake(error: HandshakeError, address: Address | None) -> None:
    """Log that a handshake is refused and why, or count it for the next second's line."""
    client = "" if address is None else str(address)
    if isinstance(error, OriginError):
        places = {"origin": error.origin[:LOGGED_MAX], "host": error.host[:LOGGED_MAX]}
        _foreign.note(**places, reason=error.logged, address=client)
    else:
        _refused.note(status=error.status, reason=error.logged[:LOGGED_MAX], address=client)
