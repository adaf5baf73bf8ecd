"""What is promised, one function a promise: each yields what broke it.

The first paragraph of each docstring is the sentence of docs/presence.md, word for word; a test compares them.
`ALWAYS` hold of a whole run, `MOMENTS` of each moment of it, `QUIET` of the moment when nothing has been broken for a
TTL, a grace period and two heartbeats, `EMPTY` once everybody has left.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from presence_server.client.events import Joined, Left, Updated
from presence_server.client.wire import RosterPage, RosterSync
from presence_server.cluster.store import ClusterStore
from presence_server.presence.deadlines import STEP_BACK_MS
from presence_server.protocol.codes import REPLACED
from presence_server.protocol.messages import Count, Diff, Published
from tests.simulation.answers import ORDER_MS, answers_true, users_told
from tests.simulation.chronicle import NEVER, Chronicle, Heard, Life, Stay
from tests.simulation.clients import Browser
from tests.simulation.leftovers import leftovers
from tests.simulation.nodes import SimulatedNode
from tests.simulation.plan import PRESENCE, ROOMS
from tests.simulation.truth import MENDED_MS, RETURN_MS, SETTLE_MS, SLACK_MS, Truth, firm
from tests.simulation.world import World

DELIVERY_MS: Final = 2_000
"""So long a message may take to every watcher; far more than it does."""
FENCE_MS: Final = 2 * PRESENCE.ttl_ms
Broken = Iterator[str]
BrokenAt = Iterator[tuple[int, str]]
"""When a promise was broken, and what was seen."""


class Ears:
    """Looks at every message that reaches a client, and notes what cannot be seen later."""

    def __init__(self, chronicle: Chronicle) -> None:
        self.chronicle = chronicle
        self.miscounted: list[str] = []
        self.strangers: list[tuple[Heard, str]] = []
        """Messages of members that the hearer's roster did not have."""
        self.repeated: list[str] = []

    def told(self, browser: Browser, life: Life, message: Any, heard: Heard | None) -> None:
        """Take note of a message."""
        if heard is None:
            self._note_for_user(life, message)
            return
        want = browser.wants[heard.room]
        roster = want.roster
        match message:
            case RosterSync() | Diff() | Count():
                if roster.mode == "full" and roster.complete:
                    told, folded = (roster.count, roster.user_count), (len(roster.members), len(roster.users))
                    if told != folded:
                        self.miscounted.append(
                            f"{life} at {heard.at_ms} in {heard.room}: told {told}, has {folded} after {message}"
                        )
                if isinstance(message, Diff):
                    self._check_diff(life, message, heard.at_ms)
            case RosterPage():
                if heard.events:
                    self.miscounted.append(f"{life} at {heard.at_ms}: a page with {heard.events}")
            case Published(data={"n": int(number)}):
                publication = self.chronicle.publications[number]
                publication.got.append((heard.at_ms, life))
                author = publication.life
                if author is not None and roster.mode == "full" and author.cid not in roster.members:
                    self.strangers.append((heard, author.cid))

    def _note_for_user(self, life: Life, message: Any) -> None:
        match message:
            case Published(room=None, data={"n": int(number)}):
                self.chronicle.publications[number].got.append(
                    (self.chronicle.publications[number].sent_ms, life)
                )

    def _check_diff(self, life: Life, diff: Diff, at_ms: int) -> None:
        cids = (
            [m.cid for m in diff.joins] + [u.cid for u in diff.updates] + [gone.cid for gone in diff.leaves]
        )
        twice = [cid for cid, times in Counter(cids).items() if times > 1]
        if twice:
            self.repeated.append(f"{life} at {at_ms} in {diff.room}: {twice} twice in one diff")


@dataclass
class Run:
    """A run that is over."""

    chronicle: Chronicle
    ears: Ears
    truth: Truth = field(init=False)

    def __post_init__(self) -> None:
        self.truth = Truth(self.chronicle)


@dataclass
class Scene:
    """A moment at which everything should be exact."""

    world: World
    browsers: list[Browser]
    chronicle: Chronicle
    api: dict[tuple[str, str], Any]
    """What each node answered to backends, by node and question."""

    @property
    def nodes(self) -> list[SimulatedNode]:
        """Return the nodes that run."""
        return self.world.alive

    @property
    def rooms(self) -> list[str]:
        """Return the rooms that some page wants to be in."""
        return sorted({room for browser in self.browsers for room in browser.wants})

    def members(self, room: str) -> dict[str, Browser]:
        """Return who is in a room, by cid: whose page wants to be, and was told that it is."""
        return {b.cid: b for b in self.browsers if room in b.wants and _is_member(b, room)}


