"""Encoding of operations as script calls, and decoding of their answers: the shape of what Redis is sent."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from presence_server.presence.operations import (
    FENCED,
    FULL,
    MISSING,
    REMOVED,
    TAKEN,
    Beat,
    Done,
    Enter,
    Leave,
    Linger,
    Operation,
    Outcome,
    Sent,
)
from presence_server.presence.roster import Change, Delta, MemberCounts, Record
from presence_server.presence.state import EVICTIONS_MAX
from presence_server.protocol.messages import Member, MemberLeave, Reason

FORMAT: Final = 1
"""The format number of records and deltas; another one is refused by name, never guessed at."""
CALL_MAX: Final = {
    "enter": 100,
    "change": 100,
    "leave": 100,
    "linger": 100,
    "beat": 500,
    "sweep": 1,
    "counts": 1,
    "page": 1,
}
"""Operations in one call; a longer one would hold up everybody else's."""
BACKEND_LEAVE: Final = -1
"""The epoch that scripts are given for a leave without one: cmsgpack turns nil in a list into a hole."""
REFUSALS: Final = {"fenced": FENCED, "removed": REMOVED, "full": FULL, "missing": MISSING, "taken": TAKEN}
RECORD_FIELDS: Final = 8
PAGE_STEP: Final = 8
"""Members that a page reads before it looks at its bytes: so many of the largest are less than a page may have."""
PAGE_MAX: Final = 500
"""Members in one call for a page. A member costs the store 2 µs, since nodes decode it."""
_encode_rows = msgspec.msgpack.Encoder().encode
_decode_fields = msgspec.msgpack.Decoder(tuple[int, str, int, str, str, int, int, str]).decode


Row = tuple[str, int, str, int, str, str, int, int, str]
"""A member as it travels: cid, format, user, epoch, info, state, v, at, node."""


class ForeignFormatError(ValueError):
    """A record that a node of another version wrote."""


class ScriptAnswer(msgspec.Struct, array_like=True):
    """The answer of every script; times in ms by the store's clock, 0 where there is none."""

    generation: str
    seq: int
    now: int
    due: int
    hold: int
    results: list[Any]


decode_answer: Final = msgspec.msgpack.Decoder(ScriptAnswer).decode


class PageAnswer(NamedTuple):
    """The answer of `page.lua`: what every script answers, and some members."""

    answer: ScriptAnswer
    how: str
    following: str
    """Where the next page goes on; "": there is none."""
    counts: MemberCounts
    records: list[Record]
    unreadable: dict[str, str]
    """Members of which the record cannot be read, or is of another version: what is wrong with it, by cid."""

    @property
    def is_refused(self) -> bool:
        """Whether nobody was read because the room has more members than the call wanted to read."""
        return self.how == "none"


class DeltaOnChannel(msgspec.Struct, array_like=True):
    """A delta as scripts publish it."""

    format: int
    generation: str
    seq: int
    count: int
    users: int
    due: int
    joins: list[Row]
    updates: list[tuple[str, int, int, str]]
    leaves: list[tuple[str, str, Reason]]


class Packed(NamedTuple):
    """An operation as a script takes it: `rows` of the script's list of operations."""

    verb: str
    rows: list[Any]


def pack(operation: Operation) -> Packed:
    """Return what to send for an operation."""
    match operation:
        case Enter():
            state = False if operation.state is None else text(operation.state)
            info, limits = text(operation.info), (operation.ttl_ms, operation.members_max)
            who = (operation.cid, operation.user, info, state, operation.epoch, operation.node)
            brought = (operation.v, operation.at, str(operation.known_in))
            return Packed("enter", [(*who, *limits, *brought)])
        case Change():
            return Packed("change", [(operation.cid, operation.epoch, operation.v, text(operation.state))])
        case Leave():
            return Packed(
                "leave", [(operation.cid, _leave_epoch(operation), operation.reason, operation.fence)]
            )
        case Linger():
            return Packed("linger", [(operation.cid, operation.epoch, operation.grace_ms, operation.reason)])
        case Beat():
            return Packed("beat" if operation.epochs else "sweep", list(operation.epochs.items()))


