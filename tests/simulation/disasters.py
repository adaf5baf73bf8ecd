"""The faults of a run, and when they end."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tests.simulation import plan as steps
from tests.simulation.chronicle import NEVER, Fault
from tests.simulation.clients import Browser, Net
from tests.simulation.store import STORE

HALF_OPEN_MS: Final = 4_000
"""How long it takes to notice that a connection is dead."""
UNANSWERED_MS: Final = 2_000
"""How long it takes to notice that an answer does not come."""
OF_A_PROCESS: Final = frozenset(("cut", "half-open", "lost answers", "frozen", "slow", "lossy pub/sub"))
"""Faults that end with the process that has them."""


class Disasters:
    """Breaks what a plan says, and writes down in the chronicle what is broken, and until when.

    `browsers()` returns the clients that there are, some of which give up a node that is frozen.
    """

    def __init__(self, net: Net, browsers: Callable[[], list[Browser]]) -> None:
        self.net = net
        self.world = net.world
        self.chronicle = net.chronicle
        self._browsers = browsers
        self._frozen_until_ms: dict[int | str, int] = {}

    def end_all(self) -> None:
        """End what a fault may have left behind that has no end of its own."""
        for fault in self.chronicle.faults:
            fault.end_ms = min(fault.end_ms, self.world.now_ms)
        for node in self.net.slots:
            node.link.lose_answers(0)

    def _fault(self, kind: str, for_ms: int, *slots: int) -> Fault:
        """Write down that something is broken; no slots: every node is concerned."""
        now_ms = self.world.now_ms
        fault = Fault(kind, slots or tuple(range(len(self.net.slots))), now_ms, now_ms + for_ms)
        self.chronicle.faults.append(fault)
        return fault

    def cut(self, step: steps.Cut) -> None:
        self._fault("cut", step.for_ms, step.node)
        link = self.net.slot(step.node).link
        (link.cut if step.how == "refused" else link.stall)(step.for_ms)

    def cut_all(self, step: steps.CutAll) -> None:
        self._fault("cut", step.for_ms)
        for node in self.net.slots:
            (node.link.cut if step.how == "refused" else node.link.stall)(step.for_ms)

    def cut_pubsub(self, step: steps.CutPubsub) -> None:
        self._fault("cut", step.for_ms, step.node)
        link = self.net.slot(step.node).link
        (link.cut if step.how == "refused" else link.stall)(step.for_ms, "pubsub")

    def half_open(self, step: steps.HalfOpen) -> None:
        self._fault("half-open", HALF_OPEN_MS, step.node)
        self.net.slot(step.node).link.half_open(*(() if step.side == "both" else (step.side,)))

    def lossy_pubsub(self, step: steps.LossyPubsub) -> None:
        self._fault("lossy rooms" if step.rooms_only else "lossy pub/sub", step.for_ms, step.node)
        self.net.slot(step.node).link.lose_messages(step.lost, step.for_ms, rooms_only=step.rooms_only)

    def slow(self, step: steps.Slow) -> None:
        self._fault("slow", step.for_ms, step.node)
        self.net.slot(step.node).link.slow(step.for_ms, step.delay_ms / 2, step.delay_ms)

    def lose_answers(self, step: steps.LoseAnswers) -> None:
        fault = self._fault("lost answers", NEVER, step.node)

        def end() -> None:  # a node that has no contact meanwhile loses them when it has
            fault.end_ms = min(fault.end_ms, self.world.now_ms + UNANSWERED_MS)

        self.net.slot(step.node).link.lose_answers(step.number, silently=step.silently, over=end)

    def freeze_node(self, step: steps.FreezeNode) -> None:
        self._fault("frozen", step.for_ms, step.node)
        node = self.net.slot(step.node)
        node.freeze()
        self._thaw_after(step.for_ms, [step.node])
        if step.patience_ms and step.patience_ms < step.for_ms:
            self.world.at(step.patience_ms, partial(self._flee, step.node, step.for_ms - step.patience_ms))

    def _flee(self, slot: int, unnoticed_ms: int) -> None:
        """The clients of a frozen node give it up."""
        for browser in self._browsers():
            if browser.line is not None and browser.line.life.node == slot:
                browser.drop(slot + 1, unnoticed_ms, 0)

    def freeze_all(self, step: steps.FreezeAll) -> None:
        self._fault("frozen", step.for_ms)
        self.world.freeze_all(store=step.store)
        self._thaw_after(step.for_ms, [*range(len(self.net.slots)), *([STORE] if step.store else [])])

    def _thaw_after(self, ms: int, frozen: Sequence[int | str]) -> None:
        """Let nodes, by slot, or the store go on, in a drawn order; what was frozen for longer meanwhile, later."""
        until_ms = self.world.now_ms + ms
        for what in frozen:
            self._frozen_until_ms[what] = max(until_ms, self._frozen_until_ms.get(what, 0))

        def thaw() -> None:
            due = [what for what in frozen if self._frozen_until_ms[what] <= until_ms]
            self.world.random.shuffle(due)
            for what in due:
                (self.world.store if isinstance(what, str) else self.net.slot(what)).thaw()

        self.world.at(ms, thaw)

    def kill_node(self, step: steps.KillNode) -> None:
        self._fault("killed", step.for_ms, step.node)
        slot = step.node % len(self.net.slots)
        node = self.net.slots[slot]
        if node.alive:
            node.kill()
            self.world.at(step.for_ms, partial(self._restart, slot))

    def _restart(self, slot: int) -> None:
        self._end_faults_of(slot)
        self.net.slots[slot] = self.world.start_node()

    def _end_faults_of(self, slot: int) -> None:
        """Write down that the faults of a node's process are over: the next process has its own."""
        now_ms = self.world.now_ms
        for fault in list(self.chronicle.faults):
            if slot in fault.nodes and fault.kind in OF_A_PROCESS and fault.end_ms > now_ms:
                fault.nodes = tuple(other for other in fault.nodes if other != slot)
                self.chronicle.faults.append(replace(fault, nodes=(slot,), end_ms=now_ms))

    def freeze_store(self, step: steps.FreezeStore) -> None:
        self._fault("store frozen", step.for_ms)
        self.world.store.freeze()
        self._thaw_after(step.for_ms, [STORE])

    def restart_store(self, step: steps.RestartStore) -> None:
        self._end_refusals()
        self._fault("store down", step.for_ms)
        self._fault("store restarted", 0)
        if step.older_ms is None:
            self.world.store.restart_empty(step.for_ms)
        else:
            self.world.store.restore(step.older_ms, step.for_ms)

    def _end_refusals(self) -> None:
        """Write down that another process of the store, or another server, refuses nothing."""
        for fault in self.chronicle.faults:
            if fault.kind == "store refuses":
                fault.end_ms = min(fault.end_ms, self.world.now_ms)

    def promote(self, step: steps.Promote) -> None:
        self._end_refusals()
        self._fault("store down", step.for_ms)
        self._fault("store promoted", 0)
        self.world.store.promote_replica(step.lost, step.for_ms)

    def flush_all(self, _: steps.FlushAll) -> None:
        self._fault("store flushed", 0)
        self.world.store.flush_all()

    def script_flush(self, _: steps.ScriptFlush) -> None:
        self.world.store.script_flush()

    def refuse(self, step: steps.Refuse) -> None:
        self._fault("store refuses", step.for_ms)
        self.world.store.refuse(step.why, step.for_ms)

    def step_clock(self, step: steps.StepClock) -> None:
        self._fault("clock", 0).detail = step.by_ms
        self.world.store.step_clock(step.by_ms)


DOES: Final[dict[type, Callable[[Disasters, Any], None]]] = {
    steps.Cut: Disasters.cut,
    steps.CutAll: Disasters.cut_all,
    steps.CutPubsub: Disasters.cut_pubsub,
    steps.HalfOpen: Disasters.half_open,
    steps.LossyPubsub: Disasters.lossy_pubsub,
    steps.Slow: Disasters.slow,
    steps.LoseAnswers: Disasters.lose_answers,
    steps.FreezeNode: Disasters.freeze_node,
    steps.FreezeAll: Disasters.freeze_all,
    steps.KillNode: Disasters.kill_node,
    steps.FreezeStore: Disasters.freeze_store,
    steps.RestartStore: Disasters.restart_store,
    steps.Promote: Disasters.promote,
    steps.FlushAll: Disasters.flush_all,
    steps.ScriptFlush: Disasters.script_flush,
    steps.Refuse: Disasters.refuse,
    steps.StepClock: Disasters.step_clock,
}
