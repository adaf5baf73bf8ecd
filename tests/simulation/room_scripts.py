"""What the scripts in `presence/lua/` do to a room, by the pure rules, with the answers and deltas that those give."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from presence_server.presence import script_calls
from presence_server.presence.operations import Beat, Done, Enter, Leave, Linger, Operation, Outcome, Sent
from presence_server.presence.roster import Change, Delta, Record
from presence_server.presence.state import RoomState
from tests.simulation.keyspace import Argument, Keyspace, raw, text

KEPT_TTLS: Final = 2
"""How long a room outlives its last member."""
Publish = Callable[[str, bytes], int]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


def run_room_script(
    verb: str, keys: Sequence[str], arguments: Sequence[Argument], keyspace: Keyspace, publish: Publish
) -> Any:
    """Run one script of a room, and return its answer: packed, and of a page its members beside that.

    A room is one value, under the first of its keys.
    """
    channel, generation, ttl_ms, _, rest_ms, sent_at_ms, late_ms, hold_ms, packed, _ = arguments
    sent = Sent(int(sent_at_ms), int(late_ms), int(hold_ms), int(rest_ms))
    ttl_ms = int(ttl_ms)
    kept: RoomState | None = keyspace.get(keys[0])
    room = RoomState(int(generation), KEPT_TTLS * ttl_ms) if kept is None else kept  # an empty one is false
    rows: list[Any] = _unpack(raw(packed))
    now_ms = keyspace.now_ms
    results, deltas = _carry_out(room, verb, _operations(verb, rows, ttl_ms), rows, Moment(now_ms, sent))
    for delta in deltas:
        publish(text(channel), _packed_delta(delta))
    generation_now, seq = room.position
    if generation_now:
        last_ms = room.last_end_ms
        kept_ms = max((now_ms if last_ms is None else last_ms) - now_ms, 0) + KEPT_TTLS * ttl_ms
        keyspace.set(keys[0], room, kept_ms)
    read: list[Any] | None = None
    if verb == "page":
        results, read = results
    answer = _pack([str(generation_now), seq, now_ms, room.due_ms or 0, room.hold_until_ms, results])
    return answer if read is None else [answer, read]


class Moment(NamedTuple):
    """When a call arrives, and what it says of its way."""

    now_ms: int
    sent: Sent


def _operations(verb: str, rows: Sequence[Any], ttl_ms: int) -> list[Operation]:
    """Return what the rows of a call ask for; a script that only reads has none."""
    if verb == "beat":
        return [Beat(dict(rows), ttl_ms)]
    return [OPERATIONS[verb](row) for row in rows] if verb in OPERATIONS else []


def _carry_out(
    room: RoomState, verb: str, operations: list[Operation], rows: list[Any], moment: Moment
) -> tuple[list[Any], Sequence[Delta]]:
    """Return a script's results, and what it announces."""
    now_ms, sent = moment
    match verb:
        case "sweep":
            return [], room.evict_expired(now_ms, sent)
        case "counts":
            count, users, deltas = room.counts(now_ms, sent)
            return [count, users], deltas
        case "page":
            return _page(room, rows[0], now_ms, sent), []
    ran = room.run(operations, now_ms, now_ms, sent)
    if verb == "beat":
        (beaten,) = ran.outcomes
        unknown = beaten.unknown if isinstance(beaten, Done) else ()
        return ["missing" if cid in unknown else True for cid, _ in rows], ran.deltas
    return list(map(_result, operations, ran.outcomes)), ran.deltas


def _enter(row: Sequence[Any]) -> Enter:
    cid, user, info, state, epoch, node, ttl_ms, members_max, v, at, known_in = row
    state = None if state is False else msgspec.Raw(state.encode())
    info = msgspec.Raw(info.encode())
    return Enter(cid, user, info, state, epoch, node, ttl_ms, members_max, v, at, int(known_in))


def _change(row: Sequence[Any]) -> Change:
    cid, epoch, v, state = row
    return Change(cid, epoch, v, msgspec.Raw(state.encode()))


def _leave(row: Sequence[Any]) -> Leave:
    cid, epoch, reason, fence = row
    return Leave(cid, None if epoch == script_calls.BACKEND_LEAVE else epoch, reason, fence)


OPERATIONS: Final[dict[str, Callable[[Sequence[Any]], Operation]]] = {
    "enter": _enter,
    "change": _change,
    "leave": _leave,
    "linger": lambda row: Linger(*row),
}


def _result(operation: Operation, outcome: Outcome) -> Any:
    """Return what a script answers for one operation."""
    if not isinstance(outcome, Done):
        return outcome.why
    if outcome.record is None or isinstance(operation, Linger):
        return True
    return (*_row(outcome.record), True) if outcome.created else _row(outcome.record)


def _page(room: RoomState, asked: Sequence[Any], now_ms: int, sent: Sent) -> list[Any]:
    """Return a page and its members; every room here is so small that a scan would return all of it at once."""
    how, start, limit, _, _, members_max = asked
    count, users = room.member_counts
    if how == "scan" and count > limit:
        how, start = "after", ""
    if 0 < members_max < count:
        how = "none"
    records, following = room.page_by_scan(
        "" if how == "scan" else start, 0 if how == "none" else limit, now_ms, sent
    )
    if how == "none":
        following = ""
    read = [part for record in records for part in (record.member.cid.encode(), _pack(_row(record)))]
    return [[how, following or "", count, users], read]


def _row(record: Record) -> tuple[Any, ...]:
    """Return a member as the members' hash has it."""
    member = record.member
    info, state = script_calls.text(member.info), script_calls.text(member.state)
    return (script_calls.FORMAT, member.user, record.epoch, info, state, member.v, member.at, record.node)


def _packed_delta(delta: Delta) -> bytes:
    """Return a delta as scripts publish it."""
    return b"d" + _pack(
        [
            script_calls.FORMAT,
            str(delta.generation),
            delta.seq,
            delta.count,
            delta.users,
            delta.due_ms,
            [(record.member.cid, *_row(record)) for record in delta.joins],
            [
                (change.cid, change.epoch, change.v, script_calls.text(change.state))
                for change in delta.updates
            ],
            [(leave.cid, leave.user, leave.reason) for leave in delta.leaves],
        ]
    )
