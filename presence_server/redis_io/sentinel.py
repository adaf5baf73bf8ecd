"""Which server is the primary, as Sentinels know it, and connections that ask for it each time they are made.

Not redis-py's `Sentinel`: that asks one after the other, so that one that is frozen costs a time limit, and takes the
first answer, which may be of before a failover. Here all are asked at once, and the highest configuration epoch counts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import anyio
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from presence_server.config.store_url import Address, StoreUrl

ASK_S: Final = 0.5
"""The longest that Sentinels are waited for."""
FRESH_S: Final = 0.25
"""An answer that is younger is taken for who asks next: a node makes several connections at a time."""
DOWN_FLAGS: Final = frozenset(("s_down", "o_down"))


class UnknownPrimaryError(RedisConnectionError):
    """Sentinels are there, and none of them knows a primary of that name."""


class Sighting(NamedTuple):
    """What one Sentinel says: a primary that it takes for dead counts less, then one of an earlier epoch."""

    is_up: bool
    epoch: int
    address: Address


class LocatedConnection(Connection):
    """A connection to wherever `locate` says that the server is, which it is asked each time."""

    def __init__(self, *, locate: Callable[[], Awaitable[Address]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._locate = locate

    async def _connect(self) -> None:
        self.host, self.port = await self._locate()
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py


class LocatedTlsConnection(LocatedConnection, SSLConnection):
    """The same over TLS."""


class Sentinels:
    """The Sentinels of a URL. `tls` are redis-py's options of a TLS connection."""

    def __init__(self, url: StoreUrl, tls: Mapping[str, Any]) -> None:
        self.known: Address | None = None
        """Where the primary was when it was last asked for."""
        self._service = url.service
        self._addresses = url.addresses
        self._connection_class = SSLConnection if url.sentinel_tls else Connection
        self._options: dict[str, Any] = {
            **(tls if url.sentinel_tls else {}),
            "username": url.sentinel_username,
            "password": url.sentinel_password,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": ASK_S,
            "socket_connect_timeout": ASK_S,
        }
        self._connections: dict[Address, Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: asyncio.Lock = asyncio.Lock()
        self._asked_s = -FRESH_S

    async def locate(self) -> Address:
        """Return where the primary is.

        Raises `UnknownPrimaryError` where every Sentinel that answers knows none of that name, and a connection error
        of redis-py where none answers.
        """
        self._follow_loop()
        async with self._asking:
            if self.known is None or time.monotonic() - self._asked_s > FRESH_S:
                self.known = await self._ask_all()
                self._asked_s = time.monotonic()
            return self.known

    async def has_moved(self, address: Address) -> bool:
        """Tell whether the primary is known to be elsewhere."""
        try:
            return await self.locate() != address
        except (RedisError, OSError, TimeoutError):
            return False  # nobody says so

    async def aclose(self) -> None:
        """Close the connections."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.disconnect(nowait=True)

    def _follow_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._asking = loop, asyncio.Lock()
            self._connections.clear()  # of a loop that has ended

    async def _ask_all(self) -> Address:
        """Ask every Sentinel; go by those that answer in time, or by a majority of them."""
        sightings: list[Sighting] = []
        unknown: list[Address] = []
        failures: list[str] = []
        enough = len(self._addresses) // 2 + 1

        async def ask(address: Address, tasks: anyio.abc.TaskGroup) -> None:
            try:
                sightings.append(await self._ask(address))
            except ResponseError as exc:
                if "No such master" not in str(exc):
                    failures.append(f"{address}: {exc}")
                else:
                    unknown.append(address)
            except (RedisError, OSError, TimeoutError) as exc:
                failures.append(f"{address}: {str(exc) or type(exc).__name__}")
            if len(sightings) >= enough:
                tasks.cancel_scope.cancel()

        with anyio.move_on_after(ASK_S):
            async with anyio.create_task_group() as tasks:
                for address in self._addresses:
                    tasks.start_soon(ask, address, tasks)
        if sightings:
            return max(sightings).address
        if unknown:
            asked = ", ".join(map(str, unknown))
            raise UnknownPrimaryError(f'no primary is named "{self._service}" at {asked}')
        raise RedisConnectionError(f"no Sentinel answers: {'; '.join(failures) or 'in time'}")

    async def _ask(self, address: Address) -> Sighting:
        """Ask one Sentinel; whatever interrupts it costs the connection, whose next answer would be an old one."""
        connection = self._connections.pop(address, None)
        try:
            if connection is None:
                connection = self._connection_class(host=address.host, port=address.port, **self._options)
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
            await connection.send_command("SENTINEL", "MASTER", self._service)
            answer = await connection.read_response()
        except ResponseError:
            self._connections[address] = cast("Connection", connection)
            raise
        except BaseException:
            if connection is not None:
                with anyio.CancelScope(shield=True):
                    await connection.disconnect(nowait=True)
            raise
        self._connections[address] = connection
        fields = dict(zip(answer[::2], answer[1::2], strict=True))
        is_up = DOWN_FLAGS.isdisjoint(fields[b"flags"].decode().split(","))
        where = Address(fields[b"ip"].decode(), int(fields[b"port"]))
        return Sighting(is_up, int(fields.get(b"config-epoch", 0)), where)
