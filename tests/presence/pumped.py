"""The shared store on a real server, with its calls made at once, and its time moved."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from redis import Redis
from redis.client import PubSub
from redis.exceptions import ResponseError

from presence_server.bus.memory import MemoryBus
from presence_server.presence import script_calls
from presence_server.presence.operations import Operation, Outcome
from presence_server.presence.port import Claim, MemberPage, everything
from presence_server.presence.redis import Timing
from presence_server.presence.roster import Delta, Snapshot
from presence_server.redis_io.batcher import PipelineBatcher, Work, WorkSource
from presence_server.redis_io.keys import Keys
from tests.presence.stored import in_contact
from tests.support.handclock import HandClock
from tests.support.operations import CLAIM_MS, TTL_MS
from tests.support.redis_server import DEADLINE_S

KEYS = Keys("ps")
LATE_MS = 15_000
HOLD_MS = 20_000
TRAVEL = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local part = string.match(key, '[^:]*$')
  if part == 'expiry' then
    for _, cid in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ARGV[1], cid)
    end
  elseif part == 'fences' then
    local kept = redis.call('HGETALL', key)
    for i = 1, #kept, 2 do
      local fence = cmsgpack.unpack(kept[i + 1])
      if fence[2] > 0 then
        redis.call('HSET', key, kept[i], cmsgpack.pack({ fence[1], fence[2] - ARGV[1], fence[3] }))
      end
    end
  end
  local ttl = redis.call('PTTL', key)
  assert(ttl > 0, 'a key without a TTL: ' .. key)
  redis.call('PEXPIRE', key, math.max(ttl - ARGV[1], 0))
end
"""
"""Moves everything that is to happen nearer by ARGV[1] ms, which is the same as moving time on."""


class Unhurried(PipelineBatcher):
    """Leaves it to the test when calls are made."""

    def __init__(self) -> None:
        """Nothing is needed."""

    def add_source(self, source: WorkSource) -> None:
        """The test asks for work itself."""

    def wake(self) -> None:
        """The test will see to it."""


def _unexpected(*_: object) -> None:
    raise AssertionError("the store is not away")


def everything_heard(client: Redis) -> PubSub:
    """Return a subscription to all rooms."""
    heard: PubSub = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
    heard.psubscribe(KEYS.channel("*"))
    assert heard.get_message(timeout=DEADLINE_S) is not None, "it is not subscribed"
    return heard


