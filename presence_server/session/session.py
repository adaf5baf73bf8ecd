"""One connection's conversation, from its welcome to its end."""

from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from presence_server.auth.identity import Identity
from presence_server.clock import Moment
from presence_server.errors import RequestError
from presence_server.hub.outbox import REQUEST_BYTES, Outbox
from presence_server.protocol.codes import ABUSE, CloseCode, Ending, ErrorCode
from presence_server.protocol.messages import Bye, ClientMessage, Join, Resume, Welcome
from presence_server.rooms.occupant import Membership, Occupant
from presence_server.session.pace import RULES
from presence_server.session.verbs import VERBS

if TYPE_CHECKING:
    from presence_server.session.directory import Directory
    from presence_server.throttle.algorithms import Tokens

DEFERRED_MAX: Final = 100
"""Requests that may wait for the answer to one join."""
STRIKES_MAX: Final = 20
STRIKES_WITHIN_MS: Final = 5_000
TOKEN_BYTES: Final = 32_768
"""So many bytes of rosters that a client asked for take one more token of its rate of messages."""
STRIKING: Final = frozenset((ErrorCode.BAD_MESSAGE, ErrorCode.THROTTLED))
"""Refusals that a client which listens does not go on to earn."""

log = structlog.get_logger()


def weight_bytes(message: ClientMessage) -> int:
    """Return what a message that waits is counted as."""
    fields = msgspec.structs.astuple(message)
    return REQUEST_BYTES + sum(len(field) for field in fields if isinstance(field, str | msgspec.Raw))


