"""Carries out a plan on a world, its clients and backends, and checks what is seen against what is promised."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from presence_server.bus.redis import LATE_S
from presence_server.protocol.messages import Mode
from tests.simulation import backends, disasters
from tests.simulation import plan as steps
from tests.simulation.backends import Backends
from tests.simulation.chronicle import Chronicle
from tests.simulation.clients import Browser, Net
from tests.simulation.disasters import Disasters
from tests.simulation.evidence import Ears, Run, Scene
from tests.simulation.invariants import ALWAYS, EMPTY, MOMENTS, QUIET
from tests.simulation.plan import PRESENCE, QUIET_MS, USERS, Plan, describe
from tests.simulation.world import World

READY_MS: Final = 2_000
"""Nodes start and find the store before clients come."""
RESEEDED_MS: Final = 250
LOOK_MS: Final = 1_000
"""The time between two moments that are held to what is promised of each."""
COMING_BACK_MS: Final = 4_000
"""After this all clients that wait to reconnect have done so."""
EMPTY_MS: Final = 2 * PRESENCE.ttl_ms + PRESENCE.resume_ms + 6_000
"""After this nothing may be remembered of anybody: fences, resume tokens, views."""


class Stage:
    """A world, its clients, and the steps of a plan that clients do."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.chronicle = chronicle = Chronicle()
        self.ears = Ears(chronicle)
        self.net = Net(world, chronicle, self.ears, list(world.nodes))
        self.browsers = [Browser(self.net, f"c{i:02}", f"u{i % USERS:02}") for i in range(plan.clients)]
        self.twins: list[Browser] = []
        self.backends = Backends(self.net, self.browsers)
        self.disasters = Disasters(self.net, lambda: [*self.browsers, *self.twins])
        self._begin_ms = 0

    def trace(self) -> list[str]:
        """Return what happened, in order of time: what was done here, and what the world says."""
        return sorted([*self.chronicle.lines, *self.world.trace], key=lambda line: int(line.split()[0]))

    def play(self, *, until_empty: bool) -> None:
        """Play the whole plan, and check every promise."""
        self.world.run_for(READY_MS)
        self.begin()
        self._reseed()
        self._look()
        self.world.run_for(self.plan.ends_ms + 1)
        self.disasters.end_all()
        self.world.run_for(QUIET_MS + COMING_BACK_MS)
        scene = self.scene(self.backends.ask_all())
        self.check(scene, QUIET)
        if until_empty:
            self.leave_all()
            self.world.run_for(EMPTY_MS)
            if any(getattr(node.core.backend.bus, "_late", None) for node in self.world.alive):
                self.world.run_for(LATE_S * 1_000)
            self.check(scene, EMPTY)
        self.judge()

    def begin(self) -> None:
        """Have every step done in its time."""
        self._ends_ms = self.world.now_ms + self.plan.ends_ms
        for step in self.plan.steps:
            self.world.at(step.at_ms, partial(self._do, step))

    def scene(self, api: dict[tuple[str, str], Any]) -> Scene:
        """Return this moment, with what each node answered to backends."""
        return Scene(self.world, [*self.browsers, *self.twins], self.chronicle, api)

    def judge(self) -> None:
        """Hold the run, which is over, to what is always promised."""
        run = Run(self.chronicle, self.ears)
        for invariant in ALWAYS:
            for what in invariant(run):
                self.chronicle.broken.append((invariant.__name__, what))

    def check(self, scene: Scene, invariants: tuple[Callable[[Scene], Iterator[str]], ...]) -> None:
        """Hold a moment to what is promised of it."""
        for invariant in invariants:
            for what in invariant(scene):
                self.chronicle.breaks(invariant.__name__, self.world.now_ms, what)

    def leave_all(self) -> None:
        """Have everybody leave or close."""
        for i, browser in enumerate([*self.browsers, *self.twins]):
            for room in list(browser.wants) if i % 2 else ():
                browser.leave(room)
            browser.leave_page(0, None)

    # --- what is done ---

    def _reseed(self) -> None:
        """Draw anew, four times a second: a plan without some of its steps goes on as the whole one did."""
        self.world.random.seed(f"{self.plan.seed} {self.world.now_ms}")
        if self.world.now_ms < self._ends_ms:
            self.world.at(RESEEDED_MS, self._reseed)

    def _look(self) -> None:
        """Hold this moment to what is promised of each, until something breaks that."""
        self.check(self.scene({}), MOMENTS)
        broken = {name for name, _ in self.chronicle.broken}
        if broken.isdisjoint(moment.__name__ for moment in MOMENTS):
            self.world.at(LOOK_MS, self._look)

    def _do(self, step: Any) -> None:
        self.world.random.seed(f"{self.plan.seed} {describe(step)}")
        self.chronicle.note(self.world.now_ms, describe(step))
        kind = type(step)
        if kind in backends.DOES:
            backends.DOES[kind](self.backends, step)
        elif kind in disasters.DOES:
            disasters.DOES[kind](self.disasters, step)
        else:
            DOES[kind](self, step)

    # --- what clients do ---

    def start(self, step: steps.Start) -> None:
        self.browsers[step.who].start(step.node)

    def join(self, step: steps.Join) -> None:
        self._enter(step.who, step.room, step.mode, joining=True)

    def watch(self, step: steps.Watch) -> None:
        self._enter(step.who, step.room, step.mode, joining=False)

    def _enter(self, who: int, room: str, mode: Mode, *, joining: bool) -> None:
        if not self.browsers[who].is_dozing:
            self.browsers[who].enter(room, mode, joining=joining)

    def leave(self, step: steps.Leave) -> None:
        if not self.browsers[step.who].is_dozing:
            self.browsers[step.who].leave(step.room)

    def update(self, step: steps.Update) -> None:
        self.browsers[step.who].update(step.room, step.guess)

    def publish(self, step: steps.Publish) -> None:
        self.browsers[step.who].publish(step.room)

    def signal(self, step: steps.Signal) -> None:
        self.browsers[step.who].signal(step.room)

    def page(self, step: steps.Page) -> None:
        self.browsers[step.who].page(step.room)

    def drop(self, step: steps.Drop) -> None:
        self.browsers[step.who].drop(step.node, step.unnoticed_ms, step.away_ms)

    def close(self, step: steps.Close) -> None:
        self.browsers[step.who].leave_page(step.node, step.back_ms)

    def duplicate(self, step: steps.Twins) -> None:
        twin = self.browsers[step.who].duplicate(step.node, step.other, step.gap_ms)
        if twin is not None:
            self.twins.append(twin)

    def doze(self, step: steps.Doze) -> None:
        self.browsers[step.who].doze(step.for_ms)


DOES: Final[dict[type, Callable[[Stage, Any], None]]] = {
    steps.Start: Stage.start,
    steps.Join: Stage.join,
    steps.Watch: Stage.watch,
    steps.Leave: Stage.leave,
    steps.Update: Stage.update,
    steps.Publish: Stage.publish,
    steps.Signal: Stage.signal,
    steps.Page: Stage.page,
    steps.Drop: Stage.drop,
    steps.Close: Stage.close,
    steps.Twins: Stage.duplicate,
    steps.Doze: Stage.doze,
}
