"""Plays a plan in a world of its own, and says what it broke."""

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from msgspec import UNSET

from presence_server import faults
from presence_server.api import schema
from presence_server.api.calls import Calls
from presence_server.api.problems import ProblemError
from presence_server.api.routes import Asked
from presence_server.bus.redis import LATE_S
from presence_server.config.settings import LimitsSettings
from presence_server.errors import StoreAwayError
from presence_server.protocol.messages import Mode
from tests.simulation import plan as steps
from tests.simulation.chronicle import Answer, Chronicle, Fault, Order, Publication
from tests.simulation.clients import Browser, Net
from tests.simulation.invariants import ALWAYS, EMPTY, MOMENTS, QUIET, Ears, Run, Scene
from tests.simulation.nodes import SimulatedNode
from tests.simulation.plan import PRESENCE, QUIET_MS, ROOMS, USERS, Plan, describe
from tests.simulation.store import STORE
from tests.simulation.world import World

READY_MS: Final = 2_000
"""Nodes start and find the store before clients come."""
TRACEBACKS_MAX: Final = 3
RESEEDED_MS: Final = 250
LOOK_MS: Final = 1_000
"""A moment so often is held to what is promised of each."""
HALF_OPEN_MS: Final = 4_000
"""So long it takes to notice that a connection is dead."""
OF_A_PROCESS: Final = frozenset(("cut", "half-open", "lost answers", "frozen", "slow", "lossy pub/sub"))
"""Faults that end with the process that they befell."""
ASKING_MS: Final = 3_000
"""The longest that the questions of the quiet moment take."""
EMPTY_MS: Final = 2 * PRESENCE.ttl_ms + PRESENCE.resume_ms + 6_000
"""After this nothing may be remembered of anybody: fences, resume tokens, views."""


@dataclass
class Outcome:
    """What a run came to."""

    plan: Plan
    broken: list[tuple[str, str]]
    """The invariant, and what was seen."""
    trace: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Return the invariants that broke, each once."""
        return list(dict.fromkeys(name for name, _ in self.broken))


def play(plan: Plan, *, until_empty: bool = True) -> Outcome:
    """Play a plan to its end; what it breaks is in the outcome, exceptions of the product included.

    `until_empty`: also until nothing may be remembered of anybody, which is most of the time.
    """
    contained = _Contained()
    limits = None
    if plan.patience is not None:
        patience = plan.patience
        limits = LimitsSettings(
            outbox_soft_bytes=patience.soft_bytes,
            outbox_hard_bytes=patience.hard_bytes,
            outbox_hard_ms=patience.hard_ms,
        )
    world = World(plan.seed, nodes=plan.nodes, presence=PRESENCE, limits=limits)
    with world, contained.watched():
        stage = Stage(world, plan)
        try:
            stage.play(until_empty=until_empty)
        except Exception as failure:  # noqa: BLE001 - whatever it was, it is a finding of this seed
            stage.chronicle.breaks("no_exception", world.now_ms, _told(failure))
        for node in world.alive:
            if node._running.done():
                stage.chronicle.broken.append(
                    ("no_exception", f"{node.name}: {_told(node._running.exception())}")
                )
        stage.chronicle.broken += [("no_exception", fault) for fault in contained.faults()]
        for where, exc in world.faults:
            stage.chronicle.broken.append(("no_exception", f"{where}: {_told(exc)}"))
        return Outcome(plan, stage.chronicle.broken, stage.trace())


class _Contained(logging.Handler):
    """Faults that a boundary of the product has contained: it goes on, and yet something is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._before = Counter(faults.counts)
        self._tracebacks: list[str] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep what is logged, and let nobody else see it."""
        log, propagated = logging.getLogger(faults.__name__), logging.getLogger(faults.__name__).propagate
        log.addHandler(self)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(self)
            log.propagate = propagated

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first few tracebacks."""
        if record.exc_info is not None and len(self._tracebacks) < TRACEBACKS_MAX:
            self._tracebacks.append(_told(record.exc_info[1]))

    def faults(self) -> list[str]:
        """Return how many there were at each boundary, and what is known of them."""
        new = Counter(faults.counts) - self._before
        return [f"contained at {name}: {times} times; {self._tracebacks}" for name, times in new.items()]


def _told(exc: BaseException | None) -> str:
    """Return an exception with where it came from."""
    return "".join(traceback.format_exception(exc)[-3:]) if exc is not None else "no exception"


