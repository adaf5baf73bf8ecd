"""A node's connections to the store, in place of `redis_io.client.RedisClient`: slow, cut, half-open, lossy.

Bytes that were sent arrive in order or not at all. The store works in a context of its own, so that what is
sent to a frozen store waits in its sockets; what comes for a frozen node waits in the node's.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.redis_io.client import TIMEOUT_S, RedisClient, RedisLane

if TYPE_CHECKING:
    from tests.simulation.nodes import SimulatedNode
    from tests.simulation.store import SimulatedStore

Side = Literal["commands", "pubsub"]
BOTH: Final[tuple[Side, ...]] = ("commands", "pubsub")
ROOM_CHANNEL_END: Final = b"}:bus"
"""How the channels of rooms end, and no others."""


class Pipe:
    """One TCP connection. `ended(error)` is called in the node's context when it is reset; `send` raises then."""

    def __init__(self, link: "Link", side: Side, ended: Callable[[Exception], None]) -> None:
        self.is_open = True
        self.side = side
        self._link = link
        self._ended = ended
        self._is_silent = False
        """Whether nothing arrives any more, either way, and nobody is told."""
        self._is_reset = False
        self._arrives_there_s = self._arrives_here_s = 0.0
        self.forget: Callable[[], None] = lambda: None
        """Called in the store when it hears that the connection has ended."""

    def send(self, work: Callable[[], None]) -> None:
        """Have the store do something with what the node sends now."""
        if not self.is_open:
            raise RedisConnectionError("the connection is closed")
        if not self._is_silent:
            link = self._link
            when_s = max(link.arrival_s(self.side), self._arrives_there_s)
            self._arrives_there_s = link.at_store(when_s, partial(self._arrive_there, work))

    def answer(self, tell: Callable[[], None]) -> None:
        """Have the node hear something that the store sends now."""
        if not (self._is_silent or self._is_reset):
            link = self._link
            when_s = max(link.arrival_s(self.side), self._arrives_here_s)
            self._arrives_here_s = link.at_node(when_s, partial(self._arrive_here, tell))

    def close(self) -> None:
        """Close the node's end: what it has sent still arrives, and nothing comes back."""
        if self.is_open:
            self.is_open = False
            self._link.pipes.pop(self, None)
            self._link.at_store(max(self._link.arrival_s(self.side), self._arrives_there_s), self.forget)

    def reset(self) -> None:
        """Lose the connection: both ends are told. What was under way to the store may have arrived."""
        if self.is_open:
            self._is_reset = True
            self._link.pipes.pop(self, None)
            self.forget()
            self._link.at_node(self._link.now_s, self._tell_reset)

    def silence(self) -> None:
        """Lose the connection so that neither end is told: half-open."""
        self._is_silent = True

    def _arrive_there(self, work: Callable[[], None]) -> None:
        if self._is_silent or (self._is_reset and self._link.random.random() < 0.5):
            return
        work()

    def _arrive_here(self, tell: Callable[[], None]) -> None:
        if self.is_open and not (self._is_silent or self._is_reset):
            tell()

    def _tell_reset(self) -> None:
        if self.is_open:
            self.is_open = False
            self._ended(RedisConnectionError("connection reset by peer"))


