"""The presence store that nodes share: each operation a row of a script's call, each tick one pipeline."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from redis.exceptions import ResponseError

from presence_server.clock import Clock
from presence_server.faults import contain
from presence_server.ids import new_generation
from presence_server.presence import script_calls
from presence_server.presence.operations import BROKEN, Beat, Done, Operation, Outcome, Sent
from presence_server.presence.port import UNKNOWN_EPOCH, Claim, MemberPage, PresenceStore
from presence_server.presence.redis_reads import RosterReads
from presence_server.presence.roster import Delta, Snapshot
from presence_server.presence.state import EVICTIONS_MAX
from presence_server.presence.sweeps import SweepSchedule
from presence_server.redis_io.batcher import PipelineBatcher, Work
from presence_server.redis_io.client import is_away
from presence_server.redis_io.keys import Keys, name_tag
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.redis_io.store_errors import log_refused_call

PACKAGE: Final = "presence_server.presence"
SCRIPTS: Final = {name: Script(PACKAGE, "room", name) for name in script_calls.CALL_MAX}
CLAIM: Final = Script(PACKAGE, "claim")
END_TOKENS: Final = Script(PACKAGE, "end_tokens")
GENERATION_MAX: Final = 2**63 - 1

Answer = TypeVar("Answer")


def _number(answer: Any) -> int:
    """Return the number in an answer; 0: the key is not there. Raises `ValueError`."""
    return int(answer or 0)


def _nothing(answer: Any) -> None:
    """Return nothing: an answer that says no more than that the call has run."""


def _no_error(answer: Any) -> Any:
    """Return an answer. Raises it where it is an error."""
    if isinstance(answer, Exception):
        raise answer
    return answer


class Timing(NamedTuple):
    """The durations that scripts go by, all in ms; `late_ms` and `hold_ms`: see `Sent`."""

    ttl_ms: int
    late_ms: int
    hold_ms: int
    claim_ms: int


class QueuedOperation(NamedTuple):
    """One operation in a call: how many of the rows are its own, and the callback that gets its outcome."""

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
        self.requests: list[QueuedOperation] = []

    def add(self, request: QueuedOperation, rows: list[Any]) -> None:
        """Take one more operation along."""
        self.rows += rows
        self.requests.append(request)


class PresenceRedisStore:
    """Presence in Redis or Valkey; see `PresenceStore` for what it promises.

    `failed(room, request)` gets every operation whose call did not succeed because the store is away: it may or may
    not have been carried out, and `unanswered(again)` what asks another store the same, for a call about tokens; before
    that, and where a read did not succeed, `mark_away(tag, error)` is told, by the hash tag of the call's key.
    `answered(room, generation, seq)` is told where each room is. `hold_rest_ms(room)` says for how long this node still
    asks a room to evict nobody, because it, and maybe others, had no contact; 0: not at all. `is_isolated(room)` tells
    whether this store is not asked about a room at present: answers that come then are to what has been forgotten.
    `publishes` is the command that announces deltas. A call that the store refuses to run is split, and what fails
    alone is answered with `BROKEN`, so that one room with something wrong in it harms no other.
    """

    def __init__(
        self,
        batcher: PipelineBatcher,
        keys: Keys,
        clock: Clock,
        timing: Timing,
        node: str,
        *,
        hold_rest_ms: Callable[[str], int],
        is_isolated: Callable[[str], bool],
        failed: Callable[[str, QueuedOperation], None],
        mark_away: Callable[[str, Exception], None],
        unanswered: Callable[[Callable[[PresenceStore], None]], None],
        answered: Callable[[str, int, int], None],
        publishes: str = "PUBLISH",
    ) -> None:
        self._publishes = publishes
        self._hold_rest_ms = hold_rest_ms
        self._is_isolated = is_isolated
        self._failed = failed
        self._mark_away = mark_away
        self._unanswered = unanswered
        self._answered = answered
        self._batcher = batcher
        self._keys = keys
        self._clock = clock
        self._timing = timing
        self._node = node
        self._groups: list[Group] = []
        self._open: dict[str, Group] = {}
        self._claims: list[Work] = []
        self._generation = new_generation()
        """The generation of a room that a call finds not to exist. It grows with each call: between two the room may be
        wiped."""
        self._schedule = SweepSchedule()
        self._reads = RosterReads(
            batcher,
            clock,
            self._schedule,
            room_call=self._call,
            is_isolated=is_isolated,
            mark_away=mark_away,
            note_answer=self._note_answer,
            sweep_if_due=self._sweep_if_due,
        )
        self._again: dict[str, list[Group]] = {}
        """The parts of refused calls, by room, and the operations after them, which run again in this order."""
        batcher.add_source(self)

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Send one operation with this tick's call for its room."""
        packed = script_calls.pack(operation)
        group = self._open.get(room)
        if (
            group is None
            or group.verb != packed.verb
            or len(group.rows) >= script_calls.CALL_MAX[packed.verb]
        ):
            group = self._open[room] = Group(room, packed.verb)
            self._groups.append(group)
            self._batcher.wake()
        group.add(QueuedOperation(operation, len(packed.rows), done), packed.rows)

    def snapshot(self, room: str, done: Callable[[Snapshot], None], *, members_max: int = 0) -> None:
        """Read a whole room, and mind it from now on; when the store is away, `done` is not called.

        Whoever watches the store asks again on its return.
        """
        self._schedule.add_room(room)
        self._reads.begin_read(room, members_max, done)

    def page(
        self,
        room: str,
        cursor: str,
        limit: int,
        bytes_max: int,
        done: Callable[[MemberPage | None], None],
    ) -> None:
        """Read some members, after the operations of this tick."""
        self._reads.begin_page(room, cursor, limit, bytes_max, done)

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
        """Claim the next epoch of `cid`; the node that had it is told."""
        keys = self._keys
        prefix, _, suffix = keys.node_channel("\0").partition("\0")
        expected = "" if known is None else known
        arguments = (epoch, node, issuer, self._timing.claim_ms, prefix, suffix, cid, expected)
        call = script_call(CLAIM, [keys.claim(cid)], arguments)

        def again(store: PresenceStore) -> None:
            store.claim(cid, epoch, node, issuer, done, known=known)

        self._ask(cid, call, _number, done, again, otherwise=UNKNOWN_EPOCH)

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        """Answer the last claim of `cid`."""
        call = Call(("HMGET", self._keys.claim(cid), "epoch", "node", "token"))
        self._ask(cid, call, _claim, done, lambda store: store.read_claim(cid, done), otherwise=Claim())

    def end_tokens(self, cid: str, done: Callable[[], None]) -> None:
        """Let no claim of `cid` succeed any more."""
        call = script_call(END_TOKENS, [self._keys.claim(cid)], (self._timing.claim_ms,))
        self._ask(
            cid, call, _nothing, lambda _: done(), lambda store: store.end_tokens(cid, done), otherwise=None
        )

    def end_user_tokens(self, user: str, at: int, done: Callable[[], None]) -> None:
        """Keep when the tokens of `user` were ended."""
        call = Call(("SET", self._keys.user_end(user), at, "PX", self._timing.claim_ms))

        def again(store: PresenceStore) -> None:
            store.end_user_tokens(user, at, done)

        self._ask(name_tag(user), call, _nothing, lambda _: done(), again, otherwise=None)

    def read_user_end(self, user: str, done: Callable[[int], None]) -> None:
        """Answer when the tokens of `user` were ended."""
        call = Call(("GET", self._keys.user_end(user)))

        def again(store: PresenceStore) -> None:
            store.read_user_end(user, done)

        self._ask(name_tag(user), call, _number, done, again, otherwise=self._clock.wall_ms())

    def take(self) -> list[Work]:
        """Return this tick's calls: operations first, then reads, which thereby see them."""
        groups, self._groups = self._take_groups(), []
        claims, self._claims = self._claims, []
        self._open.clear()
        work = [
            Work(
                self._call(group.room, group.verb, group.rows),
                partial(self._answer, group),
                len(group.rows) or EVICTIONS_MAX,
            )
            for group in groups
        ]
        return claims + work + self._reads.take_work()

    def _take_groups(self) -> list[Group]:
        """Return the operations to send now, those of refused calls before what has been gathered since."""
        again, self._again = self._again, {}
        return [*(group for groups in again.values() for group in groups), *self._groups]

    def abandon(self, is_concerned: Callable[[str], bool]) -> None:
        """Give up calls about rooms that are out of reach: drop reads, and have operations carried out in memory."""
        groups, self._groups = self._take_groups(), []
        self._open.clear()
        self._reads.abandon(is_concerned)
        for group in groups:
            if is_concerned(group.room):
                for request in group.requests:
                    self._failed(group.room, request)
            else:
                self._groups.append(group)

    def note_delta(self, room: str, delta: Delta) -> None:
        """Note when the next member of a room may expire, and how many there are."""
        self._schedule.expect(room, delta.due_ms)
        self._schedule.note_members(room, delta.count)
        self._reads.receive_delta(room, delta)

    def forget(self, room: str) -> None:
        """Stop sweeping a room that nobody here watches."""
        self._schedule.remove_room(room)

    def sweep_expired(self) -> None:
        """Have every watched room swept whose earliest expiry has passed."""
        for room in self._schedule.take_due_rooms(self._clock.wall_ms()):
            self._sweep_room(room)
        self._reads.begin_lost_anew()

    def _sweep_room(self, room: str) -> None:
        self.carry_out(room, Beat({}, self._timing.ttl_ms), partial(self._swept, room))

    def _swept(self, room: str, outcome: Outcome) -> None:
        """Sweep a room again at once while more of its members have expired than one call evicts."""
        if isinstance(outcome, Done) and not self._is_isolated(room):  # else it is memory that has answered
            self._schedule.note_swept(room)
            self._sweep_if_due(room)

    def _sweep_if_due(self, room: str) -> None:
        if self._schedule.begin_sweep(room, self._clock.wall_ms()):
            self._sweep_room(room)

    def read_call(self, room: str, verb: str, *operations: Any) -> Call:
        """Return a call of a script that only reads, to be run beside the presence pipeline."""
        return self._call(room, verb, list(operations))

    def _ask(
        self,
        tag: str,
        call: Call,
        read: Callable[[Any], Answer],
        done: Callable[[Answer], None],
        again: Callable[[PresenceStore], None],
        *,
        otherwise: Answer,
    ) -> None:
        """Make a call about tokens, whose key has the hash tag `tag`.

        `read` makes what `done` is called with of what the store says.
        `again` asks another store the same, where this one is away. `otherwise` is the answer where it is in reach and
        the key is not what it should be: one such key must not end contact.
        """

        def answered(answer: Any) -> None:
            if isinstance(answer, Exception) and is_away(answer):
                self._mark_away(tag, answer)
                self._unanswered(again)
                return
            try:
                found = read(_no_error(answer))
            except (ResponseError, ValueError) as exc:
                log_refused_call(call, exc)
                found = otherwise
            done(found)

        self._claims.append(Work(call, answered))
        self._batcher.wake()

    def _call(self, room: str, verb: str, rows: list[Any]) -> Call:
        """Make a call; it says when it was made, so it must be made when it is sent."""
        timing = self._timing
        sent = Sent(self._clock.wall_ms(), timing.late_ms, timing.hold_ms, self._hold_rest_ms(room))
        channel = self._keys.channel(room)
        self._generation = self._generation % GENERATION_MAX + 1
        arguments = script_calls.arguments(
            channel, str(self._generation), timing.ttl_ms, sent, rows, publishes=self._publishes
        )
        return script_call(SCRIPTS[verb], self._keys.room(room), arguments)

    def _answer(self, group: Group, answered: Any) -> None:
        later = self._again.get(group.room)
        if later is not None and not self._is_isolated(group.room):
            later.append(group)  # it ran before what had been gathered before it
            return
        if isinstance(answered, Exception) or self._is_isolated(group.room):
            self._fail(group, answered)
            return
        answer = self._understand(group.room, answered)
        at = 0
        for request in group.requests:
            results = answer.results[at : at + request.rows]
            at += request.rows
            contain("pipeline", request.done, script_calls.outcome(request.operation, answer, results))
        self._sweep_if_due(group.room)

    def _fail(self, group: Group, error: Any) -> None:
        away = isinstance(error, Exception) and is_away(error)
        if away:
            self._mark_away(group.room, error)
        if away or self._is_isolated(group.room):
            for request in group.requests:
                self._failed(group.room, request)
        elif len(group.requests) > 1:
            self._again[group.room] = [self._alone(group, request) for request in group.requests]
            self._batcher.wake()
        else:
            (request,) = group.requests
            log_refused_call(self._call(group.room, group.verb, group.rows), error, group.room)
            self._answered(group.room, 0, 0)
            request.done(BROKEN)

    @staticmethod
    def _alone(group: Group, request: QueuedOperation) -> Group:
        alone = Group(group.room, group.verb)
        alone.add(request, script_calls.pack(request.operation).rows)
        return alone

    def _understand(self, room: str, answered: bytes) -> script_calls.ScriptAnswer:
        answer = script_calls.decode_answer(answered)
        self._note_answer(room, answer)
        return answer

    def _note_answer(self, room: str, answer: script_calls.ScriptAnswer) -> None:
        """Take what every answer says: the store's time, when the room is due, and where it is."""
        self._clock.follow(answer.now)
        self._schedule.expect(room, answer.due)
        self._answered(room, int(answer.generation), answer.seq)


def _claim(fields: Sequence[bytes | None]) -> Claim:
    """Return a claim as its key has it; None: there is none, or its tokens have ended."""
    epoch, node, token = fields
    return Claim(int(epoch or 0), (node or b"").decode(), int(token or 0))
