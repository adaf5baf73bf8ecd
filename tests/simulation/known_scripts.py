"""The scripts that nodes of a cluster call, and what the simulated store does in their place."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from presence_server.presence import redis as presence_redis
from presence_server.presence.room_index import redis as room_index_redis
from presence_server.redis_io.scripts import Script
from presence_server.registry import own_connections
from presence_server.registry import redis as registry_redis
from presence_server.throttle import policy_store
from tests.simulation.keyspace import Argument, Keyspace
from tests.simulation.node_scripts import NODE_SCRIPTS, Run
from tests.simulation.room_scripts import run_room_script

Publish = Callable[[str, bytes], int]


def _known_scripts() -> dict[str, Script]:
    modules = (presence_redis, room_index_redis, registry_redis, own_connections, policy_store)
    values = [value for module in modules for value in vars(module).values()]
    scripts = [value for value in values if isinstance(value, Script)] + [*presence_redis.SCRIPTS.values()]
    return {script.digest: script for script in scripts}


SCRIPTS: Final = _known_scripts()
"""By digest."""


def run_script(
    digest: str, keys: list[str], arguments: Sequence[Argument], keyspace: Keyspace, publish: Publish
) -> Any:
    """Do what a script does. Raises `NotImplementedError` for one that nothing stands in for."""
    script = SCRIPTS.get(digest)
    if script is None:
        raise NotImplementedError(f"the simulated store does not know the script with the digest {digest}")
    if script.name in presence_redis.SCRIPTS:
        run = partial(run_room_script, script.name, keys, arguments, keyspace, publish)
    elif script.name in NODE_SCRIPTS:
        run = partial(NODE_SCRIPTS[script.name], Run(keyspace, publish, keys, arguments))
    else:
        raise NotImplementedError(f"the simulated store has no script {script.name!r}")
    return run()