def _is_member(browser: Browser, room: str) -> bool:
    stay = browser.wants[room].stay
    return browser.life is not None and stay is not None and stay.joining and stay.entered_ms is not None


# --- always ---


def fold(run: Run) -> Broken:
    """Whoever applies what it is told, in order, has as many members and users as it is told."""
    yield from run.ears.miscounted


def once_in_a_diff(run: Run) -> Broken:
    """No connection is twice in one diff."""
    yield from run.ears.repeated


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
            if (
                event.reason is None
                and heard.source == "Diff"
                and _joined_without_contact(run, heard, key[2])
            ):
                continue  # told anew in one diff, with the moment at which the store has it since
            if heard.source == "RosterSync" and _was_met_without_contact(run, heard, key[2]):
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


def _joined_without_contact(run: Run, heard: Heard, cid: str) -> bool:
    """Tell whether a member came into the room by a node that had no contact then."""
    return any(True for _ in _stays_without_contact(run, heard, cid))


def _stays_without_contact(run: Run, heard: Heard, cid: str) -> Iterator[Stay]:
    for stay in run.truth.stays(cid, heard.room):
        entered_ms = stay.entered_ms or heard.at_ms
        contact = run.truth.has_contact(stay.life.node, stay.asked_ms, entered_ms)
        if stay.joining and stay.asked_ms <= heard.at_ms and not contact:
            yield stay


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
                truth.is_about(order, cid, heard.room) and stay.asked_ms <= order.asked_ms <= heard.at_ms
                for order in run.chronicle.orders
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
    end_ms = min(stay.until_ms, truth.superseded_ms(stay.life))
    late_ms += truth.late_ms(stay.life.node, sent_ms, late_ms)
    return (
        stay.entered_ms is not None
        and stay.entered_ms <= sent_ms
        and end_ms >= stay.life.reads_by_ms(sent_ms, late_ms)
        and truth.hears(stay.life.node, sent_ms, late_ms)
    )


def never_twice(run: Run) -> Broken:
    """Nobody gets a message twice."""
    for publication in run.chronicle.publications.values():
        for life, times in Counter(life for _, life in publication.got).items():
            if times > 1:
                yield f"{life} got message {publication.number} of {publication.life or 'a backend'} {times} times"


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
    for order in run.chronicle.orders:
        answered_ms = order.answered_ms
        if answered_ms is None or not 200 <= order.status < 300:
            continue
        found: list[tuple[int, str]] = []
        if order.kind == "remove":
            found += _removed_stays_out(truth, order.cid, order.room, order.asked_ms, answered_ms)
        else:
            found += _closed_stays_closed(run, order.cid, order.user, order.asked_ms, answered_ms)
        if order.ban_ms:
            until_ms = truth.after_ms(order.asked_ms, order.ban_ms)
            found += _banned_stays_out(run, order.user, order.room, answered_ms, until_ms)
        # What the store lost later is no reason for what was so before.
        yield from (what for at_ms, what in found if not truth.forgot(order.asked_ms - SETTLE_MS, at_ms))


def _was_told_in_vain(life: Life, asked_ms: int, late_ms: int) -> bool:
    """Tell whether a node wrote to a client that was gone already, which it had not noticed, or that did not read."""
    dozed = any(doze.meets(asked_ms, late_ms) for doze in life.dozes)
    return dozed or ((life.hung_up_ms or NEVER) <= late_ms and (life.ended_ms or NEVER) >= asked_ms)


