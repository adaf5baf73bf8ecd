"""Real nodes on a real server under the names that plans know: steps, clients and promises are the simulator's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode

import anyio
import anyio.abc
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from presence_server.protocol.codec import JSON
from presence_server.protocol.codes import ABNORMAL, NORMAL
from presence_server.protocol.messages import ClientMessage, ServerMessage
from tests.simulation.evidence import Scene
from tests.simulation.moments import rosters_exact, updates_kept
from tests.simulation.plan import PRESENCE, QUIET_MS, ROOMS, Plan
from tests.simulation.sockets import Peer
from tests.simulation.stage import COMING_BACK_MS, Stage
from tests.support.api import call
from tests.support.node import Node
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.simulation.world import World

ARGS: Final = tuple(
    part
    for name, value in msgspec.structs.asdict(PRESENCE).items()
    for part in (f"--presence.{name}", str(value))
)
QUIET: Final = (rosters_exact, updates_kept)
"""What can be seen from outside."""
_decode = msgspec.json.Decoder(ServerMessage).decode


class RealSocket:
    """A client's connection: `tests.simulation.sockets.Socket` over a real one."""

    is_read = True
    """Real clients always read: no plan that is played for real has one that dozes."""

    def __init__(self, world: "RealWorld", url: str, peer: Peer) -> None:
        self._peer: Peer | None = peer
        self._connection: ClientConnection | None = None
        self._world = world
        world.start(self._run, url)

    async def _run(self, url: str) -> None:
        code = ABNORMAL.code
        try:
            async with connect(url, subprotocols=["presence.v1.json"], ping_interval=None) as connection:  # type: ignore[list-item]  # a NewType of str
                self._connection = connection
                async for data in connection:
                    if self._peer is not None:
                        self._peer.received((_decode(data),))
                code = connection.close_code or ABNORMAL.code
        except (OSError, WebSocketException, ConnectionClosed):
            code = ABNORMAL.code
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.closed(code)

    def send(self, *messages: ClientMessage) -> None:
        """Send messages; on a connection that has ended they are lost."""
        if self._connection is not None:
            for message in messages:
                self._world.start(self._send, JSON.encode(message).decode())

    async def _send(self, text: str) -> None:
        if self._connection is not None:
            with suppress(ConnectionClosed):
                await self._connection.send(text)

    def close(self, code: int = NORMAL.code) -> None:
        """Close as a client does that means it."""
        self._peer = None
        if self._connection is not None:
            self._world.start(self._connection.close, code)

    def reset(self) -> None:
        """Lose the connection."""
        self._peer = None
        if self._connection is not None:
            self._connection.transport.abort()


class RealLink:
    """A node's way to the store: a proxy."""

    def __init__(self, world: "RealWorld", proxy: Proxy) -> None:
        self._world = world
        self._proxy = proxy

    def cut(self, ms: float, side: str = "") -> None:
        """Refuse connections for a while, or only those that subscribe."""
        (self._proxy.cut_subscribers if side else self._proxy.cut)()
        self._world.at(ms, self._proxy.heal)

    def stall(self, ms: float) -> None:
        """Let nothing through for a while."""
        self._proxy.hang()
        self._world.at(ms, self._proxy.heal)

    def lose_answers(self, number: int) -> None:
        """No answers are lost here."""


class RealNode:
    """A node's process."""

    def __init__(self, world: "RealWorld", node: Node, link: RealLink) -> None:
        self.node = node
        self.link = link
        self.alive = self.ready = True
        self._world = world

    def connect(
        self, user: str, peer: Peer, *, resume: str | None = None, info: dict[str, object] | None = None
    ) -> RealSocket:
        """Connect a client."""
        query = {"user": user, "info": json.dumps(info or {})} | (
            {} if resume is None else {"resume": resume}
        )
        return RealSocket(self._world, f"{self.node.ws_url}?{urlencode(query, quote_via=quote)}", peer)

    def freeze(self) -> None:
        """Stop the process."""
        self.node.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self.node.thaw()

    def kill(self) -> None:
        """Kill the process."""
        self.alive = self.ready = False
        self.node.kill()


