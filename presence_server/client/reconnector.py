"""Keeps a client connected: connects, receives, reconnects with resume, and enters its rooms again.

One task (`run`) owns the socket and is the only reader. It never waits for a consumer of events and never
writes, so neither a slow consumer nor a full send buffer can stop the reading.
"""

import logging
import math
import random
from typing import NamedTuple, TypeVar

import anyio
from anyio.abc import TaskGroup

from presence_server.client.dialer import Dialer
from presence_server.client.errors import (
    ClientClosed,
    ClientError,
    ConnectionEnded,
    ConnectionLost,
    ConnectionRefused,
    HandshakeRefused,
    ProtocolViolation,
)
from presence_server.client.events import Closed, Connected, Disconnected, Message
from presence_server.client.mailbox import Events
from presence_server.client.message_codec import Incoming, RosterPage, RosterSync
from presence_server.client.reconnect_backoff import STABLE_S, after_close, after_refusal, jittered
from presence_server.client.subscription import Subscription
from presence_server.client.subscriptions import Subscriptions
from presence_server.client.websocket_link import WebSocketLink
from presence_server.protocol.codes import (
    ABNORMAL,
    NORMAL,
    PROTOCOL_ERROR,
    REPLACED,
    TOKEN_EXPIRED,
    ErrorCode,
)
from presence_server.protocol.messages import (
    Auth,
    Bye,
    Count,
    Diff,
    Error,
    Ok,
    Pong,
    Published,
    Removed,
    Resume,
    Signal,
    Stale,
    Welcome,
)

WELCOME_DEADLINE_S = 10

R = TypeVar("R", Ok, RosterSync, RosterPage, Pong)
log = logging.getLogger(__name__)


class Parting(NamedTuple):
    """The end of an attempt or of a connection, and after how many seconds to try again (None: never)."""

    code: int | None
    reason: str
    retry_in: float | None
    error: ClientError


