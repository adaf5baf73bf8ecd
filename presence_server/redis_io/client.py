"""The command side of a Redis: pipelines with a deadline and without hidden retries.

redis-py's defaults would wait for up to a minute and run calls again behind one's back; every option that
matters is given here.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig

from presence_server.redis_io.scripts import Call

TIMEOUT_S: Final = 1.0
"""The longest that presence waits for an answer; a store that takes longer counts as away."""
AWAY: Final = (RedisError, OSError)
"""What a call raises when the store is away: unreachable, frozen, read-only, loading, out of memory."""
_REFUSING: Final = (NoPermissionError, OutOfMemoryError, ReadOnlyError)
_REFUSING_PREFIXES: Final = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY")
"""Of those that redis-py has no class for."""


def is_away(error: Exception) -> bool:
    """Tell whether an error says that the store is away, and not that one call was wrong."""
    if not isinstance(error, ResponseError) or isinstance(error, _REFUSING):
        return True
    return str(error).startswith(_REFUSING_PREFIXES)


class RedisClient:
    """A Redis or Valkey by URL, standalone."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        options: dict[str, Any] = {
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            # Over TCP with RESP3 its defaults do not notice dead connections at checkout (redis-py #4252).
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._pool: ConnectionPool = ConnectionPool.from_url(url, protocol=3, **options)
        self._subscribers: ConnectionPool = ConnectionPool.from_url(url, protocol=2, **options)
        self._redis: Redis = Redis(connection_pool=self._pool)

    async def execute(self, *command: str | bytes | int) -> Any:
        """Run one command. Raises one of `AWAY`."""
        return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py

    async def pipeline(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls in order; return each one's answer, or the error that it was answered with.

        A script that the server has forgotten runs again from its text, it alone. Raises one of `AWAY` where
        the connection failed: then it is not known which calls ran.
        """
        answers = await self._run([call.command for call in calls])
        forgotten = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if forgotten:
            again = await self._run([calls[i].by_text() for i in forgotten])
            for i, answer in zip(forgotten, again, strict=True):
                answers[i] = answer
        return answers

    async def _run(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return await pipe.execute(raise_on_error=False)

    async def new_subscriber(self) -> Connection:
        """Make a connection of its own, for a subscriber; RESP2, whose messages are plain lists."""
        connection: Connection = self._subscribers.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
        return connection

    async def aclose(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
        await self._pool.disconnect()
