"""What backends are told in the middle of a run, held to what is promised of it.

Who certainly is there, and who may be, is told apart with a margin: what is on its way counts for neither.
"""

from collections.abc import Iterator
from typing import Final

from tests.simulation.chronicle import NEVER, Answer, Life, Stay
from tests.simulation.evidence import Broken, Run
from tests.simulation.plan import LEASED_MEMBERS, PRESENCE
from tests.simulation.truth import COMMAND_MS, SLACK_MS, Truth, firm

NOTICED_MS: Final = 4_000
"""A node notices after this at the latest that it has lost a connection (`drawing.UNNOTICED_MS`)."""
GONE_MS: Final = NOTICED_MS + PRESENCE.grace_lost_ms + PRESENCE.ttl_ms + 2 * SLACK_MS
LEASED_CID: Final = "leased-"


def answers_true(run: Run) -> Broken:
    """An answer to a backend has all whose nodes have contact, like the one asked; nobody gone for a TTL and a
    grace.
    """
    for answer in run.chronicle.answers:
        if run.truth.hears(answer.node, answer.asked_ms, answer.answered_ms):
            yield from _wrong(run, answer)


def _wrong(run: Run, answer: Answer) -> Iterator[str]:
    if answer.kind == "user":
        lives = [life for life in run.chronicle.lives if life.user == answer.what]
        there = {life.cid for life in lives if _is_open(run.truth, life, answer)}
        gone = {life.cid for life in lives} - {
            life.cid for life in lives if not _is_gone(run.truth, life.node, life.over_ms, answer)
        }
    else:
        stays = [s for s in run.chronicle.stays if s.room == answer.what and s.joining]
        there = {stay.life.cid for stay in stays if _is_member(run.truth, stay, answer)}
        gone = {stay.life.cid for stay in stays} - {
            stay.life.cid for stay in stays if not _is_gone(run.truth, stay.life.node, stay.until_ms, answer)
        }
    if answer.kind == "room":
        count, _ = answer.value
        most = len({s.life.cid for s in run.chronicle.stays if s.room == answer.what} - gone) + LEASED_MEMBERS
        if not len(there) <= count <= most:
            yield f"{answer} is not from {len(there)} to {most}"
        return
    told = {cid for cid in answer.value if not cid.startswith(LEASED_CID)}
    if there - told:
        yield f"{answer} lacks {sorted(there - told)}"
    if told & gone:
        yield f"{answer} has {sorted(told & gone)}, long gone"


def _is_member(truth: Truth, stay: Stay, answer: Answer) -> bool:
    """Tell whether a member certainly was there all the time that an answer took."""
    begin_ms = _before_ms(truth, stay.life.node, answer)
    return (
        stay.entered_ms is not None
        and stay.entered_ms < begin_ms
        and min(stay.until_ms, truth.superseded_ms(stay.life)) > answer.answered_ms
        and firm(truth.absences(stay.life.cid, stay.room), begin_ms, answer.answered_ms)
        and truth.hears(stay.life.node, begin_ms, answer.answered_ms)
        and not truth.may_lack(begin_ms, answer.answered_ms)
    )


def _before_ms(truth: Truth, node: int, answer: Answer) -> int:
    """Return when all that a node had told its clients by then was known to the node that was asked."""
    begin_ms = answer.asked_ms - SLACK_MS
    ways = (truth.late_ms(each, begin_ms, answer.answered_ms) for each in {node, answer.node})
    return begin_ms - sum(ways)


def _is_open(truth: Truth, life: Life, answer: Answer) -> bool:
    """Tell whether a connection certainly was open all the time that an answer took."""
    begin_ms = _before_ms(truth, life.node, answer)
    return (
        life.welcomed_ms is not None
        and life.welcomed_ms < begin_ms
        and min(life.over_ms, truth.superseded_ms(life)) > answer.answered_ms
        and truth.hears(life.node, begin_ms, answer.answered_ms)
        and not truth.may_lack(begin_ms, answer.answered_ms)
        and not _is_being_closed(truth, life, answer)
    )


def _is_being_closed(truth: Truth, life: Life, answer: Answer) -> bool:
    """Tell whether a command to close a connection may be on its way while an answer is made."""
    return any(
        command.kind != "remove"
        and (command.cid == life.cid or command.user == life.user)
        and life.asked_ms <= command.asked_ms <= answer.answered_ms
        and (command.answered_ms or NEVER) + COMMAND_MS >= answer.asked_ms
        for command in truth.chronicle.commands
    )


def _is_gone(truth: Truth, node: int, over_ms: int, answer: Answer) -> bool:
    """Tell whether something ended so long ago that every node must know."""
    return (
        over_ms + GONE_MS < answer.asked_ms
        and truth.has_contact(node, over_ms, answer.asked_ms)
        and not truth.may_lack(over_ms, answer.answered_ms)
    )
