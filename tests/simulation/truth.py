"""What must have been so: who was in which room, and which node had contact, by what the world did.

All of it is on the side of doubt: where it is not certain that somebody was there, a leave is excused.
"""

from collections.abc import Iterator
from typing import Final

from presence_server.protocol.codes import CLOSE_CODES, Ending
from tests.simulation.chronicle import NEVER, Chronicle, Fault, GivenCommand, Life, Span, Stay
from tests.simulation.plan import PRESENCE, QUIET_MS

SETTLE_MS: Final = 5_000
"""So long after a fault a node may still be without contact: it notices, backs off, subscribes, proves.

Mostly it takes a second. What a node loses in the rest of this time, after it has told its clients that nothing is
stale any more, is seen by nobody.
"""
RETURN_MS: Final = 2_500
"""So long after a fault a node may still be entering its members again."""
PATIENCE_MS: Final = PRESENCE.heartbeat_ms * 3 // 2
"""A node that was without contact for longer asks to hold."""
HOLD_MS: Final = 2 * PRESENCE.heartbeat_ms
SLACK_MS: Final = 500
"""What travels, and what is swept only now and then."""
DELIVERY_MS: Final = 2_000
"""So long a message may take to every watcher; far more than it does."""
COMMAND_MS: Final = 1_500
"""So long a command may take to every node that has contact."""
LEASE_MS: Final = PRESENCE.ttl_ms - PRESENCE.heartbeat_ms - SLACK_MS
"""A lease has so much left at least when its node loses contact."""
CUTTING: Final = frozenset(
    (
        *(
            "cut",
            "half-open",
            "lost answers",
            "frozen",
            "killed",
            "store frozen",
            "store down",
            "store refuses",
        ),
        "lossy pub/sub",
    )
)
"""Faults that end contact; a node whose own proof is lost on pub/sub has none."""
MUFFLING: Final = frozenset(("lossy rooms",))
"""Faults with which a node may miss what others send, though it has contact."""
ISOLATING: Final = frozenset(("cut", "half-open", "store frozen", "store down"))
"""Faults with which a node has no contact from when it has noticed to their end."""
NOTICED_MS: Final = PRESENCE.heartbeat_ms * 3 // 2 + SLACK_MS
"""So long after such a fault a node knows that it has no contact."""
STOPPING: Final = frozenset(("frozen", "killed"))
"""Faults with which a node does nothing."""
SLOW_MS: Final = 2_000
"""So much longer everything may take that goes by a slow link, which loses nothing: up to 300 ms one way."""
FORGETTING: Final = frozenset(("store restarted", "store promoted", "store flushed"))
"""Faults with which the store loses what it was told."""
MENDED_MS: Final = QUIET_MS + SETTLE_MS
"""So long after a fault it may be told yet what it has broken."""


