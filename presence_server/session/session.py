"""One connection's conversation, from its welcome to its end."""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from presence_server.auth.identity import Identity
from presence_server.clock import Moment
from presence_server.errors import RequestError
from presence_server.hub.outbox import REQUEST_BYTES, Outbox
from presence_server.protocol.codes import CloseCode, Ending, ErrorCode
from presence_server.protocol.messages import Auth, Bye, ClientMessage, Join, Ping, Resume, Welcome
from presence_server.rooms.inbox import Awaited, LimiterDecision
from presence_server.rooms.participant import Participant
from presence_server.rooms.request import Request, RoomRequest
from presence_server.session.claims import Probe
from presence_server.session.message_rate import RULES
from presence_server.session.verbs import VERBS

if TYPE_CHECKING:
    from presence_server.session.directory import Directory
    from presence_server.throttle.algorithms import Tokens

WAITING_FOR_ROOM_MAX: Final = 100
"""Requests that may wait for the answer to one join."""
TOKEN_BYTES: Final = 32_768
"""Bytes of rosters that a client asked for that take one more token of its message rate limit."""

ROOMLESS: Final = (Ping, Auth)
"""Messages that are about no room."""

log = structlog.get_logger()


def weight_bytes(message: ClientMessage) -> int:
    """Return what a message that waits is counted as."""
    fields = msgspec.structs.astuple(message)
    return REQUEST_BYTES + sum(len(field) for field in fields if isinstance(field, str | msgspec.Raw))