def _removed_stays_out(truth: Truth, cid: str, room: str, asked_ms: int, answered_ms: int) -> BrokenAt:
    told = False
    for stay in truth.stays(cid, room):
        if stay.asked_ms < asked_ms:
            over_ms = min(stay.until_ms, truth.superseded_ms(stay.life))
            late_ms = answered_ms + ORDER_MS
            told = told or (stay.how in {"removed", "left"} and stay.until_ms >= asked_ms)
            told = told or _was_told_in_vain(stay.life, asked_ms, late_ms)
            must_know = over_ms > late_ms and not stay.life.dozes
            if must_know and truth.has_contact(stay.life.node, asked_ms, late_ms):
                yield (
                    late_ms,
                    f"{stay.life} was taken out of {room} at {answered_ms}, and was not told by {late_ms}",
                )
        elif stay.asked_ms > answered_ms + ORDER_MS and stay.asked_ms < answered_ms + PRESENCE.ttl_ms:
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
    late_ms = answered_ms + ORDER_MS
    for life in run.chronicle.lives:
        if life.cid != cid and (cid or life.user != user):
            continue
        was_open = life.welcomed_ms is not None and life.welcomed_ms < asked_ms - SLACK_MS
        if was_open and life.over_ms > late_ms and run.truth.has_contact(life.node, asked_ms, late_ms):
            yield late_ms, f"{life} was to be closed for good at {answered_ms}, and was open at {late_ms}"
        resumed = life.resumed and life.asked_ms > late_ms and _token_ms(run, life) < asked_ms - SLACK_MS
        if resumed and run.truth.has_contact(life.node, asked_ms, life.asked_ms + ORDER_MS):
            resumed_ms = life.welcomed_ms or life.asked_ms + ORDER_MS
            yield resumed_ms, f"{life} resumed at {life.asked_ms} with a token that ended at {answered_ms}"


def _token_ms(run: Run, life: Life) -> int:
    """Return when the connection before was welcomed, which is when it got its token; 0: it is not known."""
    before = [o.welcomed_ms for o in run.truth.lives(life.cid) if o.number < life.number and o.welcomed_ms]
    return max(before, default=NEVER)


def _banned_stays_out(run: Run, user: str, room: str, answered_ms: int, until_ms: int) -> BrokenAt:
    begin_ms, end_ms = answered_ms + ORDER_MS, until_ms - SLACK_MS
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


# --- when it is quiet again ---


def rosters_exact(scene: Scene) -> Broken:
    """Every roster, count and user list is exactly who is there."""
    for room in ROOMS:
        members = scene.members(room)
        numbers = (len(members), len({browser.user for browser in members.values()}))
        for browser in scene.browsers:
            want = browser.wants.get(room)
            if want is None or browser.life is None or want.stay is None:
                continue
            roster = want.roster
            if roster.mode == "full" and set(roster.members) != set(members):
                ghosts, missing = set(roster.members) - set(members), set(members) - set(roster.members)
                yield f"{browser.life} in {room}: ghosts {_names(ghosts)}, missing {_names(missing)}"
            if roster.mode != "none" and (roster.count, roster.user_count) != numbers:
                yield f"{browser.life} in {room}: told {(roster.count, roster.user_count)}, there are {numbers}"


def _names(cids: set[str]) -> list[str]:
    return sorted(cid[:6] for cid in cids)


def api_exact(scene: Scene) -> Broken:
    """Every answer to a backend is exactly who is there, on every node."""
    for (name, question), answer in scene.api.items():
        kind, _, what = question.partition(" ")
        if isinstance(answer, Exception):
            yield f"{name} does not answer {question}: {answer!r}"
            continue
        if kind == "room":
            expected: Any = (len(scene.members(what)), len({b.user for b in scene.members(what).values()}))
        elif kind == "members":
            expected = sorted(scene.members(what))
        elif kind == "rooms":
            expected = [room for room in scene.rooms if scene.members(room)]
        else:
            expected = sorted(b.cid for b in scene.browsers if b.user == what and b.life is not None)
        if answer != expected:
            yield f"{name} answers {question} with {answer}, which is {expected}"


def updates_kept(scene: Scene) -> Broken:
    """An update that was answered with `ok` is in the roster, or a later one is."""
    for room in ROOMS:
        for cid, browser in scene.members(room).items():
            stay = browser.wants[room].stay
            changes = [
                c for c in scene.chronicle.changes.values() if stay is not None and c.life is stay.life
            ]
            done = [
                c
                for c in changes
                if c.room == room and c.ok_ms is not None and c.sent_ms >= (stay.asked_ms if stay else 0)
            ]
            last = max((c.number for c in done), default=0)
            v = max((c.v for c in done), default=0)
            for other in scene.browsers:
                roster = other.wants[room].roster if room in other.wants else None
                member = None if roster is None else roster.members.get(cid)
                if member is not None and (member.v < v or member.state.get("n", 0) < last):
                    yield (
                        f"{browser.life} in {room} was told ok for state {last} at v {v}; "
                        f"{other.life} has {member.state} at v {member.v}"
                    )


