"""Defects that this project had, to be put back: a check that cannot fail proves nothing.

The numbers are those of the list that they were found with. Not here is 2: what acknowledging 24,000 channels costs
cannot be seen on virtual time (tests/redis_io/test_subscriber.py counts it); and of 15 what was suspected only. Nothing
breaks by 5a in the plans that forget scripts, nor by 5b since repeated claims raise no epochs. `make simulate DEFECT=7`
finds a seed anew where the code has changed so much that the one given here does not break any more.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from inspect import Parameter, isfunction, signature
from typing import Any, Final, NamedTuple

import anyio
import msgspec
from redis.exceptions import NoScriptError

from presence_server.bus.redis import RedisBus
from presence_server.cluster.connectivity import (
    ClockStepped,
    Connectivity,
    Effect,
    Event,
    HistoryBroken,
    NodeForgotten,
    OwnMemberLost,
    Rejoined,
    State,
)
from presence_server.cluster.reentry import ANNOUNCED_AFTER_MS, Reentry, RoomReentry
from presence_server.cluster.rejoin import Rejoin
from presence_server.cluster.store import ClusterStore, Departure
from presence_server.errors import RequestError
from presence_server.hub.channel import EVERYBODY, Channel, Entry
from presence_server.hub.hub import Hub
from presence_server.presence import state
from presence_server.presence.deadlines import RoomTime
from presence_server.presence.port import everything
from presence_server.presence.redis import PresenceRedisStore
from presence_server.presence.roster import Delta
from presence_server.presence.state import Done, Enter, Leave, Linger, Operation, Outcome, RoomState, Sent
from presence_server.protocol.codes import KICKED, ErrorCode
from presence_server.protocol.messages import Diff, Document, Mode, Published
from presence_server.redis_io.client import RedisLane
from presence_server.redis_io.scripts import Call
from presence_server.registry.noted_users import LiveNodes
from presence_server.rooms.events import NodeReentered, Publication
from presence_server.rooms.feed import Feed
from presence_server.rooms.memberships import Memberships
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.view import View
from presence_server.session.claims import EpochClaims
from presence_server.session.session import Session


class Defect(NamedTuple):
    """One defect: what was wrong, and what puts it back for a while."""

    what: str
    put_back: Callable[[], AbstractContextManager[None]]
    seed: int = 0
    """Whose drawn plan finds it; 0: none that was played does."""
    breaks: str = ""
    """The invariant that breaks then."""
    among: Callable[[], AbstractContextManager[None]] = nullcontext
    """What the world is like with the defect and without it."""


@contextmanager
def _replaced(owner: type, name: str, value: object) -> Iterator[None]:
    """Have a class behave otherwise for a while. Raises `TypeError` for a function that is called in another way."""
    before = getattr(owner, name)
    if isfunction(before) and _parameters(before) != _parameters(value):
        raise TypeError(f"{owner.__name__}.{name} is {signature(before)} by now")
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _parameters(function: Any) -> list[tuple[str, Any]]:
    """Return the parameters of a function by name, with how they are given."""
    parameters: list[Parameter] = [*signature(function).parameters.values()]
    return [(parameter.name, parameter.kind) for parameter in parameters]


@contextmanager
def _all(*replaced: AbstractContextManager[None]) -> Iterator[None]:
    """Have several things be otherwise."""
    with ExitStack() as stack:
        for each in replaced:
            stack.enter_context(each)
        yield


def _no_lost_history() -> AbstractContextManager[None]:
    on = Connectivity.on

    def deaf(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        lost = isinstance(event, OwnMemberLost | NodeForgotten | HistoryBroken)
        return () if lost else on(self, event, now_ms)

    return _replaced(Connectivity, "on", deaf)


def _older_record_adopted() -> AbstractContextManager[None]:
    entered_again: Any = Memberships._note_reenter_answer

    def adopt(self: Memberships, membership: Any, entered: Any, request: Any, outcome: Outcome) -> None:
        if isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
        entered_again(self, membership, entered, request, outcome)

    return _replaced(Memberships, "_note_reenter_answer", adopt)


def _no_hold() -> AbstractContextManager[None]:
    return _replaced(Connectivity, "hold_rest_ms", lambda self, now_ms: 0)


def _delivered_here_again() -> AbstractContextManager[None]:
    def give(self: RedisBus[Any], room: str, parcel: Any, *, may_come: bool = True) -> None:
        del may_come
        for event, sent in parcel.events:
            self._send_here(room, event, sent)

    return _replaced(RedisBus, "_give_here", give)


def _never_trusted() -> AbstractContextManager[None]:
    on = Connectivity.on

    def doubting(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        effects = on(self, event, now_ms)
        self.trusted = False
        return effects

    return _replaced(Connectivity, "on", doubting)


def _forgotten_views_waited_for() -> AbstractContextManager[None]:
    def end(self: Rejoin) -> None:
        (part,) = self._parts.with_link(self._parts.of("").link)
        if part.connectivity.state is not State.REJOINING:
            return
        rooms = self._reentry._by_room
        for room, reentry in list(rooms.items()):
            if not (reentry.outstanding or reentry.view.feed.loading):
                del rooms[room]
        if not rooms and not self._claiming:
            self.on(Rejoined(), [part])

    return _replaced(Rejoin, "_end_if_complete", end)


def _known_scripts_run_first() -> AbstractContextManager[None]:
    async def run(self: RedisLane, calls: Sequence[Call]) -> list[Any]:
        await self._ensure_connected()
        answers = await self._run([call.command for call in calls])
        forgotten = next((i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)), None)
        if forgotten is not None:
            again = [i for i in range(forgotten, len(calls)) if calls[i].script is not None]
            for i, answer in zip(again, await self._run([calls[i].by_text() for i in again]), strict=True):
                answers[i] = answer
        return answers

    async def pipeline(self: RedisLane, calls: Sequence[Call]) -> list[Any]:
        try:
            return await run(self, calls)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    return _replaced(RedisLane, "pipeline", pipeline)


def _no_fresh_token() -> AbstractContextManager[None]:
    def confirm(self: EpochClaims, session: Session, done: Callable[[], None], epoch: int) -> None:
        if not self._is_isolated(session.cid):
            self.note_ended(session)
        if epoch == 0:
            session.close(KICKED)
        elif self._sessions.get(session.cid) is session:
            session.participant.epoch = epoch
        done()

    return _replaced(EpochClaims, "_confirm", confirm)


def _joins_under_way_lingered() -> AbstractContextManager[None]:
    def let_linger(self: Rejoin, view: View) -> None:
        for cid, record in list(view.roster.records.items()):
            if record.node == self._reentry._node and cid not in view.channel.watchers:
                linger = Linger(cid, record.epoch, self._presence.grace_lost_ms, "timeout")
                self._store.carry_out(view.room, linger, lambda _: None)

    return _replaced(Rejoin, "_let_linger", let_linger)


def _nothing_compared() -> AbstractContextManager[None]:
    return _all(
        _replaced(EpochClaims, "compare_memberless", lambda self, *, lost, is_concerned=everything: None),
        _replaced(EpochClaims, "compare_all", lambda self, is_concerned=everything: None),
    )


def _claims_overtaken() -> AbstractContextManager[None]:
    claim: Any = EpochClaims.claim_epoch

    def blindly(
        self: EpochClaims, cid: str, epoch: int, issuer: str, claimed: Any, *, known: int | None = None
    ) -> None:
        del known
        claim(self, cid, epoch, issuer, claimed)

    return _replaced(EpochClaims, "claim_epoch", blindly)


def _settled_at_once() -> AbstractContextManager[None]:
    note_answer = Reentry._note_answer

    def take(self: Reentry, reentry: RoomReentry, outcome: Outcome) -> None:
        reentry.generation = 0
        note_answer(self, reentry, outcome)
        self.announce_due(self._clock.now_ms() + ANNOUNCED_AFTER_MS)

    return _replaced(Reentry, "_note_answer", take)


def _watchers_not_replaced() -> AbstractContextManager[None]:
    unconfirmed = EpochClaims.unconfirmed

    def with_members(self: EpochClaims, is_concerned: Callable[[str], bool] = everything) -> list[Session]:
        sessions = unconfirmed(self, is_concerned)
        return [
            session
            for session in sessions
            if any(m.is_member for m in session.participant.memberships.values())
        ]

    return _all(
        _replaced(EpochClaims, "unconfirmed", with_members),
        _nothing_compared(),
        _replaced(
            EpochClaims, "note_claimed_elsewhere", lambda self, cid, epoch: self._close_replaced(cid, epoch)
        ),
    )


def _deadlines_by_the_clock() -> AbstractContextManager[None]:
    def read(self: RoomTime, store_ms: int) -> int:
        return store_ms

    def arrive(self: RoomState, now_ms: int, sent: Sent | None) -> int:
        if sent is not None and sent.hold_rest_ms > 0:
            self._hold_until_ms = max(self._hold_until_ms, now_ms + sent.hold_rest_ms)
        return now_ms

    return _all(_replaced(RoomTime, "read", read), _replaced(RoomState, "_arrive", arrive))


def _dead_nodes_believed() -> AbstractContextManager[None]:
    return _replaced(LiveNodes, "counts", lambda self, node, incarnation: True)


@contextmanager
def evicting(most: int) -> Iterator[None]:
    """Have one call evict at most so many: rooms here are as much smaller."""
    before, state.EVICTIONS_MAX = state.EVICTIONS_MAX, most  # type: ignore[misc]  # for a while
    try:
        yield
    finally:
        state.EVICTIONS_MAX = before  # type: ignore[misc]  # as above


def _one_sweep_a_look() -> AbstractContextManager[None]:
    return _replaced(PresenceRedisStore, "_sweep_if_due", lambda self, room: None)


def _restored_members_believed() -> AbstractContextManager[None]:
    return _replaced(View, "_is_ghost", lambda self, record: False)


def _fences_kept() -> AbstractContextManager[None]:
    return _replaced(RoomState, "_purge_fences", lambda self, time_ms: None)


def _all_departures_kept() -> AbstractContextManager[None]:
    def note(self: ClusterStore, room: str, operation: Operation) -> None:
        if isinstance(operation, Enter):
            self._departed.pop((room, operation.cid), None)
        elif isinstance(operation, Leave | Linger):
            self._departed[room, operation.cid] = Departure(operation, self._clock.now_ms())

    return _replaced(ClusterStore, "_note_departure", note)


def _never_settled() -> AbstractContextManager[None]:
    publish: Any = RedisBus.publish

    def say(self: RedisBus[Any], room: str, event: Any, sent: Any = None) -> None:
        if not isinstance(event, NodeReentered):
            publish(self, room, event, sent)

    return _replaced(RedisBus, "publish", say)


def _settled_whatever_generation() -> AbstractContextManager[None]:
    def note(self: View, event: NodeReentered) -> None:
        self._resolve(event.node)

    return _replaced(View, "_note_reentered", note)


def _clock_ignored() -> AbstractContextManager[None]:
    on = Connectivity.on

    def deaf(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        return () if isinstance(event, ClockStepped) else on(self, event, now_ms)

    return _replaced(Connectivity, "on", deaf)


def _gaps_ignored() -> AbstractContextManager[None]:
    take: Any = Feed._follow_or_buffer

    def take_all(self: Feed, delta: Delta) -> None:
        if not self.loading and delta.generation == self.generation and delta.seq > self.seq:
            self._move(delta)
            self._reach()
        else:
            take(self, delta)

    return _replaced(Feed, "_follow_or_buffer", take_all)


def _lag_forgotten() -> AbstractContextManager[None]:
    return _replaced(Hub, "note_caught_up", lambda self, outbox: self._behind.pop(outbox, None))


def _isolated_refuses() -> AbstractContextManager[None]:
    join = Rooms.join

    def refuse(self: Rooms, request: RoomRequest, state: Document | None, mode: Mode | None) -> None:
        if self._observer.is_stale(request.room):
            raise RequestError(ErrorCode.UNAVAILABLE, "the store is away", room=request.room)
        join(self, request, state, mode)

    return _replaced(Rooms, "join", refuse)


def _isolated_mute() -> AbstractContextManager[None]:
    send_here = RedisBus._send_here

    def keep_quiet(self: RedisBus[Any], room: str, event: Any, sent: Any) -> None:
        if not isinstance(event, Publication) or not self._is_isolated(room):
            send_here(self, room, event, sent)
        elif sent is not None:
            sent()

    return _replaced(RedisBus, "_send_here", keep_quiet)


def _messages_reversed() -> AbstractContextManager[None]:
    publications = RedisBus._publications

    def reverse(self: RedisBus[Any], room: str, events: list[Any]) -> Any:
        return publications(self, room, events[::-1])

    return _replaced(RedisBus, "_publications", reverse)


def _senders_told() -> AbstractContextManager[None]:
    def tell_all(self: Channel, message: Published) -> None:
        self._close_batch()
        self._log.append(Entry(message, EVERYBODY, None))
        self.hub.activate(self)

    return _replaced(Channel, "add_message", tell_all)


def _all_timed_out() -> AbstractContextManager[None]:
    take_diff = View.take_diff

    def time_out(self: View) -> Diff | None:
        diff = take_diff(self)
        if diff is None:
            return None
        leaves = tuple(msgspec.structs.replace(leave, reason="timeout") for leave in diff.leaves)
        return msgspec.structs.replace(diff, leaves=leaves)

    return _replaced(View, "take_diff", time_out)


def _readers_closed() -> AbstractContextManager[None]:
    sweep = Hub.close_stuck

    def close_one(self: Hub, now_ms: int) -> None:
        sweep(self, now_ms)
        for outbox in list(self._total.outboxes)[:1] if now_ms % 5_000 < 250 else []:
            if outbox.wire is not None:
                self.close_too_slow(outbox)

    return _replaced(Hub, "close_stuck", close_one)


DEFECTS: Final[dict[str, Defect]] = {
    "1": Defect(
        "FLUSHALL with connections kept is not taken for a return", _no_lost_history, 100_001, "api_exact"
    ),
    "3": Defect(
        "a view forgotten during a rejoin is waited for",
        _forgotten_views_waited_for,
        100_163,
        "nothing_waits",
    ),
    "4": Defect(
        "an older record is adopted over newer local state", _older_record_adopted, 100_091, "updates_kept"
    ),
    "5a": Defect(
        "scripts that the store knows run before the forgotten one they come after", _known_scripts_run_first
    ),
    "5b": Defect("a claim that is repeated raises the epoch, and its client gets no token", _no_fresh_token),
    "5c": Defect(
        "a member whose join is under way is taken for one without a connection",
        _joins_under_way_lingered,
        100_189,
        "replaced_by_another",
    ),
    "6": Defect("nobody asks rooms to hold after a silence", _no_hold, 100_105, "no_false_leave"),
    "7": Defect(
        "who has no members is not told that another node has its connection",
        _watchers_not_replaced,
        100_117,
        "one_connection",
    ),
    "8": Defect(
        "deadlines go by the store's clock, whatever it does",
        _deadlines_by_the_clock,
        100_113,
        "rosters_exact",
    ),
    "9": Defect("a node that died is believed about its users", _dead_nodes_believed, 100_079, "api_exact"),
    "10": Defect(
        "a room is swept once a look, however many are due",
        _one_sweep_a_look,
        100_039,
        "api_exact",
        partial(evicting, 1),
    ),
    "11": Defect(
        "a message whose PUBLISH was carried out is delivered here again",
        _delivered_here_again,
        100_005,
        "never_twice",
    ),
    "12": Defect("what the store says is never trusted after a cut", _never_trusted, 100_015, "leaves_heard"),
    "13": Defect(
        "members that a restored store brings back are believed",
        _restored_members_believed,
        101_289,
        "stays_gone",
    ),
    "14a": Defect("fences are kept for as long as their room", _fences_kept, 100_003, "bounded"),
    "14b": Defect("every departure on an isolated node is kept", _all_departures_kept, 100_037, "bounded"),
    "settled-never": Defect(
        "no node says that its members are entered again", _never_settled, 100_345, "leaves_heard_on_return"
    ),
    "settled-early": Defect(
        "a node says at once that its members are entered again, though the store was wiped meanwhile",
        _settled_at_once,
        1_000_000_365,
        "no_false_leave",
    ),
    "settled-any": Defect(
        "a node's word that its members are entered counts whatever it was of",
        _settled_whatever_generation,
        1_000_001_089,
        "no_false_leave",
    ),
    "compare-none": Defect(
        "who has no members is not compared with the store's claims on return",
        _nothing_compared,
        100_117,
        "one_connection",
    ),
    "claim-overtaken": Defect(
        "a claim is repeated whatever another node has claimed since it was read",
        _claims_overtaken,
        1_000_000_103,
        "replaced_by_another",
    ),
    "clock-ignored": Defect(
        "a step of the store's clock is ignored", _clock_ignored, 100_205, "no_false_leave"
    ),
    "gap-ignored": Defect(
        "a delta is applied though one before it is missing", _gaps_ignored, 100_051, "rosters_exact"
    ),
    "isolated-refuses": Defect("a node without contact refuses joins", _isolated_refuses, 100_037, "served"),
    "isolated-mute": Defect(
        "what is published on a node without contact is told to nobody",
        _isolated_mute,
        100_037,
        "told_on_one_node",
    ),
    "reversed": Defect("messages of one tick are told in reverse", _messages_reversed, 100_009, "in_order"),
    "own-told": Defect("who sends a message is told it", _senders_told, 100_001, "in_order"),
    "all-timeout": Defect("every leave says that the member was lost", _all_timed_out, 100_009, "reasons"),
    "readers-closed": Defect(
        "clients that read are closed as too slow", _readers_closed, 100_001, "closed_for_a_reason"
    ),
    "lag-forgotten": Defect(
        "who did not read is not told again of rooms that changed meanwhile",
        _lag_forgotten,
        100_045,
        "rosters_exact",
    ),
}
"""By the number that they had when they were found, or a name."""