class Stage:
    """A world, its clients, and what is done with them."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.chronicle = chronicle = Chronicle()
        self.ears = Ears(chronicle)
        self.net = Net(world, chronicle, self.ears, list(world.nodes))
        self.browsers = [Browser(self.net, f"c{i:02}", f"u{i % USERS:02}") for i in range(plan.clients)]
        self.twins: list[Browser] = []
        self._frozen_until_ms: dict[int | str, int] = {}
        self._begin_ms = 0

    def trace(self) -> list[str]:
        """Return what happened, in order of time: what was done here, and what the world says."""
        return sorted([*self.chronicle.lines, *self.world.trace], key=lambda line: int(line.split()[0]))

    def play(self, *, until_empty: bool) -> None:
        """Do it all."""
        self.world.run_for(READY_MS)
        self.begin()
        self._reseed()
        self._look()
        self.world.run_for(self.plan.ends_ms + 1)
        self.end_faults()
        self.world.run_for(QUIET_MS + COMING_BACK_MS)
        scene = self.scene(self._ask_all())
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
        self._begin_ms = self.world.now_ms
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

    def end_faults(self) -> None:
        """End what a fault may have left behind that has no end of its own."""
        for fault in self.chronicle.faults:
            fault.end_ms = min(fault.end_ms, self.world.now_ms)
        for node in self.net.slots:
            node.link.lose_answers(0)

    # --- what is done ---

    def _reseed(self) -> None:
        """Draw anew, four times a second: a plan without some of its steps goes on as the whole one did."""
        self.world.random.seed(f"{self.plan.seed} {self.world.now_ms}")
        if self.world.now_ms < self._begin_ms + self.plan.ends_ms:
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
        DOES[type(step)](self, step)

    def _node(self, slot: int) -> SimulatedNode:
        return self.net.slots[slot % len(self.net.slots)]

    def fault(self, kind: str, for_ms: int, *slots: int) -> Fault:
        """Write down that something is broken; no slots: every node is concerned."""
        now_ms = self.world.now_ms
        fault = Fault(kind, slots or tuple(range(len(self.net.slots))), now_ms, now_ms + for_ms)
        self.chronicle.faults.append(fault)
        return fault

    # clients

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

    # backends

    def remove(self, step: steps.Remove) -> None:
        browser = self.browsers[step.who]
        if browser.cid:
            path = {"room": step.room, "cid": browser.cid}
            ban_ms = UNSET if step.ban_ms is None else step.ban_ms
            order = self._order(
                "remove", step.node, cid=browser.cid, user=browser.user, room=step.room, ban_ms=step.ban_ms
            )
            self._ask(order, Calls.remove, Asked(path, schema.RemoveQuery(ban_ms), None, {}))

    def kick(self, step: steps.Kick) -> None:
        browser = self.browsers[step.who]
        if browser.cid:
            order = self._order("kick", step.node, cid=browser.cid)
            self._ask(order, Calls.close, Asked({"cid": browser.cid}, None, None, {}))

    def disconnect(self, step: steps.Disconnect) -> None:
        user = self.browsers[step.who].user
        body = schema.DisconnectRequest(UNSET if step.ban_ms is None else step.ban_ms)
        order = self._order("disconnect", step.node, user=user, ban_ms=step.ban_ms)
        self._ask(order, Calls.disconnect, Asked({"user": user}, None, body, {}))

    def say(self, step: steps.Say) -> None:
        node = step.node % len(self.net.slots)
        publication = Publication(self.chronicle.number(), None, node, step.room, self.world.now_ms)
        self.chronicle.publications[publication.number] = publication
        body = schema.MessageRequest({"n": publication.number})

        def said(status: int, _: Any) -> None:
            if status == 200:
                publication.ok_ms = self.world.now_ms

        self._call(node, Calls.publish, Asked({"room": step.room}, None, body, {}), said)

    def lease(self, step: steps.Lease) -> None:
        path = {"room": step.room, "cid": f"leased-{step.who}"}
        body = schema.EnterRequest("sensor", state={"n": 0}, ttl_ms=steps.LEASE_MS)
        self._call(step.node, Calls.enter, Asked(path, None, body, {}))

    def message(self, step: steps.Message) -> None:
        node, user = step.node % len(self.net.slots), self.browsers[step.who].user
        publication = Publication(self.chronicle.number(), None, node, "", self.world.now_ms, user)
        self.chronicle.publications[publication.number] = publication
        body = schema.MessageRequest({"n": publication.number})

        def sent(status: int, _: Any) -> None:
            if status == 200:
                publication.ok_ms = self.world.now_ms

        self._call(node, Calls.message, Asked({"user": user}, None, body, {}), sent)

    def read(self, step: steps.Read) -> None:
        room, user = {"room": step.room}, {"user": self.browsers[step.who].user}
        self._read(step.node, "room", step.room, Calls.room, Asked(room, None, None, {}))
        self._read(
            step.node, "members", step.room, Calls.members, Asked(room, schema.MembersQuery(), None, {})
        )
        self._read(step.node, "user", user["user"], Calls.user, Asked(user, None, None, {}))

    def _read(self, slot: int, kind: str, what: str, call: Any, asked: Asked) -> None:
        node, asked_ms = slot % len(self.net.slots), self.world.now_ms

        def answered(status: int, body: Any) -> None:
            if status == 200:
                answer = Answer(node, kind, what, asked_ms, self.world.now_ms, _plain(body))
                self.chronicle.answers.append(answer)

        self._call(node, call, asked, answered)

    def _order(
        self,
        kind: str,
        node: int,
        *,
        cid: str = "",
        user: str = "",
        room: str = "",
        ban_ms: int | None = None,
    ) -> Order:
        order = Order(kind, node, cid, user, room, self.world.now_ms, ban_ms)
        self.chronicle.orders.append(order)
        return order

    def _ask(self, order: Order, call: Any, asked: Asked) -> None:
        def answered(status: int, _: Any) -> None:
            order.answered_ms, order.status = self.world.now_ms, status
            self.chronicle.note(
                self.world.now_ms, f"{order.kind} {order.cid or order.user} answered {status}"
            )

        self._call(order.node, call, asked, answered)

    def _call(
        self,
        slot: int,
        call: Any,
        asked: Asked,
        answered: Callable[[int, Any], None] = lambda status, body: None,
    ) -> None:
        node = self._node(slot)
        if not (node.alive and node.ready):
            return

        async def run() -> None:
            try:
                reply = await call(Calls(node.core.parts), asked)
            except ProblemError as exc:
                answered(exc.status, None)
            except StoreAwayError:
                answered(503, None)
            else:
                answered(reply.status, reply.body)

        node.call(run)

    # disasters

    def cut(self, step: steps.Cut) -> None:
        self.fault("cut", step.for_ms, step.node)
        link = self._node(step.node).link
        (link.cut if step.how == "refused" else link.stall)(step.for_ms)

    def cut_all(self, step: steps.CutAll) -> None:
        self.fault("cut", step.for_ms)
        for node in self.net.slots:
            (node.link.cut if step.how == "refused" else node.link.stall)(step.for_ms)

    def cut_pubsub(self, step: steps.CutPubsub) -> None:
        self.fault("cut", step.for_ms, step.node)
        link = self._node(step.node).link
        (link.cut if step.how == "refused" else link.stall)(step.for_ms, "pubsub")

    def half_open(self, step: steps.HalfOpen) -> None:
        self.fault("half-open", HALF_OPEN_MS, step.node)
        self._node(step.node).link.half_open(*(() if step.side == "both" else (step.side,)))

    def lossy_pubsub(self, step: steps.LossyPubsub) -> None:
        self.fault("lossy rooms" if step.rooms_only else "lossy pub/sub", step.for_ms, step.node)
        self._node(step.node).link.lose_messages(step.lost, step.for_ms, rooms_only=step.rooms_only)

    def slow(self, step: steps.Slow) -> None:
        self.fault("slow", step.for_ms, step.node)
        self._node(step.node).link.slow(step.for_ms, step.delay_ms / 2, step.delay_ms)

    def lose_answers(self, step: steps.LoseAnswers) -> None:
        self.fault("lost answers", HALF_OPEN_MS, step.node)
        self._node(step.node).link.lose_answers(step.number, silently=step.silently)

    def freeze_node(self, step: steps.FreezeNode) -> None:
        self.fault("frozen", step.for_ms, step.node)
        node = self._node(step.node)
        node.freeze()
        self._thaw_after(step.for_ms, [step.node])
        if step.patience_ms and step.patience_ms < step.for_ms:
            self.world.at(step.patience_ms, partial(self._flee, step.node, step.for_ms - step.patience_ms))

    def _flee(self, slot: int, unnoticed_ms: int) -> None:
        """The clients of a frozen node give it up."""
        for browser in [*self.browsers, *self.twins]:
            if browser.line is not None and browser.line.life.node == slot:
                browser.drop(slot + 1, unnoticed_ms, 0)

    def freeze_all(self, step: steps.FreezeAll) -> None:
        self.fault("frozen", step.for_ms)
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
                (self.world.store if isinstance(what, str) else self._node(what)).thaw()

        self.world.at(ms, thaw)

    def kill_node(self, step: steps.KillNode) -> None:
        self.fault("killed", step.for_ms, step.node)
        slot = step.node % len(self.net.slots)
        node = self.net.slots[slot]
        if node.alive:
            node.kill()
            self.world.at(step.for_ms, partial(self._restart, slot))

    def _restart(self, slot: int) -> None:
        self._end_faults_of(slot)
        self.net.slots[slot] = self.world.start_node()

    def _end_faults_of(self, slot: int) -> None:
        """Write down that what befell a node's process and its connections is over: the next one has its own."""
        now_ms = self.world.now_ms
        for fault in list(self.chronicle.faults):
            if slot in fault.nodes and fault.kind in OF_A_PROCESS and fault.end_ms > now_ms:
                fault.nodes = tuple(other for other in fault.nodes if other != slot)
                self.chronicle.faults.append(replace(fault, nodes=(slot,), end_ms=now_ms))

    def freeze_store(self, step: steps.FreezeStore) -> None:
        self.fault("store frozen", step.for_ms)
        self.world.store.freeze()
        self._thaw_after(step.for_ms, [STORE])

    def restart_store(self, step: steps.RestartStore) -> None:
        self._end_refusals()
        self.fault("store down", step.for_ms)
        self.fault("store restarted", 0)
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
        self.fault("store down", step.for_ms)
        self.fault("store promoted", 0)
        self.world.store.promote_replica(step.lost, step.for_ms)

    def flush_all(self, _: steps.FlushAll) -> None:
        self.fault("store flushed", 0)
        self.world.store.flush_all()

    def script_flush(self, _: steps.ScriptFlush) -> None:
        self.world.store.script_flush()

    def refuse(self, step: steps.Refuse) -> None:
        self.fault("store refuses", step.for_ms)
        self.world.store.refuse(step.why, step.for_ms)

    def step_clock(self, step: steps.StepClock) -> None:
        self.fault("clock", 0).detail = step.by_ms
        self.world.store.step_clock(step.by_ms)

    # --- what backends are told when it is quiet ---

    def _ask_all(self) -> dict[tuple[str, str], Any]:
        answers: dict[tuple[str, str], Any] = {}
        users = sorted({browser.user for browser in self.browsers})
        for node in self.world.alive:
            for room in ROOMS:
                self._question(answers, node, f"room {room}", Calls.room, {"room": room})
                self._question(
                    answers,
                    node,
                    f"members {room}",
                    Calls.members,
                    {"room": room},
                    query=schema.MembersQuery(),
                )
            self._question(answers, node, "rooms all", Calls.rooms, {}, query=schema.RoomsQuery())
            for user in users:
                self._question(answers, node, f"user {user}", Calls.user, {"user": user})
        self.world.run_for(ASKING_MS)
        return answers

    def _question(
        self,
        answers: dict[tuple[str, str], Any],
        node: SimulatedNode,
        question: str,
        call: Any,
        path: dict[str, str],
        *,
        query: Any = None,
    ) -> None:
        key = (node.name, question)
        answers[key] = TimeoutError("no answer")

        async def run() -> None:
            try:
                reply = await call(Calls(node.core.parts), Asked(path, query, None, {}))
            except (ProblemError, StoreAwayError) as exc:
                answers[key] = exc
            else:
                answers[key] = _plain(reply.body)

        node.call(run)


