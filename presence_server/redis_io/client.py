"""The command side of a Redis: pipelines with a deadline and without hidden retries.

redis-py's defaults would wait for up to a minute and run calls again behind one's back; every option that
matters is given here.
"""

import contextlib
import math
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any, Final, cast

import anyio
from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from presence_server.config.store_url import Address, StoreUrl, Topology, parse_store_url
from presence_server.redis_io.multiplexed import MultiplexedConnection
from presence_server.redis_io.scripts import Call, Script
from presence_server.redis_io.sentinel import LocatedConnection, LocatedTlsConnection, Sentinels
from presence_server.redis_io.store_errors import CLOSED_MEANWHILE
from presence_server.redis_io.subscriber_connection import TakenConnection
from presence_server.redis_io.tls_connection import TlsConnection

TIMEOUT_S: Final = 1.0
"""The longest that presence waits for an answer; a store that takes longer counts as away."""
LOCATED_CONNECT_S: Final = 2.0
"""The longest that connecting takes where Sentinels name the address: after that they may name another."""
AWAY: Final = (RedisError, OSError)
"""The exceptions of a call while the store is away: unreachable, frozen, read-only, loading, out of memory."""
_REFUSING: Final = (
    AskError,  # and MOVED
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
_REFUSING_PREFIXES: Final = ("MISCONF", "NOREPLICAS", "BUSY")
"""The beginnings of the refusals that redis-py has no class for."""


def is_away(error: Exception) -> bool:
    """Tell whether an error says that the store is away, and not that one call was wrong."""
    if not isinstance(error, ResponseError) or isinstance(error, _REFUSING):
        return True
    return str(error).startswith(_REFUSING_PREFIXES)


# In C; redis-py's own is Python. Its stub takes tuples of one only.
_pack: Final = cast("Callable[[tuple[str | bytes | int, ...]], bytes]", pack_command)


class RedisClient:
    """One Redis or Valkey server: standalone, the primary that Sentinels know, or (`at`) a server of a Cluster.

    It is given by its URL or as a client of redis-py reaches it; of such a client only the way to the server is taken:
    its connections stay its own. Lanes carry pipelines; single commands go over a pool. Host names are resolved, and
    Sentinels asked, with each connection that is made. Raises `ValueError` for a URL that is none.
    """

    def __init__(
        self, source: "str | StoreUrl | Redis", timeout_s: float = TIMEOUT_S, at: Address | None = None
    ) -> None:
        source = parse_store_url(source) if isinstance(source, str) else source
        self._sentinels: Sentinels | None = None
        if isinstance(source, StoreUrl) and source.topology is Topology.SENTINEL:
            self._sentinels = Sentinels(source)
            timeout_s = min(timeout_s, LOCATED_CONNECT_S)
        self._at = at
        self._timeout_s = timeout_s
        self._pool = self._new_pool(source, protocol=3, socket_timeout=timeout_s)
        self._lanes = self._new_pool(source, protocol=3, socket_timeout=None)
        self._subscribers = self._new_pool(source, protocol=2, socket_timeout=None)
        self._redis: Redis = Redis(connection_pool=self._pool)

    def _new_pool(self, source: "StoreUrl | Redis", **options: Any) -> ConnectionPool:
        options |= {
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": self._timeout_s,
            # Over TCP with RESP3 its defaults do not notice dead connections at checkout (redis-py #4252).
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        if isinstance(source, StoreUrl):
            connection_class, where = self._way(source)
        else:
            pool = source.connection_pool
            connection_class, where = pool.connection_class, pool.connection_kwargs
        return ConnectionPool(connection_class, **(where | options))

    def _way(self, url: StoreUrl) -> tuple[type[AbstractConnection], dict[str, Any]]:
        """Return the class and the options of connections to the server."""
        options: dict[str, Any] = {
            "username": url.username,
            "password": url.password,
            "db": url.db,
            "client_name": url.client_name or None,
        }
        if url.path:
            return UnixDomainSocketConnection, options | {"path": url.path}
        if url.tls:
            options |= url.tls_options
        if self._sentinels is not None:
            options |= {"locate": self._sentinels.locate}
            return LocatedTlsConnection if url.tls else LocatedConnection, options
        address = self._at or url.addresses[0]
        options |= {"host": address.host, "port": address.port}
        return TlsConnection if url.tls else Connection, options

    async def execute(self, *command: str | bytes | int) -> Any:
        """Run one command. Raises one of `AWAY`."""
        try:
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
        except CLOSED_MEANWHILE as exc:
            raise RedisConnectionError(f"{type(exc).__name__}: {exc}") from exc

    def lane(self) -> "RedisLane":
        """Make a connection of its own for pipelines."""
        return RedisLane(self._lanes, self._timeout_s, self._sentinels)

    async def new_multiplexed(
        self, on_push: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> MultiplexedConnection:
        """Make a connection of its own for many commands in flight. Raises one of `AWAY` or `TimeoutError`."""
        connection = await _connect(self._lanes, self._timeout_s)
        return MultiplexedConnection(connection, on_push, on_lost)

    async def new_subscriber(self) -> TakenConnection:
        """Make a connection of its own, for a subscriber; RESP2, whose messages are plain lists."""
        return TakenConnection(await _connect(self._subscribers, self._timeout_s))

    async def has_moved(self, address: Address | None) -> bool:
        """Tell whether Sentinels name another primary than `address`, to which a connection was made."""
        return (
            self._sentinels is not None and address is not None and await self._sentinels.has_moved(address)
        )

    async def aclose(self) -> None:
        """Close every connection but those of lanes."""
        # redis-py raises where a closed connection is not gone within its deadline: the server is frozen with unsent
        # bytes, or this loop was busy.
        with contextlib.suppress(*AWAY):
            await self._pool.disconnect()
        if self._sentinels is not None:
            await self._sentinels.aclose()


class RedisLane:
    """One connection for one pipeline after the other; the caller sets the deadline.

    A pool, and a timer around each read and write, would cost several times as much as a small pipeline.
    """

    answered = 0
    """Answers read so far: by it one sees that a long pipeline goes on."""
    _sentinels: Sentinels | None = None
    _connection: Connection | None = None

    def __init__(self, pool: ConnectionPool, connect_timeout_s: float, sentinels: Sentinels | None) -> None:
        self._pool = pool
        self._sentinels = sentinels
        self._connect_timeout_s = connect_timeout_s
        self._loaded: set[Script] = set()
        """The scripts loaded over this connection."""

    async def pipeline(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls in order; return each one's answer, or the error that it was answered with.

        A script is loaded before its first call on a connection, since what comes after a call of one that the server
        does not know runs all the same. Where it has been told to forget them since, each forgotten call runs again,
        and with it what comes later in its slot: that must see it. Nothing of other slots runs twice.
        Raises one of `AWAY` where the connection failed: then it is not known which calls ran.
        """
        try:
            await self._ensure_connected()
            unloaded = {call.script for call in calls if call.script is not None} - self._loaded
            self._loaded |= unloaded
            answers = await self._exchange(unloaded, [call.command for call in calls])
            errors = [answer for answer in answers if isinstance(answer, Exception)]
            if any(isinstance(error, ReadOnlyError) for error in errors):
                # Another server is the primary by now, which the next connection may find.
                await self.aclose()
            elif any(isinstance(error, NoScriptError) for error in errors):
                again = _calls_to_repeat(calls, answers)
                repeated = await self._exchange(self._loaded, [calls[i].by_text() for i in again])
                for i, answer in zip(again, repeated, strict=True):
                    answers[i] = answer
        except CLOSED_MEANWHILE as exc:
            await self.aclose()
            raise RedisConnectionError(f"{type(exc).__name__}: {exc}") from exc
        except BaseException:
            # Answers that are still to come would be taken for those of the next pipeline.
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        return answers

    async def has_moved(self) -> bool:
        """Tell whether Sentinels name another primary than the one that this lane is connected to."""
        if self._sentinels is None or self._connection is None:
            return False
        return await self._sentinels.has_moved(address_of(self._connection))

    async def aclose(self) -> None:
        """Close the connection; a pipeline that is under way fails."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _exchange(
        self, scripts: Collection[Script], commands: Sequence[tuple[str | bytes | int, ...]]
    ) -> list[Any]:
        """Load scripts, which the server may refuse, then run commands; return the answers of these."""
        loads = [("SCRIPT", "LOAD", script.text) for script in sorted(scripts, key=attrgetter("digest"))]
        return (await self._run([*loads, *commands]))[len(loads) :]

    async def _run(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        connection = self._connection
        if connection is None:
            raise RedisConnectionError("the connection was closed")
        await connection.send_packed_command(b"".join(map(_pack, commands)), check_health=False)
        answers = []
        for _ in commands:
            answers.append(await _answer(connection))
            self.answered += 1
        return answers

    async def _ensure_connected(self) -> None:
        connection = self._connection
        here = connection is not None and connection.is_connected and self._is_primary(connection)
        if connection is not None and here and not await connection.can_read():
            return
        await self.aclose()
        self._connection = await _connect(self._pool, self._connect_timeout_s)
        self._loaded.clear()

    def _is_primary(self, connection: Connection) -> bool:
        """Tell whether a connection goes to the primary, as far as that is known."""
        return self._sentinels is None or address_of(connection) == self._sentinels.known


def address_of(connection: Connection) -> Address:
    """Return the address that Sentinels named for a connection."""
    return Address(connection.host, connection.port)


async def _connect(pool: ConnectionPool, timeout_s: float) -> Connection:
    connection: Connection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
    try:
        # A frozen server's kernel accepts; what hangs is the greeting, for which the library has no timeout.
        with anyio.fail_after(timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
    except CLOSED_MEANWHILE as exc:
        await connection.disconnect(nowait=True)
        raise RedisConnectionError(f"{type(exc).__name__}: {exc}") from exc
    except BaseException:
        with anyio.CancelScope(shield=True):
            await connection.disconnect(nowait=True)
        raise
    return connection


async def _answer(connection: Connection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as exc:
        return exc


def _calls_to_repeat(calls: Sequence[Call], answers: Sequence[Any]) -> list[int]:
    """Return the places of calls whose script was forgotten, and of what comes after one in its slot."""
    slots: set[int | None] = set()
    again = []
    for i, (call, answer) in enumerate(zip(calls, answers, strict=True)):
        if isinstance(answer, NoScriptError):
            slots.add(call.slot)
            again.append(i)
        elif slots and call.slot is not None and call.slot in slots:
            again.append(i)
    return again
