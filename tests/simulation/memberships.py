"""Joins and leaves, as clients were told of them: what is always promised of memberships."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from presence_server.client.events import Joined, Left, Updated
from presence_server.protocol.codes import GOING_AWAY
from tests.simulation.chronicle import NEVER, Heard, Life, Stay
from tests.simulation.evidence import Broken, Run
from tests.simulation.plan import PRESENCE
from tests.simulation.truth import DELIVERY_MS, MENDED_MS, RETURN_MS, SETTLE_MS, SLACK_MS, Truth, firm


def no_false_leave(run: Run) -> Broken:
    """Nobody hears that a member left whose connection is open on a node that has contact."""
    truth = run.truth
    present_since: dict[tuple[str, str, str], int] = {}
    for heard in run.chronicle.heard:
        for event in heard.events:
            if not isinstance(event, Joined | Left | Updated):
                continue
            key = (heard.life.who, heard.room, event.member.cid)
            if not isinstance(event, Left):
                present_since[key] = heard.life.written_ms(heard.at_ms)
                continue
            if heard.source != "Diff" and heard.stale:
                continue  # a node without contact that had not watched the room does not know who is there
            if event.reason is None and heard.source == "Diff" and _joined_unknown(run, heard, key[2]):
                continue  # told anew in one diff, with the moment at which the store has it since
            if heard.source == "RosterSync" and (
                _was_met_without_contact(run, heard, key[2]) or _came_to_a_wiped_store(run, heard)
            ):
                continue
            since_ms = truth.known_since_ms(heard.life.node, present_since.get(key, 0))
            if not truth.has_contact(heard.life.node, heard.at_ms, heard.at_ms):
                spans = truth.absences(event.member.cid, heard.room, heard.life.node)
            else:
                spans = truth.absences(event.member.cid, heard.room)
            if firm(spans, since_ms, heard.at_ms):
                yield (
                    f"{heard.life} heard at {heard.at_ms} in {heard.room}, by {heard.source}, that "
                    f"{event.member.cid[:6]} left ({event.reason})"
                )


def reasons(run: Run) -> Broken:
    """A leave says why: `left`, `closed`, `kicked` or `timeout`; one that the hearer's node missed says `timeout`."""
    for heard in run.chronicle.heard:
        for event in heard.events:
            if isinstance(event, Left) and event.reason is not None and heard.source == "Diff":
                expected = _reason(run.truth, event.member.cid, heard)
                if expected not in {"", event.reason}:
                    yield (
                        f"{heard.life} heard at {heard.at_ms} in {heard.room} that {event.member.cid[:6]} left "
                        f"({event.reason}), which was {expected}"
                    )


def _reason(truth: Truth, cid: str, heard: Heard) -> str:
    """Return why a member has left that was in a room once, where both nodes had contact; "": another case."""
    stays = [stay for stay in truth.stays(cid, heard.room) if stay.asked_ms <= heard.at_ms]
    if len(stays) != 1 or len(truth.lives(cid)) != 1 or not _was_plain(truth, stays[0], heard):
        return ""
    (stay,) = stays
    if stay.how == "left":
        return "left"
    if stay.how == "lost" and stay.life.code is None:
        return "timeout"
    return "closed" if stay.how == "closed" and stay.life.code == GOING_AWAY.code else ""


def _was_plain(truth: Truth, stay: Stay, heard: Heard) -> bool:
    """Tell whether nothing but its end can be why somebody left, and who is told has heard it."""
    return (
        stay.joining
        and stay.until_ms <= heard.at_ms
        and truth.hears(heard.life.node, stay.until_ms, heard.at_ms)
        and truth.has_contact(stay.life.node, stay.asked_ms, heard.at_ms)
        # A store that lost what it was told knows leases alone.
        and not truth.may_lack(stay.asked_ms, heard.at_ms)
        and not any(
            truth.is_about(command, stay.life.cid, heard.room) for command in truth.chronicle.commands
        )
    )


def _joined_unknown(run: Run, heard: Heard, cid: str) -> bool:
    """Tell whether a member came by a node that had no contact, or that could not know it: the store had lost it."""
    if any(True for _ in _stays_without_contact(run, heard, cid)):
        return True
    stays = [
        stay for stay in run.truth.stays(cid, heard.room) if stay.joining and stay.asked_ms <= heard.at_ms
    ]
    return any(run.truth.forgot(s.asked_ms - SETTLE_MS, s.entered_ms or heard.at_ms) for s in stays[1:])


def _stays_without_contact(run: Run, heard: Heard, cid: str) -> Iterator[Stay]:
    for stay in run.truth.stays(cid, heard.room):
        entered_ms = stay.entered_ms or heard.at_ms
        contact = run.truth.has_contact(stay.life.node, stay.asked_ms, entered_ms)
        if stay.joining and stay.asked_ms <= heard.at_ms and not contact:
            yield stay