class Truth:
    """Answers about a run that is over."""

    def __init__(self, chronicle: Chronicle) -> None:
        self.chronicle = chronicle
        self._lives: dict[str, list[Life]] = {}
        for life in chronicle.lives:
            for cid in {life.cid, life.claimed} - {""}:
                self._lives.setdefault(cid, []).append(life)
        self._stays: dict[tuple[str, str], list[Stay]] = {}
        for stay in chronicle.stays:
            self._stays.setdefault((stay.life.cid, stay.room), []).append(stay)
        self._absences: dict[tuple[str, str, int | None], list[Span]] = {}
        self._alone: dict[int, list[Span]] = {}
        self._forgot_ms = [f.begin_ms for f in chronicle.faults if f.kind in FORGETTING]
        self._forward_ms = [
            (f.begin_ms, f.detail) for f in chronicle.faults if f.kind == "clock" and f.detail > 0
        ]

    def lives(self, cid: str) -> list[Life]:
        """Return the connections that had or asked for a cid."""
        return self._lives.get(cid, [])

    def stays(self, cid: str, room: str) -> list[Stay]:
        """Return a cid's times in a room, in the order in which they were asked for."""
        return self._stays.get((cid, room), [])

    # --- contact ---

    def has_contact(self, node: int, begin_ms: int, end_ms: int) -> bool:
        """Tell whether a node certainly reached the store and heard itself, all the time."""
        return not any(self._cuts(node, begin_ms - SETTLE_MS, end_ms))

    def hears(self, node: int, begin_ms: int, end_ms: int) -> bool:
        """Tell whether a node certainly heard all that was sent."""
        return self.has_contact(node, begin_ms, end_ms) and not any(
            fault.kind in MUFFLING for fault in self._faults(node, begin_ms - SETTLE_MS, end_ms)
        )

    def is_isolated(self, node: int, begin_ms: int, end_ms: int) -> bool:
        """Tell whether a node certainly had no contact, and had noticed that, all the time."""
        return any(
            fault.kind in ISOLATING and fault.begin_ms + NOTICED_MS <= begin_ms and end_ms <= fault.end_ms
            for fault in self._faults(node, begin_ms, end_ms)
        ) and not any(fault.kind in STOPPING for fault in self._faults(node, begin_ms, end_ms))

    def late_ms(self, node: int, begin_ms: int, end_ms: int) -> int:
        """Return how much longer than by other links something may take that goes by a node's in some time."""
        slow = any(fault.kind == "slow" for fault in self._faults(node, begin_ms - SETTLE_MS, end_ms))
        return SLOW_MS if slow else 0

    def forgot(self, begin_ms: int, end_ms: int) -> bool:
        """Tell whether the store lost in some time what it was told."""
        return any(begin_ms <= forgot_ms <= end_ms for forgot_ms in self._forgot_ms)

    def may_lack(self, begin_ms: int, end_ms: int) -> bool:
        """Tell whether the store may have lacked something: it lost data, or its clock jumped."""
        return any(
            fault.kind in {*FORGETTING, "clock"} and begin_ms - SETTLE_MS <= fault.begin_ms <= end_ms
            for fault in self.chronicle.faults
        )

    def back_ms(self, node: int, at_ms: int) -> int | None:
        """Return when what kept a node from the store was over; None: nothing certainly did at that time."""
        for cut in self._merged(node):
            if cut.begin_ms <= at_ms <= cut.end_ms:
                return cut.end_ms
        return None

    def cut_alone(self, node: int) -> list[Span]:
        """Return when a node may have been taken for dead: it was without contact for so long, another was not."""
        if node not in self._alone:
            self._alone[node] = list(self._find_alone(node))
        return self._alone[node]

    def _find_alone(self, node: int) -> Iterator[Span]:
        for cut in self._merged(node):
            dead_ms, back_ms = cut.begin_ms + LEASE_MS, cut.end_ms + RETURN_MS
            if dead_ms > back_ms:
                continue
            others = {n for fault in self.chronicle.faults for n in fault.nodes} | {0, 1, 2}
            judged = [self._may_judge_ms(other, dead_ms, back_ms) for other in sorted(others - {node})]
            if min(judged) < NEVER:
                yield Span(min(judged), cut.end_ms + SETTLE_MS + HOLD_MS)

    def _may_judge_ms(self, node: int, begin_ms: int, end_ms: int) -> int:
        """Return from when on, in some time, a node has had contact and asks no more to hold; NEVER: it has not.

        A node that begins asks for that, too, where all others have been silent.
        """
        free_ms = held_ms = 0
        for cut in [*self._merged(node), Span(NEVER, NEVER)]:
            # Free from `free_ms` to `cut.begin_ms`.
            judges_ms = max(free_ms + held_ms, begin_ms)
            if judges_ms <= min(cut.begin_ms, end_ms):
                return judges_ms
            free_ms = cut.end_ms
            away = self._cuts(node, cut.begin_ms, cut.end_ms)
            held_ms = HOLD_MS if any(f.end_ms - f.begin_ms > PATIENCE_MS for f in away) else 0
        return NEVER

    def _merged(self, node: int) -> list[Span]:
        """Return when a node was cut off, spans that nearly touch as one."""
        spans: list[Span] = []
        for fault in sorted(self._cuts(node, 0, NEVER), key=lambda fault: fault.begin_ms):
            if spans and fault.begin_ms <= spans[-1].end_ms + SETTLE_MS:
                spans[-1] = Span(spans[-1].begin_ms, max(spans[-1].end_ms, fault.end_ms))
            else:
                spans.append(Span(fault.begin_ms, fault.end_ms))
        return spans

    def _cuts(self, node: int, begin_ms: int, end_ms: int) -> Iterator[Fault]:
        return (fault for fault in self._faults(node, begin_ms, end_ms) if fault.kind in CUTTING)

    def _faults(self, node: int, begin_ms: int, end_ms: int) -> Iterator[Fault]:
        for fault in self.chronicle.faults:
            if node in fault.nodes and fault.begin_ms <= end_ms and begin_ms <= fault.end_ms:
                yield fault

    # --- time ---

    def after_ms(self, begin_ms: int, lasts_ms: int) -> int:
        """Return when a time is over at the earliest that begins at some moment and goes by the store's clock."""
        end_ms = begin_ms + lasts_ms
        put_forward_ms: int = sum(by_ms for at_ms, by_ms in self._forward_ms if begin_ms <= at_ms <= end_ms)
        return max(end_ms - put_forward_ms, begin_ms)

    # --- presence ---

    def superseded_ms(self, life: Life) -> int:
        """Return when another connection first asked for this one's cid, after it did."""
        later = [other.asked_ms for other in self.lives(life.cid) if other.number > life.number]
        return min(later, default=NEVER)

    def absences(self, cid: str, room: str, node: int | None = None) -> list[Span]:
        """Return every time at which a member may have been taken for gone; by `node`, it may not know of others."""
        key = (cid, room, node)
        if key not in self._absences:
            spans = list(self._find_absences(cid, room))
            if node is not None:
                spans += self._seen_from(node, cid, room)
            self._absences[key] = spans
        return self._absences[key]

    def _seen_from(self, node: int, cid: str, room: str) -> Iterator[Span]:
        """Yield when a node without contact, which lost a connection, may have taken its member for gone."""
        for stay in self.stays(cid, room):
            if stay.life.node == node and stay.joining:
                yield Span(self._end_of(stay)[1], NEVER)

    def _find_absences(self, cid: str, room: str) -> Iterator[Span]:
        stays = [stay for stay in self.stays(cid, room) if stay.joining]
        entered = [(stay, stay.entered_ms) for stay in stays if stay.entered_ms is not None]
        if not entered:
            yield Span(0, NEVER)
        for stay in stays:
            if stay.entered_ms is None:  # nobody knows whether the store had it
                yield Span(stay.asked_ms, min((at for _, at in entered if at > stay.asked_ms), default=NEVER))
        for stay, entered_ms in entered:
            yield from self._absent_after(stay, entered_ms, entered)
        for command in self.chronicle.commands:
            if self.is_about(command, cid, room):
                back = [at for stay, at in entered if stay.asked_ms > command.asked_ms]
                yield Span(command.asked_ms, min(back, default=NEVER))

    def _absent_after(self, stay: Stay, entered_ms: int, entered: list[tuple[Stay, int]]) -> Iterator[Span]:
        """Yield when a member may have been taken for gone because of how a stay went."""
        end_ms, may_go_ms = self._end_of(stay)
        back = [self._known_ms(other, at) for other, at in entered if other.asked_ms > end_ms]
        if end_ms >= self.superseded_ms(stay.life):
            back = [
                self._known_ms(other, at)
                for other, at in entered
                if other.life is not stay.life and at >= entered_ms
            ]
        back_ms = min(back, default=NEVER)
        if may_go_ms <= back_ms:
            yield Span(may_go_ms, back_ms)
        if self._was_last(stay):
            yield Span(
                stay.until_ms, min((at for o, at in entered if o.asked_ms > stay.until_ms), default=NEVER)
            )
        # A node that is cut off cannot say that a member lingers: its lease goes on, or is over.
        last_ms = min(self._own_end_of(stay)[1], back_ms)
        yield from (alone for alone in self.cut_alone(stay.life.node) if alone.meets(stay.asked_ms, last_ms))

    def _was_last(self, stay: Stay) -> bool:
        """Tell whether a connection left a room when each other one with its cid was over: it had won."""
        end_ms = stay.until_ms
        others = [o for o in self.lives(stay.life.cid) if o is not stay.life and o.asked_ms <= end_ms]
        return stay.how in {"left", "removed"} and all(other.over_ms <= end_ms for other in others)

    def _known_ms(self, stay: Stay, entered_ms: int) -> int:
        """Return when others may know of a stay at the latest: its node has told the store."""
        for cut in self._merged(stay.life.node):
            if cut.begin_ms <= entered_ms <= cut.end_ms + SETTLE_MS:
                return cut.end_ms + SETTLE_MS
        return entered_ms

    def is_about(self, command: GivenCommand, cid: str, room: str) -> bool:
        """Tell whether a command takes a connection out of a room."""
        if command.cid:
            return command.cid == cid and command.room in {"", room}
        return any(life.user == command.user for life in self.lives(cid))

    def _end_of(self, stay: Stay) -> tuple[int, int]:
        """Return when a stay ended, and when its member may have been taken for gone at the earliest."""
        end_ms, may_go_ms = self._own_end_of(stay)
        superseded_ms = self.superseded_ms(stay.life)
        if superseded_ms < end_ms:  # which of two with one token has won is not known
            grace_ms = PRESENCE.grace_lost_ms - SLACK_MS
            return superseded_ms, min(self.after_ms(superseded_ms, grace_ms), may_go_ms)
        return end_ms, may_go_ms

    def _own_end_of(self, stay: Stay) -> tuple[int, int]:
        """Return when a stay ended, and when its member may have gone at the earliest, if nobody else has its cid."""
        end_ms = stay.until_ms
        if end_ms == NEVER or stay.how in {"left", "removed", "refused"}:
            return end_ms, end_ms
        code = stay.life.code
        how = Ending.LOST if code is None or code not in CLOSE_CODES else CLOSE_CODES[code].ending
        grace_ms = {
            Ending.KICKED: 0,
            Ending.CLOSED: 0,
            Ending.CLEAN: PRESENCE.grace_clean_ms - SLACK_MS,
        }.get(how, PRESENCE.grace_lost_ms - SLACK_MS)
        return end_ms, self.after_ms(end_ms, grace_ms)

    def known_since_ms(self, node: int, at_ms: int) -> int:
        """Return from when on what a node tells at `at_ms` was true at some moment: earlier while it has no contact."""
        since_ms = at_ms
        while since_ms > 0 and not (
            self.hears(node, since_ms - HOLD_MS, since_ms)
            and self.late_ms(node, since_ms - HOLD_MS, since_ms) == 0
        ):
            since_ms -= 1_000
        return max(since_ms - SLACK_MS, 0)


def firm(spans: list[Span], begin_ms: int, end_ms: int) -> bool:
    """Tell whether none of the spans has a moment in common with a time."""
    return not any(span.meets(begin_ms, end_ms) for span in spans)
