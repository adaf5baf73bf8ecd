"""Limiters, each as its documentation has it, as a function of a key."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import time_ns
from typing import Any, Final

from limits import RateLimitItemPerHour
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pyrate_limiter import AbstractBucket, BucketFactory, Duration, FixedWindow, Rate, RateItem, RedisBucket
from pyrate_limiter import Limiter as PyrateLimiter
from redis.asyncio import Redis
from throttled.asyncio import RedisStore, Throttled, rate_limiter

from presence_server.throttle import Decision, Limiter, Rule
from presence_server.throttle.rule import Algorithm

MANY: Final = 1_000_000_000
"""What no key reaches."""
CONNECTIONS_MAX: Final = 512
RULES: Final[dict[Algorithm, str]] = {
    "fixed": f"{MANY}/1h",
    "sliding": "10000/1s",
    "counter": f"{MANY}/1h",
    "bucket": f"{MANY}/1h",
}
"""A limit for each algorithm. A log of a second has about a hundred entries a key here."""


class Asked:
    """A library that is ready. `hit` makes a decision; `elsewhere` counts those that the store did not make."""

    def __init__(self, hit: Callable[[str], Awaitable[Any]]) -> None:
        self.hit = hit
        self.elsewhere = 0

    def note(self, decision: Decision) -> None:
        """Be told a decision of this limiter."""
        self.elsewhere += decision.source != "redis"


@asynccontextmanager
async def ours(url: str, algorithm: Algorithm = "fixed") -> AsyncIterator[Asked]:
    """This limiter. With so long a deadline that what is counted is always the store's work."""
    rule = Rule("many", RULES[algorithm], algorithm=algorithm)
    async with Limiter([rule], redis=url, deadline_ms=5_000) as limiter:
        yield Asked(partial(limiter.hit, "many"))


@asynccontextmanager
async def ours_by_default(url: str) -> AsyncIterator[Asked]:
    """This limiter with its default deadline; counts what the store did not decide."""
    async with Limiter([Rule("many", RULES["fixed"])], redis=url) as limiter:
        asked = Asked(partial(limiter.hit, "many"))
        limiter.on_decision = asked.note
        await limiter.connect()
        yield asked


@asynccontextmanager
async def ours_alone(url: str) -> AsyncIterator[Asked]:
    """This limiter without a store."""
    async with Limiter([Rule("many", RULES["fixed"])]) as limiter:
        yield Asked(partial(limiter.hit, "many"))


@asynccontextmanager
async def limits(url: str) -> AsyncIterator[Asked]:
    """`limits` with its asyncio store on redis-py."""
    storage = RedisStorage(f"async+redis+{url}", implementation="redispy", max_connections=CONNECTIONS_MAX)
    yield Asked(partial(FixedWindowRateLimiter(storage).hit, RateLimitItemPerHour(MANY)))


@asynccontextmanager
async def limits_alone(url: str) -> AsyncIterator[Asked]:
    """`limits` with its memory."""
    yield Asked(partial(FixedWindowRateLimiter(MemoryStorage()).hit, RateLimitItemPerHour(MANY)))


@asynccontextmanager
async def throttled(url: str) -> AsyncIterator[Asked]:
    """`throttled-py` with its asyncio store on redis-py."""
    pool = {"CONNECTION_POOL_KWARGS": {"max_connections": CONNECTIONS_MAX}}
    store = RedisStore(server=url, options=pool)
    yield Asked(Throttled(using="fixed_window", quota=rate_limiter.per_hour(MANY), store=store).limit)


class Buckets(BucketFactory):
    """A bucket for each key. None is cleaned up in the background, which would disturb the others' turns."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._buckets: dict[str, AbstractBucket] = {}

    def wrap_item(self, name: str, weight: int = 1) -> RateItem:
        """Note the time."""
        return RateItem(name, time_ns() // 1_000_000, weight=weight)

    async def _new(self, name: str) -> AbstractBucket:
        rates = [Rate(MANY, Duration.HOUR)]
        bucket = await RedisBucket.init(rates, self._client, f"pyrate:{name}", FixedWindow())
        return self._buckets.setdefault(name, bucket)

    def get(self, item: RateItem) -> Any:
        """Return a key's bucket, once it is there without a coroutine."""
        return self._buckets.get(item.name) or self._new(item.name)


@asynccontextmanager
async def pyrate(url: str) -> AsyncIterator[Asked]:
    """`pyrate-limiter` with buckets in Redis, by redis-py's asyncio client."""
    async with Redis.from_url(url, max_connections=CONNECTIONS_MAX) as client:
        limiter = PyrateLimiter(Buckets(client))
        yield Asked(partial(limiter.try_acquire_async, blocking=False))


@asynccontextmanager
async def ping(url: str) -> AsyncIterator[Asked]:
    """No limiter: the least that redis-py can ask the store."""
    async with Redis.from_url(url, max_connections=CONNECTIONS_MAX) as client:
        yield Asked(lambda key: client.ping())


LIBRARIES: Final[dict[str, Callable[[str], AbstractAsyncContextManager[Asked]]]] = {
    "presence-server": ours,
    **{f"presence-server:{name}": partial(ours, algorithm=name) for name in RULES},
    "presence-server:default": ours_by_default,
    "presence-server:alone": ours_alone,
    "limits": limits,
    "limits:alone": limits_alone,
    "throttled-py": throttled,
    "pyrate-limiter": pyrate,
    "ping": ping,
}
