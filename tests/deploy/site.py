"""Nodes on loopback addresses of their own, their store, and one proxy in front of them, as `deploy/` has it."""

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.support import signing
from tests.support.api import call
from tests.support.daemon import LOOPBACK, free_port
from tests.support.front import HOSTS, Front
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

OPEN_DEADLINE_S: Final = 30
SIGNED: Final = ("--auth.mode", "jwt", "--auth.secret", signing.SECRET)


class Site:
    """`networks` are between each node and the store, where there are any."""

    def __init__(self, front: Front, nodes: Sequence[Node], networks: Sequence[Proxy]) -> None:
        self.front = front
        self.nodes = nodes
        self.networks = networks

    async def open(
        self, user: str, *, source: str = LOOPBACK, headers: Mapping[str, str] | None = None
    ) -> tuple[ClientConnection, dict[str, Any]]:
        """Do a handshake from this address; return the connection and its welcome. Raises `InvalidStatus`."""
        socket = await connect(
            self.front.url,
            ssl=self.front.tls,
            additional_headers={"Authorization": f"Bearer {signing.token(sub=user)}", **(headers or {})},
            local_addr=(source, 0),
            open_timeout=OPEN_DEADLINE_S,
            proxy=None,
        )
        welcome: dict[str, Any] = json.loads(await socket.recv())
        assert welcome["t"] == "welcome"
        return socket, welcome

    async def try_handshake(self, **fields: Any) -> int:
        """Return the status that a handshake is answered with."""
        try:
            socket, _ = await self.open("somebody", **fields)
        except InvalidStatus as exc:
            return exc.response.status_code
        await socket.close()
        return 101

    async def nodes_of(self, handshakes: int) -> set[str]:
        """Return which nodes so many handshakes have reached; each must succeed."""
        reached = set()
        for _ in range(handshakes):
            socket, welcome = await self.open("somebody")
            reached.add(welcome["node"])
            await socket.close()
        return reached

    async def nodes_if_any(self, handshakes: int) -> set[str]:
        """Return which nodes so many handshakes have reached; none where one has failed."""
        try:
            return await self.nodes_of(handshakes)
        except InvalidStatus:
            return set()

    async def in_use(self, *nodes: Node) -> None:
        """Wait until handshakes come to each of these nodes: a proxy may have to see it twice before that."""
        ids = {node.id for node in nodes}
        await eventually(lambda: self.nodes_if_any(2 * len(ids)), lambda reached: ids <= reached)


async def answers(node: Node, status: int) -> None:
    """Wait until a node answers its probe with this status."""
    await eventually(lambda: call(node, "GET", "/readyz"), lambda answer: answer.status == status)


@asynccontextmanager
async def site(
    kind: str,
    directory: Path,
    *args: str,
    nodes: int = 2,
    first: Sequence[str] = (),
    cuttable: bool = True,
    changes: Mapping[str, str] | None = None,
) -> AsyncIterator[Site]:
    """Start everything, and stop it at the end. `args` are every node's, `first` the first one's alone.

    `cuttable` puts networks between nodes and store that a test can cut; they are as slow as the test is busy.
    """
    hosts = HOSTS[:nodes]
    port, api_port = free_port(*hosts), free_port(*hosts)
    args = (*SIGNED, "--proxy.trusted", f'["{LOOPBACK}"]', *args)
    if kind.startswith("haproxy"):
        args += ("--proxy.protocol", "true")
    async with AsyncExitStack() as stack:
        store = stack.enter_context(RedisServer("valkey"))
        front = stack.enter_context(Front(kind, hosts, port, api_port, changes))
        networks = [await stack.enter_async_context(Proxy(store)) for _ in hosts if cuttable]
        urls = [network.url for network in networks] or [store.url] * nodes
        started: list[Node] = []
        for host, url in zip(hosts, urls, strict=True):
            flags = ("--server.host", host, "--server.api_host", host, "--redis.url", url, *args)
            more = () if started else first
            started.append(Node(directory, *flags, *more, port=port, api_port=api_port))
        async with anyio.create_task_group() as tasks:
            for node in started:
                tasks.start_soon(node.start)
        try:
            yield Site(front, started, networks)
        finally:
            for node in started:
                node.kill()  # some would drain for long
                await node.wait()
                sys.stderr.write(f"node {node.id}; its log:\n{node.log}\n")
