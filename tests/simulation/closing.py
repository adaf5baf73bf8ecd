"""What is always promised of closed connections, and of clients that were removed or banned."""

from collections.abc import Iterator

from presence_server.protocol.codes import REPLACED
from tests.simulation.chronicle import NEVER, GivenCommand, Life
from tests.simulation.evidence import Broken, Run
from tests.simulation.plan import PRESENCE
from tests.simulation.truth import COMMAND_MS, SETTLE_MS, SLACK_MS, Truth, firm

BrokenAt = Iterator[tuple[int, str]]
"""When a promise was broken, and what was seen."""


def replaced_by_another(run: Run) -> Broken:
    """A connection is closed as replaced (4010) only if another one has resumed it."""
    for life in run.chronicle.lives:
        if life.code == REPLACED.code and life.ended_ms is not None:
            others = [o for o in run.truth.lives(life.cid) if o is not life and o.asked_ms <= life.ended_ms]
            # One that its client has given up travels on: the node may hear what it asked before it hears of its end.
            if not any(other.over_ms >= life.asked_ms - SLACK_MS for other in others):
                yield f"{life} was closed with 4010 at {life.ended_ms}; nobody else had its cid"


def stays_out(run: Run) -> Broken:
    """Who was kicked or banned stays out: a removed member until it joins anew, a banned user until that is over."""
    truth = run.truth
    for command in run.chronicle.commands:
        answered_ms = command.answered_ms
        if answered_ms is None or not 200 <= command.status < 300:
            continue
        found: list[tuple[int, str]] = []
        if command.kind == "remove":
            found += _removed_stays_out(truth, command.cid, command.room, command.asked_ms, answered_ms)
        else:
            found += _closed_stays_closed(run, command.cid, command.user, command.asked_ms, answered_ms)
        if command.ban_ms:
            until_ms = min(truth.after_ms(command.asked_ms, command.ban_ms), _replaced_ms(run, command))
            found += _banned_stays_out(run, command.user, command.room, answered_ms, until_ms)
        # What the store lost later is no reason for what was so before.
        yield from (what for at_ms, what in found if not truth.forgot(command.asked_ms - SETTLE_MS, at_ms))


def _replaced_ms(run: Run, command: GivenCommand) -> int:
    """Return when a later ban first took the place of one, with an end of its own."""
    later = [
        other.asked_ms
        for other in run.chronicle.commands
        if other.ban_ms is not None
        and other.asked_ms >= command.asked_ms
        and other is not command
        and (other.user, other.room) == (command.user, command.room)
    ]
    return min(later, default=NEVER)


def _was_told_in_vain(life: Life, asked_ms: int, late_ms: int) -> bool:
    """Tell whether a node wrote to a client that was gone already, which it had not noticed, or that did not read."""
    dozed = any(doze.meets(asked_ms, late_ms) for doze in life.dozes)
    return dozed or ((life.hung_up_ms or NEVER) <= late_ms and (life.ended_ms or NEVER) >= asked_ms)


def _removed_stays_out(truth: Truth, cid: str, room: str, asked_ms: int, answered_ms: int) -> BrokenAt:
    told = False
    for stay in truth.stays(cid, room):
        if stay.asked_ms < asked_ms:
            over_ms = min(stay.until_ms, truth.superseded_ms(stay.life))
            late_ms = answered_ms + COMMAND_MS
            told = told or (stay.how in {"removed", "left"} and stay.until_ms >= asked_ms)
            told = told or _was_told_in_vain(stay.life, asked_ms, late_ms)
            must_know = over_ms > late_ms and not stay.life.dozes
            if must_know and truth.has_contact(stay.life.node, asked_ms, late_ms):
                yield (
                    late_ms,
                    f"{stay.life} was taken out of {room} at {answered_ms}, and was not told by {late_ms}",
                )
        elif stay.asked_ms > answered_ms + COMMAND_MS and stay.asked_ms < answered_ms + PRESENCE.ttl_ms:
            was_there = any(
                s.joining and s.entered_ms is not None and s.asked_ms < asked_ms
                for s in truth.stays(cid, room)
            ) and firm(truth.absences(cid, room), asked_ms - 1, asked_ms - 1)
            if stay.joining and stay.entered_ms is not None and was_there and not told:
                yield (
                    stay.entered_ms,
                    f"{stay.life} was taken out of {room} at {answered_ms} and came back before it was told",
                )
            told = True


def _closed_stays_closed(run: Run, cid: str, user: str, asked_ms: int, answered_ms: int) -> BrokenAt:
    late_ms = answered_ms + COMMAND_MS
    for life in run.chronicle.lives:
        if life.cid != cid and (cid or life.user != user):
            continue
        was_open = life.welcomed_ms is not None and life.welcomed_ms < asked_ms - SLACK_MS
        if was_open and life.over_ms > late_ms and run.truth.has_contact(life.node, asked_ms, late_ms):
            yield late_ms, f"{life} was to be closed for good at {answered_ms}, and was open at {late_ms}"
        resumed = life.resumed and life.asked_ms > late_ms and _token_ms(run, life) < asked_ms - SLACK_MS
        if resumed and run.truth.has_contact(life.node, asked_ms, life.asked_ms + COMMAND_MS):
            resumed_ms = life.welcomed_ms or life.asked_ms + COMMAND_MS
            yield resumed_ms, f"{life} resumed at {life.asked_ms} with a token that ended at {answered_ms}"


def _token_ms(run: Run, life: Life) -> int:
    """Return when the connection before was welcomed, which is when it got its token; 0: it is not known."""
    before = [o.welcomed_ms for o in run.truth.lives(life.cid) if o.number < life.number and o.welcomed_ms]
    return max(before, default=NEVER)


def _banned_stays_out(run: Run, user: str, room: str, answered_ms: int, until_ms: int) -> BrokenAt:
    begin_ms, end_ms = answered_ms + COMMAND_MS, until_ms - SLACK_MS
    for life in run.chronicle.lives:
        welcomed_ms = life.welcomed_ms
        if room or life.user != user or welcomed_ms is None or not begin_ms < life.asked_ms < end_ms:
            continue
        if life.over_ms > welcomed_ms + SLACK_MS and run.truth.has_contact(
            life.node, answered_ms, life.asked_ms
        ):
            yield welcomed_ms, f"{life} was let in at {welcomed_ms}; {user} is banned until {until_ms}"
    for stay in run.chronicle.stays:
        if stay.life.user == user and stay.room == room and begin_ms < stay.asked_ms < end_ms:
            contact = run.truth.has_contact(stay.life.node, answered_ms, stay.asked_ms)
            if stay.entered_ms is not None and contact:
                yield (
                    stay.entered_ms,
                    f"{stay.life} entered {room} at {stay.entered_ms}; {user} is banned there until {until_ms}",
                )
