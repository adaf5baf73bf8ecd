"""The upgrade: from a connection's request to a page, a refusal, or the beginning of its session."""

from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.http11 import Response

from presence_server.auth.identity import Identity
from presence_server.edge.negotiation import Acceptance, negotiate
from presence_server.edge.opening import Opening, log_refused_handshake
from presence_server.edge.request_parser import Request, RequestParser, RequestTooLongError
from presence_server.edge.upgrade_refusals import HandshakeError
from presence_server.edge.upgrade_request import SubprotocolOffer, check_lists, is_for_websocket, read_offer

if TYPE_CHECKING:
    from presence_server.edge.connection import Connection
    from presence_server.edge.listener import Listener
    from presence_server.edge.reading import Item


class Stage(Enum):
    """The progress of an upgrade."""

    REQUEST = "its request is awaited"
    QUESTIONS = "the limiter and the authenticator are asked about it"
    REFUSED = "it was answered without an upgrade: nothing that follows is of interest"


class Upgrade:
    """One connection until its client is let in; then the connection lets go of it."""

    __slots__ = ("_connection", "_listener", "_request", "stage")

    def __init__(self, connection: "Connection", listener: "Listener") -> None:
        self._connection = connection
        self._listener = listener
        self._request = RequestParser()
        self.stage = Stage.REQUEST

    def parse_request(self, data: bytes) -> "list[Item]":
        """Return the request that `data` completes, and after it the bytes that wait for its answer."""
        if self.stage is Stage.REFUSED:
            return []
        try:
            parsed = self._request.parse(data)
        except HandshakeError as error:
            self._refuse_unparsed(error)
            return []
        if parsed is None:
            return []
        request, rest = parsed
        return [request, rest] if rest else [request]

    def answer_request(self, request: Request) -> None:
        """Answer a request with a page or a refusal, or begin to check whether its client may connect."""
        self._listener.note_request(self._connection)
        try:
            if is_for_websocket(request):
                self._begin(request)
            else:
                self._end_response(self._listener.pages.answer(request))
        except HandshakeError as error:
            self.refuse(error)

    def refuse(self, error: HandshakeError) -> None:
        """Answer with a refusal's status."""
        self._listener.handshakes[error.status] += 1
        self._end_response(error.response())
        self._connection.reader.drop_kept()

    def refuse_with_close_code(
        self, acceptance: Acceptance, offer: SubprotocolOffer, error: HandshakeError
    ) -> None:
        """Accept the upgrade of a client that cannot read a status, and close it with a close code."""
        self._listener.handshakes[error.status] += 1
        self._listener.note_answer(self._connection)
        self._connection.refuse_after_upgrade(acceptance, offer, error)

    def complete(
        self, acceptance: Acceptance, offer: SubprotocolOffer, identity: Identity, resume: str | None
    ) -> None:
        """Answer with the upgrade, and open the session."""
        self._listener.handshakes[HTTPStatus.SWITCHING_PROTOCOLS] += 1
        self._listener.note_answer(self._connection)
        self._connection.open_session(acceptance, offer, identity, resume)

    def _begin(self, request: Request) -> None:
        connection = self._connection
        try:
            check_lists(request)
            acceptance = negotiate(request, self._listener.extensions)
            offer = read_offer(request)
        except HandshakeError as error:
            log_refused_handshake(error, connection.address)
            raise
        self.stage = Stage.QUESTIONS
        Opening(self, connection, self._listener, acceptance).begin(request, offer, connection.address)

    def _end_response(self, response: Response) -> None:
        """Answer without an upgrade."""
        self.stage = Stage.REFUSED
        self._listener.note_answer(self._connection)
        self._connection.respond(response)

    def _refuse_unparsed(self, error: HandshakeError) -> None:
        """Answer bytes that are no request, or one that is too long, and read no more."""
        self.stage = Stage.REFUSED
        if isinstance(error, RequestTooLongError):
            self._listener.note_request(self._connection)
            self._listener.note_answer(self._connection)
            self._listener.handshakes[error.status] += 1
        self._connection.respond(error.response())