class Link:
    """One node's way to the store, and what is wrong with it. Times end by themselves, of two alike the later one."""

    def __init__(self, node: "SimulatedNode", store: "SimulatedStore") -> None:
        self.node = node
        self.store = store
        self.random = node.world.random
        self.pipes: dict[Pipe, None] = {}
        """Connections that are open on the node's side, the oldest first."""
        self._refused_until_s: dict[Side, float] = dict.fromkeys(BOTH, 0.0)
        self._stalled_until_s: dict[Side, float] = dict.fromkeys(BOTH, 0.0)
        self._slow_until_s = 0.0
        self._slow_s = (0.0, 0.0)
        self._lossy_until_s = 0.0
        self._lost_share = 0.0
        self._loses_of_rooms_only = False
        self._answers_to_lose = 0
        self._loses_silently = False
        self._answers_are_lost: Callable[[], None] = lambda: None
        store.links.append(self)

    # --- faults ---

    def cut(self, ms: float, *sides: Side) -> None:
        """Reset the connections, and refuse new ones for a while."""
        self._note(f"cut for {ms:.0f} ms", sides)
        for side in sides or BOTH:
            self._refused_until_s[side] = max(self._refused_until_s[side], self.now_s + ms / 1_000)
        self._each_pipe(sides, Pipe.reset)

    def stall(self, ms: float, *sides: Side) -> None:
        """Let nothing arrive for a while; then all of it does."""
        self._note(f"stalled for {ms:.0f} ms", sides)
        for side in sides or BOTH:
            self._stalled_until_s[side] = max(self._stalled_until_s[side], self.now_s + ms / 1_000)

    def half_open(self, *sides: Side) -> None:
        """Let the connections that there are go dead without a word; new ones work."""
        self._note("half-open", sides)
        self._each_pipe(sides, Pipe.silence)

    def slow(self, ms: float, least_ms: float, most_ms: float) -> None:
        """Add a delay each way for a while."""
        self._note(f"{least_ms:.0f} to {most_ms:.0f} ms slower for {ms:.0f} ms", ())
        self._slow_until_s = self.now_s + ms / 1_000
        self._slow_s = (least_ms / 1_000, most_ms / 1_000)

    def lose_messages(self, share: float, ms: float, *, rooms_only: bool = False) -> None:
        """Lose a share of the messages of channels, or of rooms' channels only, for a while."""
        self._note(f"loses {share:.0%} of messages for {ms:.0f} ms", ())
        self._lost_share = share
        self._loses_of_rooms_only = rooms_only
        self._lossy_until_s = self.now_s + ms / 1_000

    def lose_answers(
        self, number: int = 1, *, silently: bool = False, over: Callable[[], None] = lambda: None
    ) -> None:
        """Have the next pipelines carried out, wholly or in part, and the connection lost before the answers.

        `silently`: all of each is carried out, and the node is not told of the loss. It hears what they have published
        before it gives up waiting. `over` is called when the last of them is lost.
        """
        self._note(f"loses the answers of {number} pipelines", ())
        self._answers_to_lose = number
        self._loses_silently = silently
        self._answers_are_lost = over

    def reset_by_store(self) -> None:
        """Lose every connection, because the server's process has ended."""
        for pipe in list(self.pipes):
            pipe.reset()

    # --- what connections ask ---

    @property
    def now_s(self) -> float:
        """Return the loop's time."""
        return self.node.world.loop.time()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with this link at present; half-open connections do not count."""
        now_s = self.now_s
        until_s = (*self._refused_until_s.values(), *self._stalled_until_s.values())
        return now_s >= max(*until_s, self._slow_until_s, self._lossy_until_s) and not self._answers_to_lose

    def arrival_s(self, side: Side) -> float:
        """Return when something arrives that is sent now, in the loop's time."""
        now_s = self.now_s
        delay_s = self.node.world.store_delay_s()
        if now_s < self._slow_until_s:
            delay_s += self.random.uniform(*self._slow_s)
        return max(now_s, self._stalled_until_s[side]) + delay_s

    def at_store(self, when_s: float, work: Callable[[], None]) -> float:
        """Have the store do something then."""
        self.node.world.loop.deliver(when_s, work, self.node.world.store_context)
        return when_s

    def at_node(self, when_s: float, work: Callable[[], None]) -> float:
        """Have the node do something then."""
        self.node.world.loop.deliver(when_s, work, self.node.context)
        return when_s

    def is_refused(self, side: Side) -> bool:
        """Tell whether new connections are refused."""
        return self.now_s < self._refused_until_s[side] or self.store.is_down or not self.node.alive

    def loses_message(self, channel: bytes) -> bool:
        """Draw whether a message of a channel is lost."""
        concerned = not self._loses_of_rooms_only or channel.endswith(ROOM_CHANNEL_END)
        return concerned and self.now_s < self._lossy_until_s and self.random.random() < self._lost_share

    @property
    def loses_silently(self) -> bool:
        """Whether a node is not told that the connection was lost before the answers."""
        return self._loses_silently

    def takes_answers(self) -> bool:
        """Tell whether the answers of this pipeline are lost."""
        if self._answers_to_lose == 0:
            return False
        self._answers_to_lose -= 1
        if self._answers_to_lose == 0:
            self._answers_are_lost()
        return True

    async def connect(self, side: Side, ended: Callable[[Exception], None]) -> Pipe:
        """Connect and greet. Raises `ConnectionError` of redis-py, or `TimeoutError` of what hangs."""
        await asyncio.sleep(self.node.world.store_delay_s())
        if self.is_refused(side):
            raise RedisConnectionError("connection refused")
        pipe = Pipe(self, side, ended)
        self.pipes[pipe] = None
        try:
            with anyio.fail_after(TIMEOUT_S):
                greeted = anyio.Event()
                pipe.send(lambda: pipe.answer(greeted.set))
                await greeted.wait()
        except BaseException:
            pipe.close()
            raise
        return pipe

    def _each_pipe(self, sides: Sequence[Side], do: Callable[[Pipe], None]) -> None:
        for pipe in list(self.pipes):
            if pipe.side in (sides or BOTH):
                do(pipe)

    def _note(self, what: str, sides: Sequence[Side]) -> None:
        self.node.world.note(self.node.name, f"link {what}{' of ' + ' and '.join(sides) if sides else ''}")


