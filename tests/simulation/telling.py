"""Rosters, versions and messages, as clients were told of them: what is always promised of what is told."""

from collections import Counter
from itertools import pairwise

from presence_server.client.events import Updated
from tests.simulation.chronicle import Heard, Life, Publication, Stay
from tests.simulation.evidence import Broken, Run
from tests.simulation.truth import DELIVERY_MS, MENDED_MS, SLACK_MS, Truth


def fold(run: Run) -> Broken:
    """Whoever applies what it is told, in order, has as many members and users as it is told."""
    yield from run.ears.miscounted


def once_in_a_diff(run: Run) -> Broken:
    """No connection is twice in one diff."""
    yield from run.ears.repeated


def versions_rise(run: Run) -> Broken:
    """The version of a membership never goes back, unless it or who is told changes nodes while one of them has no
    contact.
    """
    last: dict[tuple[str, str], Heard] = {}
    earlier: dict[tuple[str, str], Heard] = {}
    for heard in run.chronicle.heard:
        key = (heard.life.who, heard.room)
        before, last[key] = last.get(key), heard
        if before is not None and before.life is not heard.life:
            earlier[key] = before
        for event in heard.events:
            if not isinstance(event, Updated) or event.member.v >= event.previous.v:
                continue
            if event.member.at != event.previous.at:
                continue  # who was away meanwhile found it in the room anew
            if not _has_changed_nodes(run.truth, event.member.cid, earlier.get(key), heard):
                yield (
                    f"{heard.life} heard at {heard.at_ms} in {heard.room} of {event.member.cid[:6]}: "
                    f"v {event.previous.v}, then {event.member.v}"
                )


def _has_changed_nodes(truth: Truth, cid: str, earlier: Heard | None, heard: Heard) -> bool:
    """Tell whether who is told, or the member, may have come from a node to another that did not know all of it."""
    if earlier is not None and heard.source != "Diff" and earlier.life.node != heard.life.node:
        ways = [(earlier.life, earlier.life.over_ms), (heard.life, heard.at_ms)]
        if not all(truth.has_contact(life.node, at_ms, at_ms) for life, at_ms in ways):
            return True
    lives = [life for life in truth.lives(cid) if life.asked_ms <= heard.at_ms]
    return any(
        one.node != other.node
        and not truth.has_contact(one.node, min(one.over_ms, other.asked_ms), other.asked_ms)
        and heard.life.written_ms(heard.at_ms)
        <= (truth.back_ms(one.node, other.asked_ms) or other.asked_ms) + MENDED_MS
        for one, other in pairwise(lives)
    )


def join_before_message(run: Run) -> Broken:
    """A member's message never comes before its join."""
    truth = run.truth
    for heard, cid in run.ears.strangers:
        member = any(
            stay.joining
            and stay.entered_ms is not None
            and stay.entered_ms < heard.life.written_ms(heard.at_ms)
            and heard.at_ms < stay.until_ms
            and not any(  # a backend has taken it out, which its node has not heard yet
                truth.is_about(command, cid, heard.room) and stay.asked_ms <= command.asked_ms <= heard.at_ms
                for command in run.chronicle.commands
            )
            for stay in truth.stays(cid, heard.room)
        )
        if member and truth.hears(heard.life.node, heard.at_ms, heard.at_ms):
            yield f"{heard.life} heard at {heard.at_ms} in {heard.room} a message of {cid[:6]}, whom it does not know"


def delivered(run: Run) -> Broken:
    """A message that was answered with `ok` reaches every watcher whose node, like its sender's, has contact."""
    truth = run.truth
    for publication in run.chronicle.publications.values():
        ok_ms, sent_ms = publication.ok_ms, publication.sent_ms
        if ok_ms is None or not truth.has_contact(publication.node, sent_ms, ok_ms):
            continue
        late_ms = ok_ms + DELIVERY_MS + truth.late_ms(publication.node, sent_ms, ok_ms + DELIVERY_MS)
        if publication.life is not None and truth.superseded_ms(publication.life) < late_ms:
            continue
        got = {life for _, life in publication.got}
        for stay in run.chronicle.stays:
            if (
                stay.room == publication.room
                and stay.life not in {*got, publication.life}
                and _stayed(truth, stay, sent_ms, late_ms)
            ):
                yield (
                    f"{stay.life} was in {stay.room} and did not get message {publication.number} "
                    f"of {publication.life or 'a backend'}, sent at {sent_ms}, ok at {ok_ms}"
                )


def _stayed(truth: Truth, stay: Stay, sent_ms: int, late_ms: int) -> bool:
    """Tell whether somebody certainly was a watcher while a message was on its way, on a node that heard all."""
    late_ms += truth.late_ms(stay.life.node, sent_ms, late_ms)
    return was_there(truth, stay, sent_ms, late_ms) and truth.hears(stay.life.node, sent_ms, late_ms)


def was_there(truth: Truth, stay: Stay, sent_ms: int, late_ms: int) -> bool:
    """Tell whether somebody certainly was a watcher while a message was on its way."""
    end_ms = min(stay.until_ms, truth.superseded_ms(stay.life))
    return (
        stay.entered_ms is not None
        and stay.entered_ms <= sent_ms
        and end_ms >= stay.life.reads_by_ms(sent_ms, late_ms)
    )


def users_told(run: Run) -> Broken:
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
    return truth.hears(publication.node, publication.sent_ms, end_ms) and not truth.may_lack(
        publication.sent_ms, end_ms
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


def never_twice(run: Run) -> Broken:
    """Nobody gets a message twice."""
    for publication in run.chronicle.publications.values():
        for life, times in Counter(life for _, life in publication.got).items():
            if times > 1:
                yield f"{life} got message {publication.number} of {publication.life or 'a backend'} {times} times"


def in_order(run: Run) -> Broken:
    """Messages of one sender to a room arrive in its order, and never at the sender."""
    yield from run.ears.echoed
    for heard, number, last in run.ears.overtaken:
        yield f"{heard.life} heard at {heard.at_ms} in {heard.room} message {number} after message {last} of one sender"