def _came_to_a_wiped_store(run: Run, heard: Heard) -> bool:
    """Tell whether who hears came, to a node that need not have watched the room, as the store had just lost it."""
    since_ms = heard.at_ms - SETTLE_MS
    return heard.life.asked_ms >= since_ms and run.truth.forgot(since_ms, heard.at_ms)


def _was_met_without_contact(run: Run, heard: Heard, cid: str) -> bool:
    """Tell whether who hears has come from a node without contact by which the member had joined."""
    before = [life for life in run.chronicle.lives if life.who == heard.life.who and life is not heard.life]
    return any(
        life.node == stay.life.node != heard.life.node and stay.asked_ms <= life.over_ms <= heard.at_ms
        for stay in _stays_without_contact(run, heard, cid)
        for life in before
    )


def leaves_heard(run: Run) -> Broken:
    """Who leaves is gone for every watcher as soon as its node, like the one that was left on, has contact."""
    yield from _leaves_heard(run, _must_have_heard_at_once)


def leaves_heard_on_return(run: Run) -> Broken:
    """Who leaves on a node without contact is gone when it has contact; a TTL after, if the watcher's node is back
    later.
    """
    yield from _leaves_heard(run, _must_have_heard_on_return)


def _leaves_heard(run: Run, who_must_have_heard: Callable[[Run, Stay], Iterator[tuple[Stay, int]]]) -> Broken:
    told: dict[tuple[Life, str, str], list[tuple[int, bool]]] = {}
    for heard in run.chronicle.heard:
        for event in heard.events:
            if isinstance(event, Joined | Left):
                key = (heard.life, heard.room, event.member.cid)
                told.setdefault(key, []).append((heard.at_ms, isinstance(event, Joined)))
    for stay in run.chronicle.stays:
        if stay.how == "left" and stay.joining and stay.entered_ms is not None:
            for other, late_ms in who_must_have_heard(run, stay):
                events = told.get((other.life, stay.room, stay.life.cid), [])
                if [(0, False), *(event for event in events if event[0] <= late_ms)][-1][1]:
                    yield (
                        f"{stay.life} left {stay.room} at {stay.until_ms}, and {other.life} had not heard of it "
                        f"at {late_ms}"
                    )


def _must_have_heard_at_once(run: Run, stay: Stay) -> Iterator[tuple[Stay, int]]:
    """Yield who certainly watched when somebody left, and until when it must have heard of it."""
    truth, node, left_ms = run.truth, stay.life.node, stay.until_ms
    if truth.has_contact(node, left_ms, left_ms + DELIVERY_MS):
        for other in _watchers(run, stay):
            late_ms = _both_hear_ms(truth, left_ms + DELIVERY_MS, (node, other.life.node))
            late_ms = other.life.reads_by_ms(left_ms, late_ms)
            if _may_judge_leave(truth, stay, other, late_ms):
                yield other, late_ms


def _must_have_heard_on_return(run: Run, stay: Stay) -> Iterator[tuple[Stay, int]]:
    """Yield who must have heard of a leave on a node without contact, and until when."""
    truth, left_ms = run.truth, stay.until_ms
    back_ms = truth.back_ms(stay.life.node, left_ms)
    if back_ms is None:
        return
    for other in _watchers(run, stay):
        node = other.life.node
        if truth.has_contact(node, back_ms - RETURN_MS + SETTLE_MS, back_ms + RETURN_MS):
            late_ms = back_ms + RETURN_MS + SLACK_MS
        else:
            late_ms = _both_hear_ms(truth, back_ms + SETTLE_MS, (stay.life.node, node))
            late_ms += PRESENCE.ttl_ms + DELIVERY_MS
        late_ms = other.life.reads_by_ms(left_ms, late_ms)
        if _may_judge_leave(truth, stay, other, late_ms):
            yield other, late_ms


def _watchers(run: Run, stay: Stay) -> Iterator[Stay]:
    """Yield the stays of those who were told names in a room."""
    for other in run.chronicle.stays:
        if other.room == stay.room and other.told_all and other.entered_ms is not None:
            yield other


def _both_hear_ms(truth: Truth, since_ms: int, nodes: tuple[int, int]) -> int:
    """Return from when on two nodes certainly hear all that is sent."""
    at_ms = since_ms
    while not all(truth.hears(node, at_ms, at_ms) for node in nodes):
        at_ms += 250
    return at_ms + sum(truth.late_ms(node, since_ms, at_ms) for node in set(nodes))


