"""Asks several servers the same commands at once, with one deadline, over connections that are kept."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import anyio
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from presence_server.config.store_url import Address
from presence_server.redis_io.store_errors import LOST
from presence_server.redis_io.tls_connection import TlsConnection

ASK_S: Final = 0.5
"""The deadline for all answers together."""


class Replies(NamedTuple):
    """Answers and error replies by server; `failures` say why the others gave none."""

    answers: list[tuple[Address, list[Any]]]
    refusals: list[tuple[Address, ResponseError]]
    failures: list[str]


class Enquiry:
    """Connections to Sentinels, or to servers of a Cluster; `options` are those of redis-py's connections."""

    def __init__(self, options: Mapping[str, Any], *, tls: bool) -> None:
        self._connection_class = TlsConnection if tls else Connection
        self._options = dict(options) | {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": ASK_S,
            "socket_connect_timeout": ASK_S,
        }
        self._connections: dict[Address, Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask_all(
        self,
        addresses: Sequence[Address],
        commands: Sequence[tuple[str, ...]],
        enough: Callable[[Replies], bool],
    ) -> Replies:
        """Ask all at once; return what has come when `enough(replies)`, or after `ASK_S`. Calls must not overlap."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._connections.clear()  # of a loop that has ended
        replies = Replies([], [], [])

        async def ask(address: Address, tasks: anyio.abc.TaskGroup) -> None:
            try:
                replies.answers.append((address, await self._ask(address, commands)))
            except ResponseError as exc:
                replies.refusals.append((address, exc))
            except LOST as exc:
                replies.failures.append(f"{address}: {str(exc) or type(exc).__name__}")
            if enough(replies):
                tasks.cancel_scope.cancel()

        with anyio.move_on_after(ASK_S):
            async with anyio.create_task_group() as tasks:
                for address in addresses:
                    tasks.start_soon(ask, address, tasks)
        return replies

    async def _ask(self, address: Address, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Ask one server. An interrupted connection is closed: its next answer would be to an earlier question."""
        connection = self._connections.pop(address, None)
        if connection is None:
            connection = self._connection_class(host=address.host, port=address.port, **self._options)
        answers = []
        try:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
            for command in commands:
                await connection.send_command(*command)
                answers.append(await connection.read_response())
        except ResponseError:
            self._connections[address] = connection
            raise
        except BaseException:
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)
            raise
        self._connections[address] = connection
        return answers

    async def aclose(self) -> None:
        """Close the connections."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.disconnect(nowait=True)
