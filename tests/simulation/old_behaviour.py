"""What puts each defect of `defects.py` back: a context in which the product does what it did then."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from inspect import Parameter, isfunction, signature
from typing import Any

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
from presence_server.presence.operations import Done, Enter, Leave, Linger, Operation, Outcome, Sent
from presence_server.presence.port import everything
from presence_server.presence.redis import PresenceRedisStore
from presence_server.presence.roster import Delta
from presence_server.presence.state import RoomState
from presence_server.protocol.codes import KICKED, ErrorCode
from presence_server.protocol.messages import Diff, Document, Mode, Published
from presence_server.redis_io.client import RedisLane
from presence_server.redis_io.scripts import Call
from presence_server.registry.noted_users import LiveNodes
from presence_server.rooms.events import NodeReentered, Publication
from presence_server.rooms.feed import Feed
from presence_server.rooms.memberships import Memberships
from presence_server.rooms.own_members import OwnMembers
from presence_server.rooms.request import RoomRequest
from presence_server.rooms.rooms import Rooms
from presence_server.rooms.view import View
from presence_server.session.claims import EpochClaims
from presence_server.session.session import Session


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


def no_lost_history() -> AbstractContextManager[None]:
    on = Connectivity.on

    def deaf(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        lost = isinstance(event, OwnMemberLost | NodeForgotten | HistoryBroken)
        return () if lost else on(self, event, now_ms)

    return _replaced(Connectivity, "on", deaf)


def older_record_adopted() -> AbstractContextManager[None]:
    entered_again: Any = Memberships._note_reenter_answer

    def adopt(self: Memberships, membership: Any, entered: Any, request: Any, outcome: Outcome) -> None:
        if isinstance(outcome, Done) and outcome.record is not None:
            self._adopt(membership, outcome.record)
        entered_again(self, membership, entered, request, outcome)

    return _replaced(Memberships, "_note_reenter_answer", adopt)


def no_hold() -> AbstractContextManager[None]:
    return _replaced(Connectivity, "hold_rest_ms", lambda self, now_ms: 0)


def delivered_here_again() -> AbstractContextManager[None]:
    def give(self: RedisBus[Any], room: str, parcel: Any, *, may_come: bool = True) -> None:
        del may_come
        for event, sent in parcel.events:
            self._send_here(room, event, sent)

    return _replaced(RedisBus, "_give_here", give)


def never_trusted() -> AbstractContextManager[None]:
    on = Connectivity.on

    def without_silence(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        effects = on(self, event, now_ms)
        self.trusted = False
        return effects

    return _replaced(Connectivity, "on", without_silence)


def forgotten_views_waited_for() -> AbstractContextManager[None]:
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


def known_scripts_run_first() -> AbstractContextManager[None]:
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


def no_fresh_token() -> AbstractContextManager[None]:
    def confirm(self: EpochClaims, session: Session, done: Callable[[], None], epoch: int) -> None:
        if not self._is_isolated(session.cid):
            self.note_ended(session)
        if epoch == 0:
            session.close(KICKED)
        elif self._sessions.get(session.cid) is session:
            session.participant.epoch = epoch
        done()

    return _replaced(EpochClaims, "_confirm", confirm)


def joins_under_way_lingered() -> AbstractContextManager[None]:
    def let_linger(self: Rejoin, view: View) -> None:
        for cid, record in list(view.roster.records.items()):
            if record.node == self._reentry._node and cid not in view.channel.watchers:
                linger = Linger(cid, record.epoch, self._presence.grace_lost_ms, "timeout")
                self._store.carry_out(view.room, linger, lambda _: None)

    return _replaced(Rejoin, "_let_linger", let_linger)


def nothing_compared() -> AbstractContextManager[None]:
    return _all(
        _replaced(EpochClaims, "compare_memberless", lambda self, *, lost, is_concerned=everything: None),
        _replaced(EpochClaims, "compare_all", lambda self, is_concerned=everything: None),
    )


def claims_overtaken() -> AbstractContextManager[None]:
    claim: Any = EpochClaims.claim_epoch

    def blindly(
        self: EpochClaims, cid: str, epoch: int, issuer: str, claimed: Any, *, known: int | None = None
    ) -> None:
        del known
        claim(self, cid, epoch, issuer, claimed)

    return _replaced(EpochClaims, "claim_epoch", blindly)


def settled_at_once() -> AbstractContextManager[None]:
    note_answer = Reentry._note_answer

    def take(self: Reentry, reentry: RoomReentry, outcome: Outcome) -> None:
        reentry.generation = 0
        note_answer(self, reentry, outcome)
        self.announce_due(self._clock.now_ms() + ANNOUNCED_AFTER_MS)

    return _replaced(Reentry, "_note_answer", take)


def watchers_not_replaced() -> AbstractContextManager[None]:
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
        nothing_compared(),
        _replaced(
            EpochClaims, "note_claimed_elsewhere", lambda self, cid, epoch: self._close_replaced(cid, epoch)
        ),
    )


def deadlines_by_the_clock() -> AbstractContextManager[None]:
    def read(self: RoomTime, store_ms: int) -> int:
        return store_ms

    def arrive(self: RoomState, now_ms: int, sent: Sent | None) -> int:
        if sent is not None and sent.hold_rest_ms > 0:
            self._hold_until_ms = max(self._hold_until_ms, now_ms + sent.hold_rest_ms)
        return now_ms

    return _all(_replaced(RoomTime, "read", read), _replaced(RoomState, "_arrive", arrive))


def dead_nodes_believed() -> AbstractContextManager[None]:
    return _replaced(LiveNodes, "counts", lambda self, node, incarnation: True)


@contextmanager
def evicting(most: int) -> Iterator[None]:
    """Have one call evict at most so many: rooms here are as much smaller."""
    before, state.EVICTIONS_MAX = state.EVICTIONS_MAX, most  # type: ignore[misc]  # for a while
    try:
        yield
    finally:
        state.EVICTIONS_MAX = before  # type: ignore[misc]  # as above


def one_sweep_a_look() -> AbstractContextManager[None]:
    return _replaced(PresenceRedisStore, "_sweep_if_due", lambda self, room: None)


def restored_members_believed() -> AbstractContextManager[None]:
    return _replaced(OwnMembers, "is_ghost", lambda self, record: False)


def fences_kept() -> AbstractContextManager[None]:
    return _replaced(RoomState, "_purge_fences", lambda self, time_ms: None)


def all_departures_kept() -> AbstractContextManager[None]:
    def note(self: ClusterStore, room: str, operation: Operation) -> None:
        if isinstance(operation, Enter):
            self._departed.pop((room, operation.cid), None)
        elif isinstance(operation, Leave | Linger):
            self._departed[room, operation.cid] = Departure(operation, self._clock.now_ms())

    return _replaced(ClusterStore, "_note_departure", note)


def never_settled() -> AbstractContextManager[None]:
    publish: Any = RedisBus.publish

    def say(self: RedisBus[Any], room: str, event: Any, sent: Any = None) -> None:
        if not isinstance(event, NodeReentered):
            publish(self, room, event, sent)

    return _replaced(RedisBus, "publish", say)


def settled_whatever_generation() -> AbstractContextManager[None]:
    def note(self: View, event: NodeReentered) -> None:
        self._resolve(event.node)

    return _replaced(View, "_note_reentered", note)


def clock_ignored() -> AbstractContextManager[None]:
    on = Connectivity.on

    def deaf(self: Connectivity, event: Event, now_ms: int) -> tuple[Effect, ...]:
        return () if isinstance(event, ClockStepped) else on(self, event, now_ms)

    return _replaced(Connectivity, "on", deaf)


def gaps_ignored() -> AbstractContextManager[None]:
    take: Any = Feed._follow_or_buffer

    def take_all(self: Feed, delta: Delta) -> None:
        if not self.loading and delta.generation == self.generation and delta.seq > self.seq:
            self._move(delta)
            self._reach()
        else:
            take(self, delta)

    return _replaced(Feed, "_follow_or_buffer", take_all)


def lag_forgotten() -> AbstractContextManager[None]:
    return _replaced(Hub, "note_caught_up", lambda self, outbox: self._behind.pop(outbox, None))


def isolated_refuses() -> AbstractContextManager[None]:
    join = Rooms.join

    def refuse(self: Rooms, request: RoomRequest, state: Document | None, mode: Mode | None) -> None:
        if self._observer.is_stale(request.room):
            raise RequestError(ErrorCode.UNAVAILABLE, "the store is away", room=request.room)
        join(self, request, state, mode)

    return _replaced(Rooms, "join", refuse)


def isolated_mute() -> AbstractContextManager[None]:
    send_here = RedisBus._send_here

    def keep_quiet(self: RedisBus[Any], room: str, event: Any, sent: Any) -> None:
        if not isinstance(event, Publication) or not self._is_isolated(room):
            send_here(self, room, event, sent)
        elif sent is not None:
            sent()

    return _replaced(RedisBus, "_send_here", keep_quiet)


def messages_reversed() -> AbstractContextManager[None]:
    publications = RedisBus._publications

    def reverse(self: RedisBus[Any], room: str, events: list[Any]) -> Any:
        return publications(self, room, events[::-1])

    return _replaced(RedisBus, "_publications", reverse)


def senders_told() -> AbstractContextManager[None]:
    def tell_all(self: Channel, message: Published) -> None:
        self._close_batch()
        self._log.append(Entry(message, EVERYBODY, None))
        self.hub.activate(self)

    return _replaced(Channel, "add_message", tell_all)


def all_timed_out() -> AbstractContextManager[None]:
    take_diff = View.take_diff

    def time_out(self: View) -> Diff | None:
        diff = take_diff(self)
        if diff is None:
            return None
        leaves = tuple(msgspec.structs.replace(leave, reason="timeout") for leave in diff.leaves)
        return msgspec.structs.replace(diff, leaves=leaves)

    return _replaced(View, "take_diff", time_out)


def readers_closed() -> AbstractContextManager[None]:
    sweep = Hub.close_stuck

    def close_one(self: Hub, now_ms: int) -> None:
        sweep(self, now_ms)
        for outbox in list(self._total.outboxes)[:1] if now_ms % 5_000 < 250 else []:
            if outbox.wire is not None:
                self.close_too_slow(outbox)

    return _replaced(Hub, "close_stuck", close_one)