class SimulatedLane(RedisLane):
    """A connection for pipelines; what `RedisLane` does about forgotten scripts it does here too."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pipe: Pipe | None = None
        self._answered: asyncio.Future[list[Any]] | None = None
        self._loaded = set()

    async def aclose(self) -> None:
        """Close the connection; a pipeline that is under way fails."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        self._fail(RedisConnectionError("the connection was closed"))

    async def _ensure_connected(self) -> None:
        if self._pipe is None or not self._pipe.is_open:
            self._pipe = await self._link.connect("commands", self._fail)
            self._loaded.clear()

    async def _run(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        pipe = self._pipe
        if pipe is None:
            raise RedisConnectionError("the connection was closed")
        self._answered = answered = asyncio.get_running_loop().create_future()
        pipe.send(partial(self._carry_out, pipe, commands, answered))
        answers: list[Any] = await answered
        _raise_loading(answers)
        return answers

    def _carry_out(
        self,
        pipe: Pipe,
        commands: Sequence[tuple[str | bytes | int, ...]],
        answered: "asyncio.Future[list[Any]]",
    ) -> None:
        """Run a pipeline in the store."""
        link = self._link
        if link.store.is_down:
            return
        if link.takes_answers():
            if link.loses_silently:
                for command in commands:
                    link.store.run(command)
                pipe.silence()
                return
            for command in commands[: link.random.randint(1, len(commands))]:
                link.store.run(command)
            pipe.reset()
            return
        answers = [link.store.run(command) for command in commands]
        pipe.answer(lambda: None if answered.done() else answered.set_result(answers))

    def _fail(self, error: Exception) -> None:
        answered = self._answered
        if answered is not None and not answered.done():
            answered.set_exception(error)
            answered.exception()  # whoever gave up on it does not look


def _raise_loading(answers: list[Any]) -> None:
    """Raise as redis-py does, to which this answer is a lost connection."""
    for answer in answers:
        if isinstance(answer, BusyLoadingError):
            raise answer


class SimulatedSubscriber:
    """A connection that subscribes, as redis-py's `Connection` speaks RESP2."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pipe: Pipe | None = None
        self._channels: dict[str, None] = {}
        self._arrived: deque[Any] = deque()
        self._reading: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    async def connect(self) -> None:
        """Connect. Raises as `WebSocketLink.connect`."""
        self._pipe = await self._link.connect("pubsub", self._ended)
        self._pipe.forget = self._forget

    async def send_command(self, *command: str | bytes, check_health: bool = True) -> None:
        """Write SUBSCRIBE, UNSUBSCRIBE or PING."""
        del check_health
        if self._pipe is None:
            raise RedisConnectionError("the connection is closed")
        self._pipe.send(partial(self._carry_out, command))

    async def read_response(
        self,
        *,
        disable_decoding: bool = True,
        timeout: float = math.inf,  # noqa: ASYNC109 - redis-py's
    ) -> Any:
        """Wait for what comes next."""
        del disable_decoding, timeout
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        return self._arrived.popleft()

    async def disconnect(self, *, nowait: bool = False) -> None:
        """Close the connection; the store notices when that has arrived."""
        del nowait
        if self._pipe is not None:
            self._pipe.close()
        self._ended(RedisConnectionError("the connection was closed"))

    # --- in the store ---

    def push(self, response: list[Any], *, is_message: bool) -> None:
        """Send something to the node; a message may be lost."""
        if self._pipe is not None and not (is_message and self._link.loses_message(response[1])):
            self._pipe.answer(partial(self._arrive, response))

    def _carry_out(self, command: tuple[str | bytes, ...]) -> None:
        store = self._link.store
        if store.is_down:
            return
        verb, *channels = (part.decode() if isinstance(part, bytes) else part for part in command)
        for channel in channels:
            if verb == "SUBSCRIBE":
                self._channels[channel] = None
                store.subscribers.setdefault(channel, {})[self] = None
            else:
                self._channels.pop(channel, None)
                self._leave(channel)
            count = len(self._channels)
            self.push([verb.lower().encode(), channel.encode(), count], is_message=False)
        if verb == "PING":
            self.push([b"pong", b""], is_message=False)

    def _forget(self) -> None:
        for channel in self._channels:
            self._leave(channel)
        self._channels.clear()

    def _leave(self, channel: str) -> None:
        heard_by = self._link.store.subscribers.get(channel)
        if heard_by is not None:
            heard_by.pop(self, None)
            if not heard_by:
                del self._link.store.subscribers[channel]

    # --- in the node ---

    def _arrive(self, response: Any) -> None:
        self._arrived.append(response)
        self._wake()

    def _ended(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)


class SimulatedClient(RedisClient):
    """A node's client of the store."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def lane(self) -> RedisLane:
        """Make a connection of its own for pipelines."""
        return SimulatedLane(self._link)

    async def new_subscriber(self) -> Any:
        """Make a connection of its own, for a subscriber."""
        subscriber = SimulatedSubscriber(self._link)
        await subscriber.connect()
        return subscriber

    async def execute(self, *command: str | bytes | int) -> Any:
        """Run one command, on a connection that is made for it."""
        lane = SimulatedLane(self._link)
        try:
            with anyio.fail_after(TIMEOUT_S):
                (answer,) = await lane._run([command])
        finally:
            await lane.aclose()
        if isinstance(answer, Exception):
            raise answer
        if command[0] == "INFO":
            lines = [line.split(":", 1) for line in answer.decode().splitlines() if ":" in line]
            return dict(lines)
        return answer

    async def aclose(self) -> None:
        """Close every connection."""
        self._link.reset_by_store()