def _plain(body: Any) -> Any:
    match body:
        case schema.RoomAnswer():
            return (body.count, body.users)
        case schema.MembersAnswer():
            return sorted(member.cid for member in body.members)
        case schema.RoomsAnswer():
            return sorted(room.room for room in body.rooms)
        case schema.UserAnswer():
            return sorted(connection.cid for connection in body.connections)
    return body


COMING_BACK_MS: Final = 4_000
"""Clients that wait to come back are back after this."""

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
    steps.Remove: Stage.remove,
    steps.Kick: Stage.kick,
    steps.Disconnect: Stage.disconnect,
    steps.Say: Stage.say,
    steps.Read: Stage.read,
    steps.Lease: Stage.lease,
    steps.Message: Stage.message,
    steps.Cut: Stage.cut,
    steps.CutAll: Stage.cut_all,
    steps.CutPubsub: Stage.cut_pubsub,
    steps.HalfOpen: Stage.half_open,
    steps.LossyPubsub: Stage.lossy_pubsub,
    steps.Slow: Stage.slow,
    steps.LoseAnswers: Stage.lose_answers,
    steps.FreezeNode: Stage.freeze_node,
    steps.FreezeAll: Stage.freeze_all,
    steps.KillNode: Stage.kill_node,
    steps.FreezeStore: Stage.freeze_store,
    steps.RestartStore: Stage.restart_store,
    steps.Promote: Stage.promote,
    steps.FlushAll: Stage.flush_all,
    steps.ScriptFlush: Stage.script_flush,
    steps.Refuse: Stage.refuse,
    steps.StepClock: Stage.step_clock,
}