class Pumped:
    """A `PresenceStore` that has its answer before a call returns; what it announces goes to `bus`."""

    def __init__(self, client: Redis, heard: PubSub) -> None:
        self.bus: MemoryBus[Delta] = MemoryBus()
        self._client = client
        self._client.flushall()
        self._heard = heard
        self._announced()
        self.hold_rest_ms = 0
        """What is left of a hold that this node keeps."""
        self._rooms: set[str] = set()
        self.clock = HandClock()
        seconds, micros = client.time()
        self.clock.follow(seconds * 1_000 + micros // 1_000)
        self.failed: list[tuple[str, Operation]] = []
        self.answered: dict[str, tuple[int, int]] = {}
        timing = Timing(ttl_ms=TTL_MS, late_ms=LATE_MS, hold_ms=HOLD_MS, claim_ms=CLAIM_MS)
        self.isolated = False
        self._is_deaf = False
        self._store = in_contact(
            Unhurried(),
            KEYS,
            self.clock,
            timing,
            hold_rest_ms=lambda: self.hold_rest_ms,
            is_isolated=lambda: self.isolated,
            failed=lambda room, request: self.failed.append((room, request.operation)),
            answered=self._note_position,
        )

    def _note_position(self, room: str, generation: int, seq: int) -> None:
        self.answered[room] = (generation, seq)

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        self._store.carry_out(room, operation, done)
        self.pump()

    def snapshot(self, room: str, done: Callable[[Snapshot], None], *, members_max: int = 0) -> None:
        self._rooms.add(room)
        self._store.snapshot(room, done, members_max=members_max)
        self.pump()

    def page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        self._store.page(room, cursor, limit, bytes_max, done)
        self.pump()

    def claim(
        self,
        cid: str,
        epoch: int,
        node: str,
        issuer: str,
        done: Callable[[int], None],
        *,
        known: int | None = None,
    ) -> None:
        self._store.claim(cid, epoch, node, issuer, done, known=known)
        self.pump()

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        self._store.read_claim(cid, done)
        self.pump()

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        self._store.end_tokens(cid, done)
        self.pump()

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        self._store.end_user_tokens(user, at, done)
        self.pump()

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        self._store.read_user_end(user, done)
        self.pump()

    def note_delta(self, room: str, delta: Delta) -> None:
        self._store.note_delta(room, delta)

    def forget(self, room: str) -> None:
        self._store.forget(room)

    def sweep_expired(self) -> None:
        """Sweep as often as a second has time for."""
        for room in sorted(self._rooms):
            self._store.snapshot(room, lambda _: None)
        self.pump()
        for _ in range(4):
            self._store.sweep_expired()
            self.pump()
            self.clock.move(1_000)

    def sweep_once(self) -> int:
        """Sweep as one turn of the loop does; return how many calls the first pipeline had."""
        self._store.sweep_expired()
        return self.pump()

    def lose_contact(self) -> None:
        """Have what was not answered fail."""
        self.isolated = True
        self._store.abandon(everything)

    def move(self, ms: int) -> None:
        """Let time pass."""
        self._client.eval(TRAVEL, 0, ms)

    def rooms_kept(self) -> int:
        """Return how many rooms have any key."""
        keys: list[bytes] = self._client.keys("ps:{*}:*")  # type: ignore[assignment]  # sync client
        return len({key.rpartition(b":")[0] for key in keys if not key.endswith(b":claim")})

    def gather(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Leave an operation for the next `pump`."""
        self._store.carry_out(room, operation, done)

    def gather_read(self, room: str, done: Callable[[Snapshot], None]) -> None:
        """Leave a read for the next `pump`."""
        self._store.snapshot(room, done)

    def pump(self) -> int:
        """Make every call that is due; return how many the first pipeline had."""
        first = self.pump_once()
        while self.pump_once():
            pass
        return len(first)

    def pump_operations(self) -> None:
        """Make the calls that change rooms; leave those that read them for the next `pump_once`."""
        reads = self._store._reads
        due, reads._due = reads._due, []
        self.pump_once()
        reads._due += due

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Lose what is announced meanwhile."""
        self._is_deaf = True
        yield
        self._is_deaf = False

    def pump_once(self) -> list[Work]:
        """Make the calls of one pipeline."""
        work = self._store.take()
        for piece in work:
            answer = self._ask(piece.call.by_text())
            self._listen()
            piece.done(answer)
        return work

    def _ask(self, command: tuple[str | bytes | int, ...]) -> Any:
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
        except ResponseError as exc:
            return exc

    def _announced(self) -> list[tuple[str, bytes]]:
        """Return each room and payload that was announced since the last time."""
        self._client.publish(KEYS.probe_channel(), "")
        announced: list[tuple[str, bytes]] = []
        while True:
            message = self._heard.get_message(timeout=DEADLINE_S)
            assert message is not None, "what was published does not arrive"
            if not (room := _room_of(message["channel"].decode())):
                return announced
            announced.append((room, message["data"]))

    def _listen(self) -> None:
        """Hear everything that has been announced so far."""
        for room, payload in self._announced():
            if self._is_deaf:
                continue
            delta = script_calls.delta(msgspec.msgpack.decode(payload[1:], type=script_calls.DeltaOnChannel))
            self._store.note_delta(room, delta)
            if delta.joins or delta.updates or delta.leaves:
                self.bus.publish(room, delta)


def _room_of(channel: str) -> str:
    """Return the room of a channel; "": it is the channel of a probe."""
    return channel.partition("{")[2].rpartition("}")[0]
