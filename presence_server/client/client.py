"""One client, and `connect`, which makes it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio

from presence_server.client.dialer import Dialer, TokenSource, address, check_resume
from presence_server.client.errors import RequestFailed
from presence_server.client.events import Event
from presence_server.client.mailbox import EVENTS_MAX, Mailbox
from presence_server.client.message_codec import Encoding, MessageCodec
from presence_server.client.reconnector import Reconnector
from presence_server.client.room import Room
from presence_server.protocol.codec import check_document
from presence_server.protocol.messages import Auth, Mode, Ok, Ping, Pong

if TYPE_CHECKING:
    from ssl import SSLContext

FIRST_CONNECTION_S = 30.0


class Client:
    """A connection to a presence server that comes back by itself.

    Iterating gives every event: the connection's (`Connected`, `Disconnected`, `Closed`), those of all rooms,
    and messages to this user. As with rooms, an iteration goes on where the last one stopped.
    """

    def __init__(self, reconnector: Reconnector) -> None:
        self._reconnector = reconnector

    @property
    def cid(self) -> str:
        """The connection's id; it changes when a reconnect comes too late to resume."""
        return self._reconnector.cid

    @property
    def user(self) -> str:
        """The user of this client, as the server says."""
        welcome = self._reconnector.welcome
        return "" if welcome is None else welcome.user

    @property
    def resumed(self) -> bool:
        """Whether the present (or last) connection goes on under the cid of an earlier one."""
        welcome = self._reconnector.welcome
        return welcome is not None and welcome.resumed

    @property
    def node(self) -> str:
        """The server process that this is connected to, or was last."""
        welcome = self._reconnector.welcome
        return "" if welcome is None else welcome.node

    @property
    def limits(self) -> Mapping[str, int]:
        """The server's limits, as in its welcome."""
        welcome = self._reconnector.welcome
        return {} if welcome is None else welcome.limits

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._reconnector.link is not None

    @property
    def resume_token(self) -> str | None:
        """The token with which `connect(..., resume=)` goes on elsewhere. A secret, replaced now and then."""
        return self._reconnector.resume_token

    async def join(self, room: str, *, state: dict[str, Any] | None = None, mode: Mode | None = None) -> Room:
        """Become a member of `room`; return it once its roster is complete.

        Waits for a connection if there is none, and asks again on the next one if this one ends. Joining a
        room again with another state is an update, without a state changes nothing of it. Raises
        `RequestFailed`, and `ValueError` for a state that JSON cannot say.
        """
        check_document(state)
        return await self._enter(room, joining=True, state=state, mode=mode)

    async def watch(self, room: str, *, mode: Mode | None = None) -> Room:
        """Receive what happens in `room` without appearing in it; otherwise like `join`.

        In a room that was joined it changes the mode, and the membership stays.
        """
        return await self._enter(room, joining=False, state=None, mode=mode)

    async def ping(self) -> float:
        """Return the round trip time of one request, in seconds."""
        # Not the loop's clock: uvloop's counts whole milliseconds.
        started = perf_counter()
        await self._reconnector.present_link().request(Ping(), Pong)
        return perf_counter() - started

    async def authenticate(self, token: str) -> None:
        """Replace the credentials before they end; reconnects use the new ones from now on."""
        self._reconnector.dialer.token = token
        await self._reconnector.present_link().request(Auth(token), Ok)

    async def close(self) -> None:
        """Close the connection with 1000; iterations end, requests from now on raise `ClientClosed`."""
        await self._reconnector.close()

    def events(self) -> AbstractContextManager[Mailbox]:
        """Open a queue of its own for one more consumer of every event."""
        return self._reconnector.events.open()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._reconnector.events.main

    def __repr__(self) -> str:
        return f"<Client {self.user!r} {self.cid}>"

    async def _enter(
        self, name: str, *, joining: bool, state: dict[str, Any] | None, mode: Mode | None
    ) -> Room:
        subscriptions = self._reconnector.subscriptions
        known = subscriptions.get(name)
        subscription = known or subscriptions.add(name)
        before = (subscription.joining, subscription.mode)
        subscription.joining = joining or subscription.joining
        subscription.mode = mode or subscription.mode
        if state is not None:
            subscription.state = state
        try:
            await self._reconnector.enter(subscription)
        except BaseException as exc:
            if known is None:
                subscriptions.forget(subscription, self._reconnector.link if subscription.syncs else None)
            elif isinstance(exc, RequestFailed):
                subscription.joining, subscription.mode = before
                subscription.refuse(state)
            raise
        return Room(self._reconnector, subscription)


@asynccontextmanager
async def connect(
    url: str,
    *,
    user: str | None = None,
    info: Mapping[str, Any] | None = None,
    token: str | TokenSource | None = None,
    encoding: Encoding = "json",
    headers: Mapping[str, str] | None = None,
    resume: str | None = None,
    events_max: int = EVENTS_MAX,
    first_connection_s: float | None = FIRST_CONNECTION_S,
    ssl: "SSLContext | None" = None,
    proxy: str | None = None,
) -> AsyncIterator[Client]:
    """Connect to `url` (`ws://HOST:PORT/ws`) and stay connected to the end of the `async with` block.

    `user` and `info` name a client that names itself. `token` are credentials, or an asynchronous function that
    gives fresh ones: for each connection, and when the server says that they end. `resume` continues an earlier
    connection. `events_max` bounds each queue of events. The first connection must succeed within
    `first_connection_s` seconds, retries included (None: for ever), else `ConnectionLost`. `proxy` is the
    address of a proxy; the environment's is not used.

    When the server says not to come back, or what it says makes no sense, the block is cancelled, and
    `ConnectionRefused`, `ConnectionEnded` or `ProtocolViolation` comes out of it. Raises `ValueError` for
    arguments that cannot be used.
    """
    dialer = Dialer(address(url, user, info), MessageCodec(encoding), token, headers or {}, ssl, proxy)
    resume = None if resume is None else check_resume(resume)
    # What the block raises is kept outside of the task group, which would wrap it into a group of exceptions.
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        reconnector = Reconnector(dialer, resume, events_max, tasks)
        tasks.start_soon(reconnector.run)
        try:
            await reconnector.first_connection(first_connection_s)
            yield Client(reconnector)
        except Exception as exc:  # noqa: BLE001  # raised below
            failure = exc
        finally:
            with anyio.CancelScope(shield=True):
                await reconnector.close()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if reconnector.failure is not None:
        raise reconnector.failure
