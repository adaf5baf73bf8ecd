"""Counting in a Redis or Valkey that many share: a loop turn's decisions travel as one script call."""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import anyio
import msgspec
import structlog

from presence_server.redis_io.client import AWAY, RedisClient, is_away
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.throttle.breaker import Breaker
from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Rule

SCRIPT: Final = Script("presence_server.throttle", "throttle")
CALL_MAX: Final = 200
"""Decisions in one script call; a longer one would hold up everybody else's."""
LANES: Final = 2
"""Pipelines in flight: while one is under way the next gathers and goes."""
RETRY_LISTENING_S: Final = 0.5

log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode


Said: TypeAlias = list[int]
"""For each rule: allowed, remaining, retry (µs), reset (µs), blocked."""


class Answers(msgspec.Struct, array_like=True):
    """What the script returns: its TIME, and for each decision verdicts or what was wrong."""

    now_us: int
    answers: list[Said | str]


_decode = msgspec.msgpack.Decoder(Answers, strict=False).decode


class Request(NamedTuple):
    """One decision. `done` gets what the store said, or None where it did not answer.

    It may be a future's `set_result`: that the future was cancelled meanwhile is no error.
    """

    verb: str
    rules: Sequence[Rule]
    places: Sequence[str]
    cost: int
    done: Callable[[Said | None], None]


class Turn:
    """What came in one turn of the loop: it is answered as a whole, in time or not."""

    __slots__ = ("requests", "timer")

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """None are left once they have been answered."""
        self.timer: asyncio.TimerHandle | None = None


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
        self._gathering: Turn | None = None
        self._turns: list[Turn] = []
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def ask(self, request: Request) -> bool:
        """Have a decision made; False, and nothing done, where nothing is tried now."""
        turn = self._gathering
        if turn is None:
            if not self.breaker.allows(time.monotonic()):
                return False
            loop = asyncio.get_running_loop()
            if not self._tasks:
                self._begin(loop)
            turn = self._gathering = Turn()
            turn.timer = loop.call_later(self._deadline_s, self._late, turn)
            self._turns.append(turn)
            loop.call_soon(self._send)
        turn.requests.append(request)
        return True

    async def aclose(self) -> None:
        """Give everything up and close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for turn in self._turns:
            self._answer(turn, None)
        await self._client.aclose()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks = [loop.create_task(self._work()) for _ in range(LANES)]
        self._tasks.append(loop.create_task(self._listen()))

    def _send(self) -> None:
        self._gathering = None
        self._wanted.set()

    def _late(self, turn: Turn) -> None:
        if turn.requests:
            self.breaker.failed(time.monotonic())
            self._answer(turn, None)

    def _lose(self, turns: list[Turn]) -> None:
        for turn in turns:
            self._late(turn)

    @staticmethod
    def _answer(turn: Turn, answers: Sequence[Said | None] | None) -> None:
        requests, turn.requests = turn.requests, []
        if turn.timer is not None:
            turn.timer.cancel()
        for i, request in enumerate(requests):
            try:
                request.done(None if answers is None else answers[i])
            except asyncio.InvalidStateError:
                continue

    async def _work(self) -> None:
        """Carry what has been gathered, for ever."""
        lane = self._client.lane()
        try:
            while True:
                await self._wanted.wait()
                turns = [turn for turn in self._turns if turn.requests and turn is not self._gathering]
                self._turns = [self._gathering] if self._gathering is not None else []
                self._wanted.clear()
                if turns:
                    try:
                        with anyio.fail_after(self._deadline_s):
                            await self._carry(lane.pipeline, turns)
                    except (*AWAY, TimeoutError):
                        self._lose(turns)
                    except Exception:
                        log.exception("a defect of the limiter; its decisions are made without the store")
                        self._lose(turns)
        finally:
            with anyio.CancelScope(shield=True):
                await lane.aclose()

    async def _carry(self, pipeline: Callable[[list[Call]], Awaitable[list[Any]]], turns: list[Turn]) -> None:
        requests = [request for turn in turns for request in turn.requests]
        sizes = [len(turn.requests) for turn in turns]
        chunks = [requests[i : i + CALL_MAX] for i in range(0, len(requests), CALL_MAX)]
        answers: list[Said | None] = []
        for answered, chunk in zip(await pipeline([self._call(c) for c in chunks]), chunks, strict=True):
            if isinstance(answered, Exception):
                if is_away(answered):
                    raise answered
                answers += [None] * len(chunk)
                continue
            said = _decode(answered)
            self.now_us = said.now_us
            answers += [None if isinstance(answer, str) else answer for answer in said.answers]
        self.breaker.succeeded()
        at = 0
        for turn, size in zip(turns, sizes, strict=True):
            self._answer(turn, answers[at : at + size])
            at += size

    def _call(self, requests: Sequence[Request]) -> Call:
        places: list[str] = []
        numbers: dict[int, int] = {}
        rules: list[tuple[str, int, int, float, int]] = []
        rows: list[Any] = []
        for verb, asked, at, cost, _ in requests:
            places += at
            row = []
            for rule in asked:
                number = numbers.get(id(rule))
                if number is None:
                    rules.append(_row(rule))
                    number = numbers[id(rule)] = len(rules)
                row.append(number)
            rows.append(row[0] if verb == "hit" and cost == 1 and len(row) == 1 else [verb, cost, *row])
        nonce, channel = os.urandom(6).hex(), self._keys.purge_channel()
        arguments = (_encode((rules, rows)), nonce, channel, self._node)
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


def _row(rule: Rule) -> tuple[str, int, int, float, int]:
    return rule.algorithm, rule.count, rule.window_us, rule.interval_us, rule.block_ms * 1_000


def verdicts(said: Said) -> list[Verdict]:
    """Return what the store said as verdicts, one for each rule."""
    return [
        Verdict(said[i] == 1, said[i + 1], said[i + 2], said[i + 3], said[i + 4] == 1)
        for i in range(0, len(said), 5)
    ]