class Session:
    """A connection that has been let in.

    The edge calls `receive_message` or `refuse_unread` for each message, and `leave_all_rooms` once.
    """

    __slots__ = (
        "_bucket",
        "arrival",
        "directory",
        "ended",
        "expires_ms",
        "opaque",
        "opened",
        "participant",
        "probe",
        "renew_at_ms",
    )

    def __init__(
        self,
        directory: "Directory",
        cid: str,
        identity: Identity,
        epoch: int,
        outbox: Outbox,
        *,
        was_elsewhere: bool,
        arrival: int = 0,
    ) -> None:
        self.participant = Participant(
            cid,
            identity.user,
            identity.info,
            epoch,
            outbox,
            grants=identity.grants,
            was_elsewhere=was_elsewhere,
            refusals=directory.refusal_counter,
        )
        self.directory = directory
        self._bucket: Tokens | None = None
        self.ended = False
        self.expires_ms = identity.expires_ms
        """The time at which the credentials end, in ms since 1970; None: never."""
        self.opaque = identity.session
        """The opaque session that it was let in with; "": none."""
        self.opened = Moment.now(directory.clock)
        self.arrival = arrival
        """The number of this resume on this node, 0: it is none; the later one wins, whatever the order of answers."""
        self.probe = Probe.UNSENT
        self.renew_at_ms = 0
        """The time at which the resume token is renewed, in ms since 1970."""

    @property
    def cid(self) -> str:
        """The connection id."""
        return self.participant.cid

    @property
    def user(self) -> str:
        """The user whose connection it is."""
        return self.participant.user

    def welcome(self, *, resumed: bool) -> None:
        """Send `welcome`, which is always the first message."""
        node, participant = self.directory, self.participant
        participant.outbox.send_message(
            Welcome(
                cid=participant.cid,
                user=participant.user,
                info=participant.info,
                resumed=resumed,
                resume=node.resume_token(self),
                node=node.node,
                ping_ms=node.ping_ms,
                time=node.clock.wall_ms(),
                limits=node.welcome_limits,
            )
        )

    def receive_message(self, message: ClientMessage) -> None:
        """Carry out what a message asks for, unless it comes too fast."""
        directory = self.directory
        directory.received[type(message)] += 1
        if directory.is_sampled():
            began_s = perf_counter()
            self._count(message)
            directory.handling.observe(perf_counter() - began_s)
        else:
            self._count(message)

    def refuse_unread(self, error: RequestError) -> None:
        """Refuse a payload that is no message; it counts against the rate limit like one."""
        try:
            self._take_token()
        except RequestError as too_fast:
            self.participant.refuse(too_fast, error.request_id)
        else:
            self.participant.refuse(error, error.request_id)

    def _take_token(self) -> None:
        """Count a message against its connection's rate limit, and the rosters that were sent since the last one."""
        directory, outbox = self.directory, self.participant.outbox
        now_us = directory.clock.now_ms() * 1_000
        if outbox.answered_bytes >= TOKEN_BYTES:
            tokens, outbox.answered_bytes = divmod(outbox.answered_bytes, TOKEN_BYTES)
            self._bucket = directory.message_rate.charge_tokens(self._bucket, tokens, now_us)
        self._bucket = directory.message_rate.count_message(self._bucket, now_us)

    def _count(self, message: ClientMessage) -> None:
        """Count a message against its connection's rate limit, and refuse it beyond."""
        request = self._request_of(message)
        try:
            self._take_token()
        except RequestError as error:
            request.refuse(error)
        else:
            self._admit_for_user(message, request)

    def _request_of(self, message: ClientMessage) -> Request:
        if isinstance(message, ROOMLESS):
            return Request(self.participant, message.id)
        return RoomRequest(self.participant, message.id, message.room)

    def _admit_for_user(self, message: ClientMessage, request: Request) -> None:
        """Count a message against its user's rate limit, where there is one; messages stay in order."""
        inbox = self.participant.inbox
        if inbox.is_held(LimiterDecision.PENDING):
            self._keep_request(
                LimiterDecision.PENDING, message, partial(self._admit_for_user, message, request)
            )
            return
        rule = RULES.get(type(message))
        if (
            rule is not None
            and self.directory.message_rate.counts_users(rule)
            and (not isinstance(message, Join) or self._changes_state(message))
        ):
            inbox.hold(LimiterDecision.PENDING)
            self.directory.message_rate.count_for_user(
                rule, self.user, partial(self._decided, message, request)
            )
        else:
            self._carry_out(message, request)

    def _changes_state(self, join: Join) -> bool:
        """Tell whether a join is an update: of a member, with another state."""
        membership = self.participant.memberships.get(join.room)
        if membership is None or not membership.is_member or join.state is None:
            return False
        return bool(membership.state != join.state)

    def _decided(self, message: ClientMessage, request: Request, refusal: RequestError | None) -> None:
        if self.ended:
            return
        carry_out = partial(self._carry_out, message, request)
        decided = carry_out if refusal is None else partial(request.refuse, refusal)
        self.participant.inbox.release(LimiterDecision.PENDING, first=decided)

    def _carry_out(self, message: ClientMessage, request: Request) -> None:
        """Carry out a request now, or when its room has been entered, so that requests keep their order."""
        if self.ended:
            return
        if isinstance(request, RoomRequest) and self.participant.inbox.is_held(request.room):
            self._wait_for_room(message, request)
            return
        try:
            VERBS[type(message)](self, message, request)
        except RequestError as error:
            request.refuse(error)
        except Exception:  # the boundary of a request: it fails alone
            log.exception("request failed", cid=self.cid, type=type(message).__name__)
            request.refuse(RequestError(ErrorCode.INTERNAL, "the server failed; its log has more"))

    def _wait_for_room(self, message: ClientMessage, request: RoomRequest) -> None:
        if self.participant.inbox.count(request.room) < WAITING_FOR_ROOM_MAX:
            self._keep_request(request.room, message, partial(self._carry_out, message, request))
        else:
            text = "too many requests wait for the room to be entered"
            request.refuse(RequestError(ErrorCode.UNAVAILABLE, text))

    def _keep_request(self, awaited: Awaited, message: ClientMessage, carry_out: Callable[[], None]) -> None:
        self.participant.inbox.keep(awaited, weight_bytes(message), carry_out)

    def renew_token(self) -> None:
        """Send a fresh resume token if the last one has lived for half its time."""
        if self.directory.clock.wall_ms() >= self.renew_at_ms:
            self.participant.outbox.send_message(Resume(self.directory.resume_token(self)))

    def send_probe(self) -> None:
        """Have the client show that it has this connection, once."""
        wire = self.participant.outbox.wire
        if self.probe is Probe.UNSENT and wire is not None:
            self.probe = Probe.SENT
            wire.probe()

    def answer_probe(self) -> None:
        """Take the client's answer to the probe."""
        if self.probe is Probe.SENT and not self.ended:
            self.probe = Probe.ANSWERED
            self.directory.claims.answer_probe(self)

    def close(self, code: CloseCode) -> None:
        """Close the connection from this side."""
        self.participant.close(code)

    def say_bye(self, code: CloseCode, reconnect_ms: int | None = None) -> None:
        """Send `bye`, which is always the last message."""
        self.participant.outbox.send_message(Bye(code.code, code.reason, reconnect_ms))

    def leave_all_rooms(self, how: Ending) -> None:
        """Leave every room, each in its time; called when the connection is closing or lost."""
        if not self.ended:
            self.ended = True
            self.directory.remove_session(self)
            self.directory.note_lingering(
                self, self.directory.rooms.endings.disconnect(self.participant, how)
            )
            self.participant.inbox.clear()