def _leave_epoch(leave: Leave) -> int:
    return BACKEND_LEAVE if leave.epoch is None else leave.epoch


def arguments(
    channel: str,
    generation: str,
    ttl_ms: int,
    sent: Sent,
    rows: Sequence[Any],
    *,
    publishes: str = "PUBLISH",
) -> list[str | bytes | int]:
    """Return what every script of a room takes after its keys; see `lua/room.lua`."""
    return [
        channel,
        generation,
        ttl_ms,
        EVICTIONS_MAX,
        sent.hold_rest_ms,
        sent.at_ms,
        sent.late_ms,
        sent.hold_ms,
        _encode_rows(rows),
        publishes,
    ]


def page_row(
    cursor: str, limit: int, *, bytes_max: int, step: int = PAGE_STEP, members_max: int = 0
) -> tuple[str, str, int, int, int, int]:
    """Return what `page.lua` takes: a cursor (`paging.is_cursor`)."""
    how, _, start = cursor.partition(":")
    return how, start, limit, step, bytes_max, members_max


def page_answer(answered: Sequence[Any]) -> PageAnswer:
    """Return what `page.lua` has answered."""
    packed, read = answered
    answer = decode_answer(packed)
    how, following, *counts = answer.results
    records, unreadable = [], {}
    for i in range(0, len(read), 2):
        cid = read[i].decode()
        try:
            records.append(record(cid, *_decode_fields(read[i + 1])))
        except (msgspec.MsgspecError, ForeignFormatError) as exc:
            unreadable[cid] = _foreign_format(read[i + 1]) or str(exc)
    following = f"{how}:{following}" if following else ""
    return PageAnswer(answer, how, following, MemberCounts(*counts), records, unreadable)


def _foreign_format(packed: bytes) -> str:
    """Return the name of the format of a record where it is another one, whatever else the record has; else ""."""
    with contextlib.suppress(msgspec.MsgspecError):
        match msgspec.msgpack.decode(packed):
            case [int(written_as), *_] if written_as != FORMAT:
                return f"a record of format {written_as}, not {FORMAT}"
    return ""


def outcome(operation: Operation, answer: ScriptAnswer, results: Sequence[Any]) -> Outcome:
    """Return what a script's results say of one operation."""
    generation = int(answer.generation)
    if isinstance(operation, Beat):
        cids = zip(operation.epochs, results, strict=False)
        unknown = tuple(cid for cid, result in cids if result is not True)
        return Done(generation, answer.seq, unknown=unknown)
    result = results[0]
    if isinstance(result, str):
        return REFUSALS[result]
    if result is True:
        return Done(generation, answer.seq)
    found = record(operation.cid, *result[:RECORD_FIELDS])
    return Done(generation, answer.seq, found, created=len(result) > RECORD_FIELDS)


def text(document: Any) -> str:
    """Return a document's JSON text, which Redis keeps as it is."""
    return bytes(document).decode()


def record(cid: str, *fields: Any) -> Record:
    """Return a member from what Redis holds of it. Raises `ForeignFormatError`."""
    if fields[0] != FORMAT:
        raise ForeignFormatError(f"a record of format {fields[0]}, not {FORMAT}")
    _, user, epoch, info, state, v, at, node = fields
    member = Member(cid, user, msgspec.Raw(info.encode()), msgspec.Raw(state.encode()), v, at)
    return Record(member, epoch, node)


def delta(channel_delta: DeltaOnChannel) -> Delta:
    """Return a delta from what came over the channel."""
    return Delta(
        generation=int(channel_delta.generation),
        seq=channel_delta.seq,
        count=channel_delta.count,
        users=channel_delta.users,
        joins=tuple(record(*row) for row in channel_delta.joins),
        updates=tuple(
            Change(cid, epoch, v, msgspec.Raw(state.encode()))
            for cid, epoch, v, state in channel_delta.updates
        ),
        leaves=tuple(MemberLeave(cid, user, reason) for cid, user, reason in channel_delta.leaves),
        due_ms=channel_delta.due,
    )
