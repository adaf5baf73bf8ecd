"""The shared store of a limiter: a server, or a Cluster, by its URL."""

from redis.asyncio import Redis

from presence_server.config.store_url import Topology, parse_store_url
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.throttle.port import Forget, NoteRefusal, SharedStore
from presence_server.throttle.redis import ThrottleRedisStore
from presence_server.throttle.store_connection import CONNECT_S


def shared_store(
    redis: str | Redis, prefix: str, deadline_ms: int, forget: Forget, note_refusal: NoteRefusal
) -> SharedStore:
    """Return the store; the limiter calls it, and its arguments are those of the limiter."""
    if isinstance(redis, str) and (url := parse_store_url(redis)).topology is Topology.CLUSTER:
        from presence_server.throttle.cluster import ThrottleClusterStore  # noqa: PLC0415 - few have one

        return ThrottleClusterStore(url, Keys(prefix), deadline_ms, forget, note_refusal)
    return ThrottleRedisStore(RedisClient(redis, CONNECT_S), Keys(prefix), deadline_ms, forget, note_refusal)
