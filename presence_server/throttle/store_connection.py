"""The limiter's one connection to a store: made in the background, watched, and made again whenever it is lost."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis

from presence_server.redis_io.client import AWAY, RedisClient
from presence_server.redis_io.multiplexed import MultiplexedConnection, pack
from presence_server.throttle.flight_calls import SCRIPT

CONNECT_S: Final = 5.0
"""The longest that connecting may take. It runs beside decisions: none of them has to wait for it."""
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 2.0
SHORT_LIVED_S: Final = 1.0
"""A connection that was lost sooner counts as one that could not be made."""
GIVEN_BACK: Final = "+"
"""The first character of a message that says that something was given back to a key; no key begins with it."""
IDLE_PING_S: Final = 2.0
"""A connection that has been silent for this long is sent a PING, and dropped if it stays silent for as long again."""
log = logging.getLogger(__name__)


class StoreConnection:
    """Keeps a connection from `begin_connecting` to `end_connecting`.

    Every connection subscribes to the channel of places to forget before `on_connected` is called, so that no message
    is missed. `forget(place, given_back)` is called for each, with None for all places. `on_failed` is called after
    each attempt that failed, or whose connection was lost soon; `on_lost` when a connection is lost. Where
    `is_unwanted()` the connection is dropped: the next one may find the server that takes writes.
    """

    def __init__(
        self,
        client: RedisClient,
        purge_channel: str,
        *,
        forget: Callable[[str | None, bool], None],
        is_unwanted: Callable[[], bool],
        on_connected: Callable[[], None],
        on_failed: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.live: MultiplexedConnection | None = None
        """The connection, while there is one that decisions may go over."""
        self.listens = False
        """Whether it is subscribed to the channel of places to forget."""
        self._client = client
        self._purge_channel = purge_channel
        self._forget = forget
        self._is_unwanted = is_unwanted
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._on_lost = on_lost
        self._warned_of_policy = ""
        self._logged_away = False
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._subscribed: asyncio.Future[Any] | None = None

    def begin_connecting(self) -> None:
        """Connect in this event loop; another one, in which there was a connection, has ended."""
        self.live = self._subscribed = None
        self._connected = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(
            self._stay_connected(), name="limiter's connection"
        )

    async def end_connecting(self) -> None:
        """Close the connection and make no other."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._connected.wait()

    async def _stay_connected(self) -> None:
        """Connect, and again whenever the connection is lost, for ever."""
        retry_s = FIRST_RETRY_S
        while True:
            began_s = time.monotonic()
            found = await self._try_to_connect()
            if found is not None:
                await self._use(*found)
                if time.monotonic() - began_s > SHORT_LIVED_S:
                    retry_s, self._logged_away = FIRST_RETRY_S, False
                    continue
            self._on_failed()
            await asyncio.sleep(retry_s * random.uniform(0.5, 1))  # noqa: S311 - spreads nodes over time
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def _try_to_connect(self) -> tuple[MultiplexedConnection, asyncio.Future[None]] | None:
        """Return a connection, and a future that is done when it is lost; None where the attempt failed."""
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._connect()
        except (*AWAY, hiredis.HiredisError, TimeoutError) as exc:
            if not self._logged_away:
                log.warning("the limiter cannot reach its store: %s", str(exc) or type(exc).__name__)
                self._logged_away = True
        except Exception:
            # redis-py raises AttributeError and others where a server goes away while it connects. This is the
            # boundary to it: whatever comes, the limiter must not be without a connection for ever.
            log.exception("the limiter's connection could not be made")
        return None

    async def _connect(self) -> tuple[MultiplexedConnection, asyncio.Future[None]]:
        """Connect, and subscribe before anything is decided, so that no message about a place to forget is missed."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()
        self._subscribed = subscribed = loop.create_future()

        def on_lost() -> None:
            if not lost.done():
                lost.set_result(None)

        connection = await self._client.new_multiplexed(self._take_push, on_lost)
        try:
            connection.send_unanswered("SUBSCRIBE", self._purge_channel)
            await asyncio.wait([subscribed, lost], return_when=asyncio.FIRST_COMPLETED)
            self.listens = subscribed.done() and not isinstance(subscribed.result(), Exception)
            if subscribed.done() and not self.listens:
                log.warning(
                    "the limiter may not subscribe, so it remembers no refusals: %s", subscribed.result()
                )
            await self._warn_of_eviction(connection)
            # A user may be allowed to run scripts and not to load them.
            with contextlib.suppress(hiredis.ReplyError):
                await connection.ask("SCRIPT", "LOAD", SCRIPT.text)
        except BaseException:
            connection.abort()
            raise
        return connection, lost

    async def _warn_of_eviction(self, connection: MultiplexedConnection) -> None:
        """Warn where the store may drop counts when its memory is full; a managed service may refuse to tell."""
        try:
            config = await connection.ask("CONFIG", "GET", "maxmemory-policy")
        except hiredis.ReplyError:
            return
        policy = bytes(config.get(b"maxmemory-policy", b"")).decode() if isinstance(config, dict) else ""
        if policy not in {"", "noeviction"} and policy != self._warned_of_policy:
            self._warned_of_policy = policy
            log.warning(
                "the store's maxmemory-policy is %s: it may forget counts and blocks; set noeviction", policy
            )

    async def _use(self, connection: MultiplexedConnection, lost: "asyncio.Future[None]") -> None:
        """Let decisions go over a connection until it is lost."""
        self.live = connection
        self._connected.set()
        try:
            self._on_connected()
            await self._watch(connection, lost)
        except Exception:
            # As above: what a Sentinel's client raises must not end the task that would connect again.
            log.exception("the limiter gives its connection up")
        finally:
            connection.abort()
            self.live = None
            self._connected.clear()
            self._on_lost()

    async def _watch(self, connection: MultiplexedConnection, lost: "asyncio.Future[None]") -> None:
        """Return when a connection is lost; drop one that is silent, even after a PING."""
        pinged = False
        while not lost.done():
            connection.heard = False
            await asyncio.wait([lost], timeout=IDLE_PING_S)
            unwanted = self._is_unwanted() or await self._client.has_moved(connection.address)
            if lost.done():
                return  # uvloop raises RuntimeError for what is written to a transport that is closed
            if unwanted:
                connection.abort()
            elif connection.heard:
                pinged = False
            elif pinged:
                connection.abort()
            else:
                pinged = True
                connection.send(pack(("PING",)), ignore_answer)

    def _take_push(self, message: Any) -> None:
        """Take a push message: the acknowledgement of the subscription, or a place to forget."""
        subscribed = self._subscribed
        if isinstance(message, Exception) or bytes(message[0]) == b"subscribe":
            self._forget(None, False)
            if subscribed is not None and not subscribed.done():
                subscribed.set_result(message)
        elif bytes(message[0]) == b"message":
            place = bytes(message[2]).decode()
            self._forget(place.removeprefix(GIVEN_BACK), place.startswith(GIVEN_BACK))


def ignore_answer(answer: object) -> None:
    """Drop an answer that says nothing new."""