def _may_judge_leave(truth: Truth, stay: Stay, other: Stay, late_ms: int) -> bool:
    """Tell whether `other` certainly watched all the time, and `stay` was the last one of its connection."""
    life = stay.life
    before = [
        cut
        for cut in truth.chronicle.faults
        if cut.kind == "killed" and life.node in cut.nodes and cut.begin_ms <= late_ms
    ]
    back = [again for again in truth.stays(life.cid, stay.room) if again.asked_ms > stay.asked_ms]
    return (
        not before
        and not any(again.asked_ms <= late_ms for again in back)
        and life.over_ms > late_ms
        and truth.superseded_ms(life) > late_ms
        and (other.entered_ms or 0) < stay.until_ms
        and min(other.until_ms, truth.superseded_ms(other.life)) > late_ms
    )


def stays_gone(run: Run) -> Broken:
    """Nobody hears that a member is back that has left, on the node that it left on."""
    left = {
        (stay.life.cid, stay.room): stay
        for stay in run.chronicle.stays
        if stay.joining and stay.how == "left" and stay.entered_ms is not None
    }
    for heard in run.chronicle.heard:
        for event in heard.events:
            stay = left.get((event.member.cid, heard.room)) if isinstance(event, Joined) else None
            if (
                stay is not None
                and stay.life.node == heard.life.node
                and heard.life.written_ms(heard.at_ms) > stay.until_ms + DELIVERY_MS
                and stay is run.truth.stays(stay.life.cid, stay.room)[-1]
                and run.truth.superseded_ms(stay.life) == NEVER
                and run.truth.has_contact(stay.life.node, stay.until_ms, stay.until_ms + DELIVERY_MS)
                and not any(
                    f.kind == "killed" and heard.life.node in f.nodes and f.begin_ms <= heard.at_ms
                    for f in run.chronicle.faults
                )
            ):
                yield (
                    f"{stay.life} left {stay.room} at {stay.until_ms}, and {heard.life} heard that it joined at "
                    f"{heard.at_ms}"
                )


def one_join_one_leave(run: Run) -> Broken:
    """Nobody hears more than one join and one leave of a membership."""
    times_ms: dict[tuple[str, Life, str, str, int, int], list[int]] = {}
    alone: set[tuple[Any, str, str]] = set()
    stale_syncs: Counter[tuple[Any, str]] = Counter()
    for heard in run.chronicle.heard:
        if heard.source == "RosterSync" and heard.stale:
            stale_syncs[heard.life, heard.room] += 1
        for event in heard.events:
            if isinstance(event, Joined | Left) and heard.source == "Diff":
                cid, kind = event.member.cid, type(event).__name__
                # A roster that was stale need not have had everybody: who was not in it is told of again.
                told = stale_syncs[heard.life, heard.room] if kind == "Joined" else 0
                key = (kind, heard.life, heard.room, cid, event.member.at, told)
                times_ms.setdefault(key, []).append(heard.at_ms)
                if isinstance(event, Left) and _was_lost_alone(run, heard, cid):
                    alone.add((heard.life, heard.room, cid))
    for (kind, life, room, cid, *_), heard_ms in times_ms.items():
        if len(heard_ms) > 1 and (life, room, cid) not in alone:
            since_ms = life.written_ms(heard_ms[0]) - MENDED_MS
            if not _may_come_back(run, cid, room, since_ms, heard_ms[-1]):
                yield f"{life} heard {len(heard_ms)} times {kind} of one membership of {cid[:6]} in {room}"


def _was_lost_alone(run: Run, heard: Heard, cid: str) -> bool:
    """Tell whether a leave is told by a node without contact that lost the connection, which may go on elsewhere.

    Or that was asked for the lease: the store may still have it.
    """
    node, at_ms = heard.life.node, heard.at_ms
    stays = run.truth.stays(cid, heard.room)
    leased = not stays
    lost_here = leased or any(stay.life.node == node for stay in stays)
    return lost_here and not run.truth.has_contact(node, at_ms, at_ms)


def _may_come_back(run: Run, cid: str, room: str, begin_ms: int, end_ms: int) -> bool:
    """Tell whether a membership may end for others and go on, by what happened in some time.

    Its node was cut off alone, or it came back by a node without contact and its grace went on, or the store went back.
    """
    truth = run.truth
    stays = truth.stays(cid, room)
    alone = any(not firm(truth.cut_alone(stay.life.node), begin_ms, end_ms) for stay in stays)
    unheard = any(
        not truth.has_contact(stay.life.node, stay.life.asked_ms, stay.entered_ms or stay.asked_ms)
        and begin_ms <= (truth.back_ms(stay.life.node, stay.life.asked_ms) or stay.asked_ms) + SETTLE_MS
        and stay.asked_ms <= end_ms
        for stay in stays[1:]
    )
    return alone or unheard or truth.forgot(begin_ms, end_ms)
