"""What is wrong with a store's URL that only the servers can tell, and that no waiting mends."""

from redis.exceptions import RedisError

from presence_server.config.store_url import Topology, parse_store_url
from presence_server.redis_io.sentinel import Sentinels, UnknownPrimaryError


async def start_problem(url: str) -> str:
    """Return why a node with this URL need not start; "": it may, also where no server answers at present."""
    parsed = parse_store_url(url)
    if parsed.topology is not Topology.SENTINEL:
        return ""
    sentinels = Sentinels(parsed, parsed.tls_options)
    try:
        await sentinels.locate()
    except UnknownPrimaryError as exc:
        return str(exc)
    except (RedisError, OSError, TimeoutError):
        return ""  # the node starts isolated, and says so
    finally:
        await sentinels.aclose()
    return ""
