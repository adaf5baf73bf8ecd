"""What backends are told in the middle of a run, and what they tell users: held to what is promised of it.

Who certainly is there, and who may be, is told apart with a margin: what is on its way counts for neither.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tests.simulation.chronicle import NEVER, Answer, Life, Publication, Stay
from tests.simulation.plan import LEASED, PRESENCE
from tests.simulation.truth import FORGETTING, SETTLE_MS, SLACK_MS, Truth, firm

if TYPE_CHECKING:
    from tests.simulation.invariants import Broken, Run

DELIVERY_MS: Final = 2_000
NOTICED_MS: Final = 4_000
"""A node notices after this at the latest that it has lost a connection (`drawing.UNNOTICED_MS`)."""
ORDER_MS: Final = 1_500
"""So long an order may take to every node that has contact."""
GONE_MS: Final = NOTICED_MS + PRESENCE.grace_lost_ms + PRESENCE.ttl_ms + 2 * SLACK_MS
LEASED_CID: Final = "leased-"


def users_told(run: "Run") -> "Broken":
    """A message to a user reaches each of its connections whose node, like the one that was asked, has contact."""
    for publication in run.chronicle.publications.values():
        if publication.user and publication.ok_ms is not None and _is_calm(run.truth, publication):
            got = {life for _, life in publication.got}
            for life in run.chronicle.lives:
                if (
                    life.user == publication.user
                    and life not in got
                    and _listens(run.truth, life, publication)
                ):
                    yield (
                        f"{life} did not get message {publication.number} to {life.user}, "
                        f"sent at {publication.sent_ms}"
                    )


def _is_calm(truth: Truth, publication: Publication) -> bool:
    end_ms = _told_by_ms(truth, publication)
    return truth.hears(publication.node, publication.sent_ms, end_ms) and not _forgot(
        truth, publication.sent_ms, end_ms
    )


def _told_by_ms(truth: Truth, publication: Publication) -> int:
    """Return by when a message has come to nodes whose own links are not slow."""
    end_ms = publication.sent_ms + DELIVERY_MS
    return end_ms + truth.late_ms(publication.node, publication.sent_ms, end_ms)


def _listens(truth: Truth, life: Life, publication: Publication) -> bool:
    """Tell whether a connection certainly was open while a message to its user was on its way."""
    sent_ms = publication.sent_ms
    end_ms = _told_by_ms(truth, publication)
    end_ms += truth.late_ms(life.node, sent_ms, end_ms)
    early_ms = SLACK_MS + truth.late_ms(life.node, life.asked_ms, sent_ms)
    return (
        life.welcomed_ms is not None
        and life.welcomed_ms < sent_ms - early_ms
        and min(life.over_ms, truth.superseded_ms(life)) > life.reads_by_ms(sent_ms, end_ms)
        and truth.hears(life.node, sent_ms - SLACK_MS, end_ms)
    )


def answers_true(run: "Run") -> "Broken":
    """An answer to a backend has all whose nodes have contact, like the one asked; nobody gone for a TTL and a
    grace.
    """
    for answer in run.chronicle.answers:
        if run.truth.hears(answer.node, answer.asked_ms, answer.answered_ms):
            yield from _wrong(run, answer)


def _wrong(run: "Run", answer: Answer) -> Iterator[str]:
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
        most = len({s.life.cid for s in run.chronicle.stays if s.room == answer.what} - gone) + LEASED
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
        and not _forgot(truth, begin_ms, answer.answered_ms)
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
        and not _forgot(truth, begin_ms, answer.answered_ms)
        and not _is_being_closed(truth, life, answer)
    )


def _is_being_closed(truth: Truth, life: Life, answer: Answer) -> bool:
    """Tell whether an order to close a connection may be on its way while an answer is made: its node obeys first."""
    return any(
        order.kind != "remove"
        and (order.cid == life.cid or order.user == life.user)
        and life.asked_ms <= order.asked_ms <= answer.answered_ms
        and (order.answered_ms or NEVER) + ORDER_MS >= answer.asked_ms
        for order in truth.chronicle.orders
    )


def _is_gone(truth: Truth, node: int, over_ms: int, answer: Answer) -> bool:
    """Tell whether something ended so long ago that every node must know."""
    return (
        over_ms + GONE_MS < answer.asked_ms
        and truth.has_contact(node, over_ms, answer.asked_ms)
        and not _forgot(truth, over_ms, answer.answered_ms)
    )


def _forgot(truth: Truth, begin_ms: int, end_ms: int) -> bool:
    """Tell whether the store may have lacked something: it lost data, or its clock jumped."""
    return any(
        fault.kind in {*FORGETTING, "clock"} and begin_ms - SETTLE_MS <= fault.begin_ms <= end_ms
        for fault in truth.chronicle.faults
    )
