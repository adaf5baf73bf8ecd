"""Counting in a Redis or Valkey that many share: a loop turn's decisions travel as one script call."""

import asyncio
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import anyio
import msgspec
import structlog

from presence_server.redis_io.client import AWAY, Lane, RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.throttle.breaker import Breaker
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Rule

SCRIPT: Final = Script("presence_server.throttle", "throttle")
CALL_MAX: Final = 100
"""Decisions in one script call; a longer one would hold up everybody else's."""
LANES: Final = 2
"""Calls in flight: while the store works on one, this process does on the other's answers."""
RETRY_LISTENING_S: Final = 0.5

log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode


Row: TypeAlias = tuple[str, int, int, float, int]
Said: TypeAlias = list[int]
"""For each rule: allowed, remaining, retry (µs), reset (µs), blocked."""


Done: TypeAlias = Callable[[Said | None], None]
"""Gets what the store said, or None where it did not answer or the key is not what it should be.

It may be a future's `set_result`: that the future was cancelled meanwhile is no error.
"""


class Answers(msgspec.Struct, array_like=True):
    """What the script returns: its TIME, and for each decision verdicts or what was wrong."""

    now_us: int
    answers: list[Said | str]


_decode = msgspec.msgpack.Decoder(Answers, strict=False).decode


class Chunk:
    """Decisions that travel in one script call, and who is told.

    A row is a rule's, for a hit of cost 1, or a list of verb, cost and the rows of rules.
    """

    __slots__ = ("answered", "dones", "lane", "places", "rows")

    def __init__(self) -> None:
        self.places: list[str] = []
        self.rows: list[Any] = []
        self.dones: list[Done] = []
        self.answered = False
        self.lane: Lane | None = None
        """Where it is under way."""

    def answer(self, answers: Sequence[Said | str] | None) -> None:
        """Tell everybody what the store said, or that it said nothing; once."""
        if self.answered:
            return
        self.answered = True
        dones, self.dones, self.places, self.rows = self.dones, [], [], []  # the timer keeps this chunk
        for done, said in zip(dones, answers or [""] * len(dones), strict=True):
            try:
                done(said if type(said) is list else None)
            except asyncio.InvalidStateError:
                continue


