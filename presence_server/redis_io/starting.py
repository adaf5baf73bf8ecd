"""What is wrong with a store's URL that only the servers can tell, and that no waiting mends."""

from redis.exceptions import RedisError

from presence_server.config.store_url import StoreUrl, Topology, parse_store_url
from presence_server.redis_io.sentinel import Sentinels, UnknownPrimaryError
from presence_server.redis_io.slots import cluster_problem


async def start_problem(url: str) -> str:
    """Return why a node with this URL need not start; "": it may, also where no server answers at present."""
    parsed = parse_store_url(url)
    if parsed.topology is Topology.CLUSTER:
        return await cluster_problem(parsed)
    return await _sentinel_problem(parsed) if parsed.topology is Topology.SENTINEL else ""


async def _sentinel_problem(url: StoreUrl) -> str:
    sentinels = Sentinels(url)
    try:
        await sentinels.locate()
    except UnknownPrimaryError as exc:
        return str(exc)
    except (RedisError, OSError, TimeoutError):
        return ""  # the node starts isolated, and says so
    finally:
        await sentinels.aclose()
    return ""
