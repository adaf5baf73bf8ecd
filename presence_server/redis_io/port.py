"""The port of a store's connections: `client` has them over sockets, a simulation in memory."""

from collections.abc import Sequence
from typing import Any, Protocol

from presence_server.redis_io.scripts import Call


class Lane(Protocol):
    """One connection for one pipeline after the other."""

    answered: int
    """Answers read so far: by it one sees that a long pipeline goes on."""

    async def pipeline(self, calls: Sequence[Call]) -> list[Any]:
        """Run calls in order; return each one's answer, or the error that it was answered with.

        Raises one of `AWAY` where the connection failed: then it is not known which calls ran.
        """

    async def has_moved(self) -> bool:
        """Tell whether Sentinels name another primary than the one that this lane is connected to."""

    async def aclose(self) -> None:
        """Close the connection; a pipeline that is under way fails."""


class SubscriberConnection(Protocol):
    """One connection that subscribes, in RESP2: every answer and every message is a list of bytes."""

    async def send_command(self, *command: str | bytes, check_health: bool) -> None:
        """Write one command."""

    async def read_response(self, *, disable_decoding: bool, timeout: float) -> Any:  # noqa: ASYNC109 - redis-py's
        """Wait for what comes next. Raises an error that the server answered with, or one of `AWAY`."""

    async def disconnect(self, *, nowait: bool) -> None:
        """Close the connection."""


class StoreConnections(Protocol):
    """Makes connections to one store."""

    def lane(self) -> Lane:
        """Make a connection of its own for pipelines."""

    async def new_subscriber(self) -> SubscriberConnection:
        """Connect a subscriber. Raises one of `AWAY` or `TimeoutError`."""

    async def execute(self, *command: str | bytes | int) -> Any:
        """Run one command. Raises one of `AWAY`."""

    async def aclose(self) -> None:
        """Close every connection but those of lanes."""