def nothing_waits(scene: Scene) -> Broken:
    """Nothing is stale, in doubt or waiting, and every request has been answered."""
    for browser in scene.browsers:
        life = browser.life
        if life is not None and life.requests:
            yield f"{life} waits for an answer to {list(life.requests.values())}"
        if browser.open and life is None:
            yield f"{browser.name} could not come back"
        for want in browser.wants.values():
            if life is not None and want.stale:
                yield f"{life} in {want.room} is told that it is stale"
            if life is not None and (want.stay is None or want.stay.entered_ms is None):
                yield f"{life} is not in {want.room}, though it asked"
    for node in scene.nodes:
        yield from (f"{node.name}: {what}" for what in _waiting(node))


def _waiting(node: SimulatedNode) -> Iterator[str]:
    core = node.core
    if core.backend.is_isolated():
        yield "has no contact"
    if core.backend.is_stale(""):
        yield "rooms are stale"
    for view in core.rooms.views:
        feed = view.feed
        if view.stale or feed.loading or feed.behind or feed._waiting or view._provisional:
            yield (
                f"{view.room}: stale {view.stale}, loading {feed.loading}, behind {feed.behind}, "
                f"waiting {len(feed._waiting)}, provisional {view._provisional}"
            )
        for membership in view.local_members():
            if membership.deferred is not None:
                yield f"{view.room}: {membership.cid[:6]} waits for its join"


def one_connection(scene: Scene) -> Broken:
    """A cid has one live connection, and its client has the other end of it."""
    open_cids = Counter(browser.cid for browser in scene.browsers if browser.life is not None)
    served = Counter(end.session.cid for node in scene.nodes for end in node.ends if end.session is not None)
    if open_cids != served:
        yield f"only clients have {dict(open_cids - served)}, only nodes have {dict(served - open_cids)}"
    twice = {cid: times for cid, times in (open_cids + Counter()).items() if times > 1}
    if twice:
        yield f"clients have more than one live connection of {twice}"


# --- at any moment ---


def bounded(scene: Scene) -> Broken:
    """What is kept of who has left is bounded: in a room for two TTLs, by a node without contact of its own members."""
    for room, state in scene.world.store.rooms().items():
        ends = [fence.until_ms for fence in state._fences.values()]
        if ends and max(ends) - min(ends) > FENCE_MS + STEP_BACK_MS:
            yield f"{room} has a fence from {max(ends) - min(ends)} ms before its last one"
    for node in scene.nodes:
        store = node.core.backend.store if node.ready else None
        if isinstance(store, ClusterStore) and len(store._departed) > len(store._maybe_shared):
            yield f"{node.name} keeps {len(store._departed)} departures of {len(store._maybe_shared)} members"


# --- once everybody has left ---


def nothing_left(scene: Scene) -> Broken:
    """Every map is empty, and every key of the store has a TTL."""
    lives = scene.chronicle.lives
    names = frozenset({*ROOMS, *(life.cid for life in lives), *(life.user for life in lives)} - {""})
    for node in scene.nodes:
        left = leftovers(node.core, names)
        if left:
            yield f"{node.name} still knows somebody: {left}"
    lasting = [key for key, ttl_ms in scene.world.store.keys().items() if ttl_ms is None]
    if lasting:
        yield f"the store has keys for ever: {lasting}"


ALWAYS: Final[tuple[Callable[[Run], Broken], ...]] = (
    fold,
    once_in_a_diff,
    no_false_leave,
    leaves_heard,
    leaves_heard_on_return,
    stays_gone,
    one_join_one_leave,
    versions_rise,
    join_before_message,
    delivered,
    users_told,
    never_twice,
    answers_true,
    replaced_by_another,
    stays_out,
)
MOMENTS: Final[tuple[Callable[[Scene], Broken], ...]] = (bounded,)
QUIET: Final[tuple[Callable[[Scene], Broken], ...]] = (
    rosters_exact,
    api_exact,
    updates_kept,
    nothing_waits,
    one_connection,
)
EMPTY: Final[tuple[Callable[[Scene], Broken], ...]] = (nothing_left,)


def promise(invariant: object) -> str:
    """Return an invariant's sentence."""
    return " ".join((invariant.__doc__ or "").split("\n\n")[0].split())