class RealStore:
    """A server's process."""

    def __init__(self, world: "RealWorld", server: RedisServer) -> None:
        self._world = world
        self._server = server

    def freeze(self) -> None:
        """Stop the process."""
        self._server.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        self._server.thaw()

    def restart_empty(self, down_ms: float) -> None:
        """Kill it, and start it with nothing."""
        self._server.kill()
        self._world.at(down_ms, self._server.start)

    def flush_all(self) -> None:
        """FLUSHALL."""
        self._server.ask("FLUSHALL")

    def script_flush(self) -> None:
        """SCRIPT FLUSH."""
        self._server.ask("SCRIPT", "FLUSH")


class RealWorld:
    """What a stage asks of a world, on real time."""

    def __init__(self, seed: int, tasks: anyio.abc.TaskGroup, server: RedisServer) -> None:
        self.random = Random(seed)  # noqa: S311 - jitter
        self.trace: list[str] = []
        self.nodes: list[RealNode] = []
        self.store = RealStore(self, server)
        self._tasks = tasks
        self._timers: list[asyncio.TimerHandle] = []
        self._is_over = False
        self._began_s = time.monotonic()

    @property
    def now_ms(self) -> int:
        """Milliseconds since the world began."""
        return round((time.monotonic() - self._began_s) * 1_000)

    @property
    def alive(self) -> list[RealNode]:
        """Return the nodes that run."""
        return [node for node in self.nodes if node.alive]

    def at(self, ms: float, action: Callable[[], object]) -> None:
        """Have something done `ms` from now, unless the world has ended: then clients do not come back."""
        if not self._is_over:
            self._timers.append(asyncio.get_running_loop().call_later(ms / 1_000, action))

    def end(self) -> None:
        """Do nothing any more of what was to be done later."""
        self._is_over = True
        for timer in self._timers:
            timer.cancel()

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Have something done beside."""
        self._tasks.start_soon(work, *args)

    def start_node(self) -> RealNode:
        """Start the process again that was killed."""
        dead = next(node for node in self.nodes if not node.alive)
        self.nodes.remove(dead)
        again = RealNode(self, dead.node, dead.link)
        again.ready = False
        self.nodes.append(again)
        self.start(self._restart, again)
        return again

    async def _restart(self, node: RealNode) -> None:
        await node.node.wait()
        await node.node.start()
        node.ready = True


@asynccontextmanager
async def real_world(plan: Plan, server: RedisServer, folder: Path) -> AsyncIterator[RealWorld]:
    """Start a plan's nodes, each with a network of its own."""
    async with anyio.create_task_group() as tasks:
        world = RealWorld(plan.seed, tasks, server)
        proxies = [Proxy(server) for _ in range(plan.nodes)]
        for proxy in proxies:
            await proxy.__aenter__()
            node = Node(folder, "--redis.url", proxy.url, *ARGS)
            await node.start()
            world.nodes.append(RealNode(world, node, RealLink(world, proxy)))
        try:
            yield world
        finally:
            world.end()
            for real in world.nodes:
                real.kill()
                with anyio.CancelScope(shield=True):
                    await real.node.wait()
            for proxy in proxies:
                await proxy.__aexit__()
            tasks.cancel_scope.cancel()


async def play_for_real(plan: Plan, server: RedisServer, folder: Path) -> list[tuple[str, str]]:
    """Play a plan with real nodes; return the promises that it broke, as far as they can be seen from outside."""
    async with real_world(plan, server, folder) as world:
        stage = Stage(cast("World", world), plan)
        stage.begin()
        await anyio.sleep(plan.ends_ms / 1_000)
        stage.disasters.end_all()
        await anyio.sleep((QUIET_MS + COMING_BACK_MS) / 1_000)
        scene = stage.scene({})
        stage.check(scene, QUIET)
        await _check_api(stage, scene, world.alive)
        stage.judge()
        return stage.chronicle.broken


async def _check_api(stage: Stage, scene: Scene, nodes: Sequence[RealNode]) -> None:
    for node in nodes:
        for room in ROOMS:
            answer = await call(node.node, "GET", f"/v1/rooms/{room}/members")
            cids = sorted(member["cid"] for member in answer.body["members"])
            if cids != sorted(scene.members(room)):
                stage.chronicle.breaks(
                    "api_exact", 0, f"{room}: {cids}, which is {sorted(scene.members(room))}"
                )
