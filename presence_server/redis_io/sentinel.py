"""The primary's address, from Sentinels, and connections that ask for it each time they are made.

Not redis-py's `Sentinel`: that asks one after the other, so that one that is frozen costs a time limit, and takes the
first answer, which may be of before a failover. Here all are asked at once, and the highest configuration epoch counts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from presence_server.config.store_url import Address, StoreUrl
from presence_server.redis_io.enquiry import Enquiry, Replies
from presence_server.redis_io.tls_connection import TlsConnection

FRESH_S: Final = 0.25
"""An answer is used again for so long: a node makes several connections at a time."""
DOWN_FLAGS: Final = frozenset(("s_down", "o_down"))


class UnknownPrimaryError(RedisConnectionError):
    """Sentinels are there, and none of them knows a primary of that name."""


class NoSentinelError(RedisConnectionError):
    """Every server that the URL names answers, and none is a Sentinel."""


class Sighting(NamedTuple):
    """One Sentinel's answer about the primary; `epoch` is that of the failover in which it became the primary."""

    epoch: int
    is_up: bool
    address: Address


class LocatedConnection(Connection):
    """A connection to the address that `locate()` returns, which is asked on each connect."""

    def __init__(self, *, locate: Callable[[], Awaitable[Address]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._locate = locate

    async def _connect(self) -> None:
        self.host, self.port = await self._locate()
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py


class LocatedTlsConnection(LocatedConnection, TlsConnection):
    """The same over TLS."""


class Sentinels:
    """The Sentinels of a URL."""

    def __init__(self, url: StoreUrl) -> None:
        self.known: Address | None = None
        """The primary's address when Sentinels were last asked."""
        self._service = url.service
        self._addresses = url.addresses
        credentials = {"username": url.sentinel_username, "password": url.sentinel_password}
        tls_options = url.tls_options if url.sentinel_tls else {}
        self._enquiry = Enquiry({**tls_options, **credentials}, tls=url.sentinel_tls)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = asyncio.Lock()
        self._asked_s = -FRESH_S

    async def locate(self) -> Address:
        """Return where the primary is, or was before the Sentinels went away: without them none takes over.

        Raises `UnknownPrimaryError` where every Sentinel that answers knows none of that name, `NoSentinelError` where
        there are none, and a connection error of redis-py where none has ever answered.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._asking = loop, asyncio.Lock()
        async with self._asking:
            if self.known is None or time.monotonic() - self._asked_s > FRESH_S:
                try:
                    self.known = await self._ask_all()
                except UnknownPrimaryError:
                    raise
                except RedisConnectionError:
                    if self.known is None:
                        raise
                self._asked_s = time.monotonic()
            return self.known

    async def has_moved(self, address: Address) -> bool:
        """Tell whether Sentinels name another primary than `address`; False where none answers."""
        try:
            return await self.locate() != address
        except (RedisError, OSError, TimeoutError):
            return False  # nobody says so

    async def aclose(self) -> None:
        """Close the connections."""
        await self._enquiry.aclose()

    async def _ask_all(self) -> Address:
        """Ask every Sentinel; return what `agreed` says, as soon as a majority agrees."""
        majority = len(self._addresses) // 2 + 1
        command = ("SENTINEL", "MASTER", self._service)
        replies = await self._enquiry.ask_all(
            self._addresses, [command], lambda replies: agreed(_sightings(replies))[1] >= majority
        )
        if replies.answers:
            return agreed(_sightings(replies))[0].address
        unknown = [address for address, error in replies.refusals if "No such master" in str(error)]
        if unknown:
            asked = ", ".join(map(str, unknown))
            raise UnknownPrimaryError(f'no primary is named "{self._service}" at {asked}')
        strangers = [address for address, error in replies.refusals if "unknown command" in str(error)]
        if len(strangers) == len(self._addresses):
            places = ", ".join(map(str, strangers))
            raise NoSentinelError(
                f"no Sentinel is at {places}: servers answer there; name the Sentinels, or write redis:// for a server"
            )
        refusals = [f"{address}: {error}" for address, error in replies.refusals]
        why = "; ".join(refusals + replies.failures) or "in time"
        raise RedisConnectionError(f"no Sentinel answers: {why}")


def agreed(sightings: Sequence[Sighting]) -> tuple[Sighting, int]:
    """Return the answer of most of the Sentinels that know of the latest failover, and how many gave it.

    A single Sentinel that watches another server under the same name must not send nodes there.
    """
    latest = max((sighting.epoch for sighting in sightings), default=0)
    counts = Counter(sighting.address for sighting in sightings if sighting.epoch == latest)
    return max(
        ((sighting, counts[sighting.address]) for sighting in sightings if sighting.epoch == latest),
        key=lambda each: (each[1], each[0]),
        default=(Sighting(0, False, Address("", 0)), 0),
    )


def _sightings(replies: Replies) -> list[Sighting]:
    return [_sighting(answer) for _, (answer,) in replies.answers]


def _sighting(answer: list[bytes]) -> Sighting:
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    is_up = DOWN_FLAGS.isdisjoint(fields[b"flags"].decode().split(","))
    where = Address(fields[b"ip"].decode(), int(fields[b"port"]))
    return Sighting(int(fields.get(b"config-epoch", 0)), is_up, where)