class Reconnector:
    """The life of one client, over any number of connections."""

    def __init__(self, dialer: Dialer, resume: str | None, events_max: int, tasks: TaskGroup) -> None:
        self.dialer = dialer
        self.resume_token = resume
        self.events = Events(events_max)
        self.subscriptions = Subscriptions(self.events, events_max, tasks)
        self.welcome: Welcome | None = None
        self.link: WebSocketLink | None = None
        self.ended: ClientError | None = None
        self._last_error: ClientError | None = None
        self._tasks = tasks
        self._changed = anyio.Event()
        self._connected_at = math.inf

    @property
    def cid(self) -> str:
        """The present connection's id, or the last one's; "" before the first welcome."""
        return "" if self.welcome is None else self.welcome.cid

    @property
    def failure(self) -> ClientError | None:
        """The error that ended the client, unless it was closed by its application."""
        return None if isinstance(self.ended, ClientClosed) else self.ended

    # --- the connection's life ---

    async def run(self) -> None:
        """Connect again and again until `close`, or the server says to stop, which cancels the task group."""
        attempt = 0
        while not self._is_over():
            self._connected_at = math.inf
            parting = await self._stay(attempt)
            if self._is_over():
                return
            self._last_error = parting.error
            if parting.retry_in is None:
                self._end(parting.error, parting.code, parting.reason)
                self._tasks.cancel_scope.cancel()
                return
            self.events.put(Disconnected(parting.code, parting.reason, parting.retry_in))
            attempt = self._failures(attempt) + 1
            await anyio.sleep(parting.retry_in)

    async def connected(self) -> WebSocketLink:
        """Wait for a connection; raises the error that the client ended with."""
        while self.link is None:
            if self.ended is not None:
                raise self.ended
            await self._changed.wait()
        return self.link

    async def first_connection(self, deadline_s: float | None) -> None:
        """Wait for the first connection; raises `ConnectionLost` when there is none in time."""
        with anyio.move_on_after(deadline_s):
            await self.connected()
        if self.link is None and self.ended is None:
            raise ConnectionLost(f"no connection within {deadline_s} s: {self._last_error}")

    async def close(self) -> None:
        """Close with 1000; every request from now on raises `ClientClosed`."""
        link = self.link
        if self.ended is None:
            self._end(ClientClosed("the client was closed"), NORMAL.code, "closed by this client")
        if link is not None:
            await link.close(NORMAL.code)

    async def _stay(self, attempt: int) -> Parting:
        """Connect and receive until the connection is over."""
        chance = random.random()  # noqa: S311  # spreads clients over time, hides nothing
        try:
            socket = await self.dialer.dial(self.resume_token)
        except HandshakeRefused as exc:
            return _refused(exc, attempt, chance)
        except OSError as exc:
            reason = f"{type(exc).__name__}: {exc}"
            return Parting(None, reason, jittered(attempt + 1, chance), ConnectionLost(reason))
        link = WebSocketLink(socket, self.dialer.codec)
        try:
            parting = await self._receive_all(link, attempt, chance)
            code = NORMAL.code
        except ProtocolViolation as exc:
            parting = Parting(PROTOCOL_ERROR.code, str(exc), None, exc)
            code = PROTOCOL_ERROR.code
        except BaseException:
            await self._leave(link, NORMAL.code, self.ended or ClientClosed("the client was cancelled"))
            raise
        await self._leave(link, code, self.ended or parting.error)
        return parting

    async def _receive_all(self, link: WebSocketLink, attempt: int, chance: float) -> Parting:
        bye: Bye | None = None
        with anyio.move_on_after(WELCOME_DEADLINE_S) as patience:
            while (message := await link.next_message()) is not None:
                if isinstance(message, Bye):
                    bye = message
                else:
                    self._dispatch_message(link, message)
                    patience.deadline = math.inf
        if patience.cancelled_caught:
            raise ProtocolViolation(f"no welcome within {WELCOME_DEADLINE_S} s")
        code, reason, reconnect_ms = link.close_code, link.close_reason, None
        if bye is not None:
            code = bye.code if code == ABNORMAL.code else code
            reason = reason or bye.reason
            reconnect_ms = bye.reconnect_ms if isinstance(bye.reconnect_ms, int) else None
        if code == REPLACED.code:
            self.resume_token = None
        retry_in = after_close(code, reconnect_ms, self._failures(attempt), chance)
        if code == TOKEN_EXPIRED.code and self.dialer.renews:
            retry_in = jittered(attempt + 1, chance)
        error = (
            ConnectionEnded(code, reason)
            if retry_in is None
            else ConnectionLost(f"closed with {code}: {reason}")
        )
        return Parting(code, reason, retry_in, error)

    async def _leave(self, link: WebSocketLink, code: int, error: ClientError) -> None:
        self.link = None
        self.subscriptions.disconnect()
        link.drop(error)
        with anyio.CancelScope(shield=True):
            await link.close(code)

    def _is_over(self) -> bool:
        return self.ended is not None

    def _failures(self, attempt: int) -> int:
        """Return how many failures came before this one, by a connection that held none."""
        return 0 if anyio.current_time() - self._connected_at >= STABLE_S else attempt

    def _end(self, error: ClientError, code: int | None, reason: str) -> None:
        self.ended = error
        quietly = isinstance(error, ClientClosed)
        self.events.put(Closed(code, reason))
        self.subscriptions.end(error, quietly=quietly)
        self.events.close(None if quietly else error)
        self._note()

    # --- what comes ---

    def _dispatch_message(self, link: WebSocketLink, message: Incoming) -> None:
        if self.link is None:
            if not isinstance(message, Welcome):
                raise ProtocolViolation(f"{type(message).__name__} before the welcome")
            self._greet(link, message)
            return
        match message:
            case Published(room=None):
                self.events.put(Message(None, message.cid, message.user, message.data, message.at))
            case Removed():
                self.subscriptions.remove(message.room, message.reason)
            case RosterSync() | RosterPage() | Diff() | Count() | Published() | Signal() | Stale():
                self.subscriptions.dispatch_message(link, message.room or "", message, self.cid)
            case Resume():
                self.resume_token = message.resume
            case Ok() | Pong():
                link.reply(message)
            case Error():
                self._take_error(link, message)
            case Welcome() | Bye():
                raise ProtocolViolation("a second welcome")

    def _take_error(self, link: WebSocketLink, error: Error) -> None:
        """Hand a refusal to its request, or take an error that answers none."""
        if isinstance(error.id, int):
            link.reply(error)
        elif error.code == ErrorCode.TOKEN_EXPIRED and self.dialer.renews:
            self._tasks.start_soon(self._renew, link)
        else:
            log.warning("refused without a request: %s: %s", error.code, error.message)

    async def _renew(self, link: WebSocketLink) -> None:
        """Bring fresh credentials, before those of this connection end."""
        try:
            token = await self.dialer.credentials()
            await link.request(Auth(token or ""), Ok)
        except (ClientError, OSError) as exc:  # the next connection brings others
            log.warning("the credentials were not renewed: %s", exc)

    def _greet(self, link: WebSocketLink, welcome: Welcome) -> None:
        self.welcome, self.resume_token = welcome, welcome.resume
        link.message_bytes_max = welcome.limits.get("message_bytes", 0)
        self.link = link
        self._connected_at = anyio.current_time()
        self.events.put(Connected(welcome.cid, welcome.user, welcome.resumed, welcome.node))
        self._note()
        self.subscriptions.enter_all(link)

    # --- what goes ---

    def present_link(self) -> WebSocketLink:
        """Return the connection that there is; raises `ConnectionLost`, or what the client ended with."""
        if self.link is None:
            raise self.ended or ConnectionLost("not connected")
        return self.link

    async def enter(self, subscription: Subscription) -> None:
        """Enter a room, over as many connections as it takes; wait for its roster. Raises `RequestFailed`."""
        while True:
            link = await self.connected()
            try:
                await self.subscriptions.enter(link, subscription)
            except ConnectionLost:
                continue
            break
        await subscription.complete()

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _refused(refusal: HandshakeRefused, attempt: int, chance: float) -> Parting:
    retry_in = after_refusal(refusal.status, refusal.retry_after, attempt, chance)
    error = ConnectionRefused(refusal.status, refusal.detail)
    return Parting(None, str(error), retry_in, error)
