"""The presence store that nodes share: each operation a row of a script's call, each tick one pipeline."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from presence_server.clock import Clock
from presence_server.ids import new_generation
from presence_server.presence import calls
from presence_server.presence.roster import Delta, Snapshot
from presence_server.presence.state import EVICTIONS_MAX, Beat, Operation, Outcome
from presence_server.redis_io.coalescer import Coalescer, Work
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import Script, script_call

PACKAGE: Final = "presence_server.presence"
SCRIPTS: Final = {name: Script(PACKAGE, "room", name) for name in calls.CALL_MAX}
CLAIM: Final = Script(PACKAGE, "claim")
SWEEP_RETRY_MS: Final = 1_000
"""A sweep that was asked for is not asked for again before this."""

_decode_answer = msgspec.msgpack.Decoder(calls.Answer).decode
_encode_rows = msgspec.msgpack.Encoder().encode
log = structlog.get_logger()


class Timing(NamedTuple):
    """The durations that scripts go by, all in ms."""

    ttl_ms: int
    hold_ms: int
    horizon_ms: int
    claim_ms: int


class Request(NamedTuple):
    """One operation in a call: how many of its rows are its own, and who is told."""

    operation: Operation
    rows: int
    done: Callable[[Outcome], None]


class Group:
    """Operations of one verb on one room that travel in one call."""

    __slots__ = ("requests", "room", "rows", "verb")

    def __init__(self, room: str, verb: str) -> None:
        self.room = room
        self.verb = verb
        self.rows: list[Any] = []
        self.requests: list[Request] = []


class RedisStore:
    """Presence in Redis or Valkey; see `PresenceStore` for what it promises.

    `failed(room, request)` gets every operation whose call did not succeed: the store may or may not have
    carried it out. `answered(room, generation, seq)` is told where each room is.
    """

    def __init__(self, coalescer: Coalescer, keys: Keys, clock: Clock, timing: Timing, node: str) -> None:
        self.unclaimed: Callable[[str, int, str, Callable[[int], None]], None] = lambda *_: None
        self.failed: Callable[[str, Request], None] = lambda room, request: None
        self.unread: Callable[[], None] = lambda: None
        self.answered: Callable[[str, int, int], None] = lambda room, generation, seq: None
        self.holding = False
        """Whether this node was away, so that rooms must not judge its members before it has spoken."""
        self._coalescer = coalescer
        self._keys = keys
        self._clock = clock
        self._timing = timing
        self._node = node
        self._groups: list[Group] = []
        self._open: dict[str, Group] = {}
        self._reads: list[Work] = []
        self._due_ms: dict[str, int] = {}
        self._ahead_ms = 0

    def now_ms(self) -> int:
        """Return the store's time as far as this node knows it, ms since 1970."""
        return self._clock.now_ms() + self._ahead_ms

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Send one operation with this tick's call for its room."""
        packed = calls.pack(operation)
        group = self._open.get(room)
        if group is None or group.verb != packed.verb or len(group.rows) >= calls.CALL_MAX[packed.verb]:
            group = self._open[room] = Group(room, packed.verb)
            self._groups.append(group)
            self._coalescer.wake()
        group.rows += packed.rows
        group.requests.append(Request(operation, len(packed.rows), done))

    def snapshot(self, room: str, done: Callable[[Snapshot], None]) -> None:
        """Read a whole room. When the call fails, `done` is not called: what watches the store asks again."""
        self._reads.append(Work(self._call(room, "snapshot", []), partial(self._read, room, done)))
        self._coalescer.wake()

    def claim(self, cid: str, epoch: int, node: str, done: Callable[[int], None]) -> None:
        """Claim the next epoch of `cid`; the node that had it is told."""
        keys = self._keys
        prefix, _, suffix = keys.node_channel("\0").partition("\0")
        arguments = (epoch, self._node, node, self._timing.claim_ms, prefix, suffix, cid)
        call = script_call(CLAIM, [keys.claim(cid)], arguments)

        def answer(answered: Any) -> None:
            if isinstance(answered, Exception):
                self.unclaimed(cid, epoch, node, done)
            else:
                done(int(answered))

        self._reads.append(Work(call, answer))
        self._coalescer.wake()

    def take(self) -> list[Work]:
        """Return this tick's calls: operations first, then reads, which thereby see them."""
        groups, self._groups = self._groups, []
        reads, self._reads = self._reads, []
        self._open.clear()
        work = [
            Work(self._call(group.room, group.verb, group.rows), partial(self._answer, group))
            for group in groups
        ]
        return work + reads

    def heard(self, room: str, delta: Delta) -> None:
        """Note when the next member of a room may expire."""
        self._due_ms[room] = delta.due_ms

    def forget(self, room: str) -> None:
        """Stop sweeping a room that nobody here watches."""
        self._due_ms.pop(room, None)

    def sweep(self) -> None:
        """Have every watched room swept whose earliest expiry has passed."""
        now_ms = self.now_ms()
        for room, due_ms in self._due_ms.items():
            if 0 < due_ms <= now_ms:
                self._due_ms[room] = now_ms + SWEEP_RETRY_MS
                self.carry_out(room, Beat({}, self._timing.ttl_ms), lambda _: None)

    def _call(self, room: str, verb: str, rows: list[Any]) -> Any:
        timing = self._timing
        hold_ms = timing.hold_ms if self.holding else 0
        arguments: list[str | bytes | int] = [
            self._keys.channel(room),
            str(new_generation()),
            timing.ttl_ms,
            EVICTIONS_MAX,
            hold_ms,
            timing.horizon_ms,
            _encode_rows(rows),
        ]
        return script_call(SCRIPTS[verb], self._keys.room(room), arguments)

    def _answer(self, group: Group, answered: Any) -> None:
        if isinstance(answered, Exception):
            log.warning("store call failed", verb=group.verb, error=f"{type(answered).__name__}: {answered}")
            for request in group.requests:
                self.failed(group.room, request)
            return
        answer = self._understand(group.room, answered)
        at = 0
        for request in group.requests:
            results = answer.results[at : at + request.rows]
            at += request.rows
            request.done(calls.outcome(request.operation, answer, results))

    def _read(self, room: str, done: Callable[[Snapshot], None], answered: Any) -> None:
        if isinstance(answered, Exception):
            log.warning("store read failed", error=f"{type(answered).__name__}: {answered}")
            self.unread()
            return
        answer = self._understand(room, answered)
        records = tuple(calls.record(*row) for row in answer.results)
        done(Snapshot(int(answer.generation), answer.seq, records))

    def _understand(self, room: str, answered: bytes) -> calls.Answer:
        answer = _decode_answer(answered)
        self._ahead_ms = answer.now - self._clock.now_ms()
        if room in self._due_ms:
            self._due_ms[room] = answer.due
        self.answered(room, int(answer.generation), answer.seq)
        return answer
