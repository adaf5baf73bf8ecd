"""Mistakes in the URL of the store that only the servers can show, and that waiting does not mend."""

from redis.exceptions import RedisError

from presence_server.config.store_url import StoreUrl, Topology, parse_store_url
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.cluster_slots import cluster_problem
from presence_server.redis_io.enquiry import ASK_S
from presence_server.redis_io.sentinel import NoSentinelError, Sentinels, UnknownPrimaryError


async def start_problem(url: str) -> str:
    """Return why a node with this URL can never work; "": it can, or no server answers at present."""
    parsed = parse_store_url(url)
    if parsed.topology is Topology.CLUSTER:
        return await cluster_problem(parsed)
    if parsed.topology is Topology.SENTINEL:
        return await _sentinel_problem(parsed)
    return await _standalone_problem(parsed)


async def _standalone_problem(url: StoreUrl) -> str:
    """Return that the server is in Cluster mode, where it refuses calls with keys of several slots; "": it is not."""
    client = RedisClient(url, ASK_S)
    try:
        info = bytes(await client.execute("CLUSTER", "INFO"))
    except (RedisError, OSError, TimeoutError):
        return ""  # it is away, is in no Cluster, or may not say
    finally:
        await client.aclose()
    size = int(
        dict(line.split(b":", 1) for line in info.splitlines() if b":" in line).get(b"cluster_size", b"0")
    )
    part = f"is part of a Cluster of {size}" if size > 1 else "runs in Cluster mode"
    return f"the server at {url.place} {part}: write redis+cluster:// in its place"


async def _sentinel_problem(url: StoreUrl) -> str:
    sentinels = Sentinels(url)
    try:
        await sentinels.locate()
    except (NoSentinelError, UnknownPrimaryError) as exc:
        return str(exc)
    except (RedisError, OSError, TimeoutError):
        return ""  # the node starts isolated, and says so
    finally:
        await sentinels.aclose()
    return ""