class RedisStore:
    """Asks the shared store; after `deadline_ms`, waiting included, a decision is given up.

    Nothing is tried twice: it may have been counted. After some failures in a row nothing is tried at all for
    a while, so that an outage costs microseconds and no deadlines. `forget(place)` is told what every node
    must forget, place None: everything.
    """

    def __init__(self, client: RedisClient, keys: Keys, deadline_ms: int) -> None:
        self.forget: Callable[[str | None], None] = lambda place: None
        self.now_us = 0
        """The store's TIME of the last answer."""
        self.breaker = Breaker()
        self._node = os.urandom(8).hex()
        self._client = client
        self._keys = keys
        self.place = keys.throttle
        self._deadline_s = deadline_ms / 1_000
        self._gathering: list[Chunk] = []
        self._queue: deque[Chunk] = deque()
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: set[asyncio.Future[None]] = set()

    def ask(self, verb: str, rules: Sequence[Rule], places: Sequence[str], cost: int, done: Done) -> bool:
        """Have a decision made; False, and nothing done, where nothing is tried now."""
        chunk = self._chunk()
        if chunk is None:
            return False
        chunk.rows.append([verb, cost, *(rule.row for rule in rules)])
        chunk.places += places
        chunk.dones.append(done)
        return True

    def ask_once(self, rule: Rule, place: str, done: Done) -> bool:
        """Do as `ask` for the usual case: a hit of one rule, with cost 1."""
        chunk = self._chunk()
        if chunk is None:
            return False
        chunk.rows.append(rule.row)
        chunk.places.append(place)
        chunk.dones.append(done)
        return True

    def _chunk(self) -> Chunk | None:
        """Return where the next decision goes, if anything is tried now."""
        if not self._gathering and not self._begin_turn():
            return None
        chunk = self._gathering[-1]
        if len(chunk.rows) >= CALL_MAX:
            chunk = Chunk()
            self._gathering.append(chunk)
        return chunk

    def _begin_turn(self) -> bool:
        """Gather what comes until the end of this turn of the loop, if anything is tried now."""
        if not self.breaker.allows(time.monotonic()):
            return False
        loop = asyncio.get_running_loop()
        if not self._tasks:
            self._begin(loop)
        self._gathering = [Chunk()]
        loop.call_later(self._deadline_s, self._late, self._gathering)
        loop.call_soon(self._send)
        return True

    async def aclose(self) -> None:
        """Give everything up and close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for chunk in (*self._queue, *self._gathering):
            chunk.answer(None)
        await self._client.aclose()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks = [loop.create_task(self._work()) for _ in range(LANES)]
        self._tasks.append(loop.create_task(self._listen()))

    def _send(self) -> None:
        self._queue += self._gathering
        self._gathering = []
        self._wanted.set()

    def _late(self, chunks: Sequence[Chunk]) -> None:
        """Give up what has not been answered."""
        late = [chunk for chunk in chunks if not chunk.answered]
        if not late:
            return
        self.breaker.failed(time.monotonic())
        for lane in {chunk.lane for chunk in late if chunk.lane is not None}:
            self._closing.add(closing := asyncio.ensure_future(lane.aclose()))
            closing.add_done_callback(self._closing.discard)
        for chunk in late:
            chunk.answer(None)

    async def _work(self) -> None:
        """Carry what has been gathered, a chunk at a time, for ever."""
        lane = self._client.lane()
        try:
            while True:
                while not self._queue:
                    self._wanted.clear()
                    await self._wanted.wait()
                chunks = self._take()
                if chunks:
                    await self._carry(lane, chunks)
        finally:
            with anyio.CancelScope(shield=True):
                await lane.aclose()

    def _take(self) -> list[Chunk]:
        """Return as many of what has been gathered as fit one call."""
        chunks: list[Chunk] = []
        size = 0
        while self._queue and (not chunks or size + len(self._queue[0].rows) <= CALL_MAX):
            chunk = self._queue.popleft()
            if not chunk.answered:
                chunks.append(chunk)
                size += len(chunk.rows)
        return chunks

    async def _carry(self, lane: Lane, chunks: list[Chunk]) -> None:
        sizes = [len(chunk.rows) for chunk in chunks]
        for chunk in chunks:
            chunk.lane = lane
        try:
            (answered,) = await lane.pipeline([self._call(chunks)])
            said = _understand(answered)
        except AWAY:
            self._late(chunks)
        except Exception:
            log.exception("a defect of the limiter; its decisions are made without the store")
            self._late(chunks)
        else:
            self.now_us = said.now_us
            self.breaker.succeeded()
            at = 0
            for chunk, size in zip(chunks, sizes, strict=True):
                chunk.answer(said.answers[at : at + size])
                at += size

    def _call(self, chunks: Sequence[Chunk]) -> Call:
        places = [place for chunk in chunks for place in chunk.places]
        numbers: dict[Row, int] = {}
        rows: list[Any] = []
        for chunk in chunks:
            for row in chunk.rows:
                if type(row) is tuple:
                    rows.append(numbers.get(row) or numbers.setdefault(row, len(numbers) + 1))
                else:
                    verb, cost, *rules = row
                    rows.append([verb, cost, *(numbers.setdefault(r, len(numbers) + 1) for r in rules)])
        nonce, channel = os.urandom(6).hex(), self._keys.purge_channel()
        arguments = (_encode(([*numbers], rows)), nonce, channel, self._node)
        return script_call(SCRIPT, places, arguments)

    async def _listen(self) -> None:
        """Hear what must be forgotten; after a loss, forget everything."""
        while True:
            with contextlib.suppress(*AWAY, TimeoutError, RuntimeError, AttributeError):
                connection = await self._client.new_subscriber()
                try:
                    await connection.send_command("SUBSCRIBE", self._keys.purge_channel(), check_health=False)
                    while True:
                        response = await connection.read_response(disable_decoding=True, timeout=math.inf)
                        if bytes(response[0]) == b"message":
                            self.forget(bytes(response[2]).decode())
                finally:
                    with anyio.CancelScope(shield=True):
                        await connection.disconnect(nowait=True)
            self.forget(None)
            await asyncio.sleep(RETRY_LISTENING_S)


def _understand(answered: Any) -> Answers:
    """Return the script's answer. Raises the error that is in its place."""
    if isinstance(answered, Exception):
        raise answered
    return _decode(answered)


def verdicts(said: Said) -> list[Verdict]:
    """Return what the store said as verdicts, one for each rule."""
    return [
        Verdict(said[i] == 1, said[i + 1], said[i + 2], said[i + 3], said[i + 4] == 1)
        for i in range(0, len(said), 5)
    ]