class Session(Occupant):
    """A connection that has been let in.

    The edge calls `receive` or `refuse_unread` for each message, and `end` once.
    """

    __slots__ = (
        "_bucket",
        "_queued",
        "_strikes",
        "arrival",
        "directory",
        "ended",
        "expires_ms",
        "opaque",
        "opened",
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
        returns: bool,
    ) -> None:
        super().__init__(
            cid, identity.user, identity.info, epoch, outbox, grants=identity.grants, returns=returns
        )
        self.directory = directory
        self._strikes: deque[int] | None = None
        self._bucket: Tokens | None = None
        self._queued: list[ClientMessage] | None = None
        """What came while the limiter decides about a message before it; None: it does not."""
        self.ended = False
        self.expires_ms = identity.expires_ms
        """When its credentials end, in ms since 1970; None: never."""
        self.opaque = identity.session
        """The opaque session that it was let in with; "": none."""
        self.opened = Moment.now(directory.clock)
        self.arrival = 0
        """Which of the resumes on this node it was: the later one wins, whatever the order of answers."""
        self.renew_at_ms = 0
        """When the resume token is renewed, in ms since 1970."""

    def welcome(self, *, resumed: bool) -> None:
        """Say who the client is: always the first message."""
        node = self.directory
        limits = node.limits
        self.outbox.send(
            Welcome(
                cid=self.cid,
                user=self.user,
                info=self.info,
                resumed=resumed,
                resume=node.resume_token(self),
                node=node.node,
                ping_ms=node.ping_ms,
                time=node.clock.wall_ms(),
                limits={
                    "message_bytes": limits.message_bytes,
                    "state_bytes": limits.state_bytes,
                    "info_bytes": limits.info_bytes,
                    "rooms": limits.rooms,
                },
            )
        )

    def receive(self, message: ClientMessage) -> None:
        """Do what a message asks, if it does not come too fast."""
        directory = self.directory
        directory.received[type(message)] += 1
        if directory.is_sampled():
            began_s = perf_counter()
            self._pace(message)
            directory.handling.observe(perf_counter() - began_s)
        else:
            self._pace(message)

    def refuse_unread(self, error: RequestError) -> None:
        """Refuse what is no message; it counts for its connection like one."""
        try:
            self._take_token()
        except RequestError as too_fast:
            self.refuse(too_fast, error.request_id)
        else:
            self.refuse(error, error.request_id)

    def _take_token(self) -> None:
        """Count a message for its connection, and the rosters that it was sent since the last one."""
        directory, outbox = self.directory, self.outbox
        now_us = directory.clock.now_ms() * 1_000
        if outbox.answered_bytes >= TOKEN_BYTES:
            tokens, outbox.answered_bytes = divmod(outbox.answered_bytes, TOKEN_BYTES)
            self._bucket = directory.pace.charge(self._bucket, tokens, now_us)
        self._bucket = directory.pace.take(self._bucket, now_us)

    def _pace(self, message: ClientMessage) -> None:
        """Count a message for its connection."""
        try:
            self._take_token()
        except RequestError as error:
            self.refuse(error, None if message.id is msgspec.UNSET else message.id)
        else:
            self._admit(message)

    def _admit(self, message: ClientMessage) -> None:
        """Count a message for its user where that is wanted; the order of messages stays."""
        if self._queued is not None:
            self.outbox.keep_request(weight_bytes(message))
            self._queued.append(message)
            return
        rule = RULES.get(type(message))
        if (
            rule is not None
            and self.directory.pace.counts(rule)
            and (type(message) is not Join or self._changes_state(message))
        ):
            self._queued = []
            self.directory.pace.decide(rule, self.user, partial(self._decided, message))
        else:
            self._carry_out(message)

    def _changes_state(self, join: Join) -> bool:
        """Tell whether a join is an update: of a member, with another state."""
        membership = self.memberships.get(join.room)
        if membership is None or not membership.you or join.state is msgspec.UNSET:
            return False
        return bool(membership.state != join.state)

    def _decided(self, message: ClientMessage, refusal: RequestError | None) -> None:
        queued, self._queued = self._queued or [], None
        if self.ended:
            return
        if refusal is None:
            self._carry_out(message)
        else:
            self.refuse(refusal, None if message.id is msgspec.UNSET else message.id)
        for later in queued:
            self.outbox.drop_request(weight_bytes(later))
            self._admit(later)

    def _carry_out(self, message: ClientMessage) -> None:
        request_id = None if message.id is msgspec.UNSET else message.id
        membership = self.memberships.get(getattr(message, "room", ""))
        if membership is not None and membership.deferred is not None:
            self._defer(membership, message, request_id)
            return
        try:
            VERBS[type(message)](self, message, request_id)
        except RequestError as error:
            self.refuse(error, request_id)
        except Exception:  # the boundary of a request: it fails alone
            log.exception("request failed", cid=self.cid, type=type(message).__name__)
            self.refuse(RequestError(ErrorCode.INTERNAL, "the server failed; its log has more"), request_id)

    def _defer(self, membership: Membership, message: ClientMessage, request_id: int | None) -> None:
        """Keep a request until the room has been entered, so that requests are carried out in their order."""
        if membership.deferred is not None and len(membership.deferred) < DEFERRED_MAX:
            self.outbox.keep_request(weight_bytes(message))
            membership.deferred.append(partial(self._carry_out_deferred, message))
        else:
            error = RequestError(ErrorCode.UNAVAILABLE, "too many requests wait for the room to be entered")
            self.refuse(error, request_id)

    def _carry_out_deferred(self, message: ClientMessage) -> None:
        self.outbox.drop_request(weight_bytes(message))
        if not self.ended:
            self._carry_out(message)

    def refuse(self, error: RequestError, request_id: int | None) -> None:
        """Answer with an error; a client that keeps being refused is closed."""
        super().refuse(error, request_id)
        self.directory.refusals[str(error.code)] += 1
        if error.code not in STRIKING:
            return
        now_ms = self.directory.clock.now_ms()
        if self._strikes is None:
            self._strikes = deque(maxlen=STRIKES_MAX)
        self._strikes.append(now_ms)
        if len(self._strikes) == STRIKES_MAX and now_ms - self._strikes[0] <= STRIKES_WITHIN_MS:
            self.close(ABUSE)

    def renew(self) -> None:
        """Send a fresh resume token if the last one has lived for half its time."""
        if self.directory.clock.wall_ms() >= self.renew_at_ms:
            self.outbox.send(Resume(self.directory.resume_token(self)))

    def close(self, code: CloseCode) -> None:
        """Close the connection from this side."""
        if self.outbox.wire is not None:
            self.outbox.wire.close(code)

    def say_bye(self, code: CloseCode, reconnect_ms: int | None = None) -> None:
        """Send the last message."""
        self.outbox.send(Bye(code.code, code.reason, msgspec.UNSET if reconnect_ms is None else reconnect_ms))

    def end(self, how: Ending) -> None:
        """Leave every room, each in its time; called when the connection is closing or lost."""
        if not self.ended:
            self.ended = True
            self.directory.remove(self)
            self.directory.linger(self, self.directory.rooms.disconnect(self, how))
