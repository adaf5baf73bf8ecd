"""The store of a node among others: what is asked where, told on return, and forgotten."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.bus.memory import MemoryBus
from presence_server.cluster.store import ClusterStore, Departure, LocalDelivery
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import BROKEN, Leave, Operation, Outcome
from presence_server.presence.port import Claim, PresenceStore, everything
from presence_server.presence.redis import PresenceRedisStore, QueuedOperation, Timing
from presence_server.presence.roster import LEASE_NODE, Delta, Record
from tests.presence.pumped import Unhurried
from tests.simulation.world import World
from tests.support.handclock import HandClock
from tests.support.operations import CLAIM_MS, TTL_MS, beat, done, enter, leave, linger

ROOM = "lobby"
HEARTBEAT_MS = 10_000


class Node:
    """A node's store over a simulated server; what it sends runs when the test pumps."""

    def __init__(self, world: World, name: str = "n1") -> None:
        self._server = world.store
        self._server.step_clock(HandClock().wall_ms() - self._server.wall_ms)
        self.clock = HandClock()
        self.isolated = False
        self.losses = 0
        self.begun: dict[str, int] = {}
        """The generations of rooms in memory."""
        self.bus: MemoryBus[Delta] = MemoryBus()
        self.shared = PresenceRedisStore(
            Unhurried(),
            world.keys,
            self.clock,
            Timing(ttl_ms=TTL_MS, late_ms=TTL_MS, hold_ms=TTL_MS, claim_ms=CLAIM_MS),
            name,
            hold_rest_ms=lambda _: 0,
            is_isolated=lambda _: self.isolated,
            failed=self._failed,
            mark_away=lambda *_: self.lose(),
            unanswered=self._unanswered,
            answered=lambda room, generation, seq: None,
        )
        self.memory = PresenceMemoryStore(
            LocalDelivery(self.bus.publish), self.clock, ttl_ms=TTL_MS, claim_ms=CLAIM_MS
        )
        self.store = ClusterStore(
            lambda _: self.shared,
            self.memory,
            node=name,
            clock=self.clock,
            heartbeat_ms=HEARTBEAT_MS,
            is_isolated=lambda _: self.isolated,
        )

    def _failed(self, room: str, request: QueuedOperation) -> None:
        self.store.carry_out_in_memory(room, request)

    def _unanswered(self, ask: Callable[[PresenceStore], None]) -> None:
        self.store.ask_again(ask)

    def lose(self) -> None:
        self.losses += 1
        self.isolated = True

    def sweep(self) -> None:
        """Sweep both stores, as a backend does."""
        self.store.sweep_expired()
        if not self.isolated:
            self.shared.sweep_expired()

    def pump(self) -> None:
        """Have the server run everything that is to be sent."""
        while work := self.shared.take():
            for piece in work:
                piece.done(self._server.run(piece.call.by_text()))

    def fail(self) -> None:
        """Lose contact with everything under way."""
        for piece in self.shared.take():
            piece.done(RedisConnectionError("reset"))

    def do(self, *operations: Operation, room: str = ROOM) -> list[Outcome]:
        """Carry operations out; return their outcomes."""
        outcomes: list[Outcome] = []
        for operation in operations:
            self.store.carry_out(room, operation, outcomes.append)
        if not self.isolated:
            self.pump()
        return outcomes

    def isolate(self, *records: Record, room: str = ROOM) -> None:
        """Lose contact, with what the node knows of a room."""
        self.isolated = True

        def begin(room: str) -> None:
            self.begun[room] = self.store.begin_in_memory(room, records)

        self.store.isolate([room], begin, lambda room, cid: False)
        self.store.ensure_begun(room)
        self.shared.abandon(everything)

    def come_back(self) -> None:
        """Return, and tell who left meanwhile."""
        self.isolated = False
        self.store.replay()
        self.pump()

    @property
    def kept(self) -> dict[str, Record]:
        """Who is in the room that the server keeps."""
        return self._server.roster(ROOM)

    @property
    def remembered(self) -> dict[str, Record]:
        """Who is in the room in this node's memory."""
        records: dict[str, Record] = {}
        self.memory.snapshot(
            ROOM, lambda snapshot: records.update({r.member.cid: r for r in snapshot.records})
        )
        return records


@pytest.fixture
def node() -> Iterator[Node]:
    with World(seed=1, nodes=0) as world:
        yield Node(world)


def test_what_is_asked_goes_to_the_shared_store_while_it_is_in_reach(node: Node) -> None:
    node.do(enter("a"))
    assert (list(node.kept), list(node.remembered)) == (["a"], [])


def test_an_isolated_node_asks_its_memory_which_begins_with_what_the_node_knew(node: Node) -> None:
    node.do(enter("a"))
    node.isolate(*node.kept.values())
    assert list(node.remembered) == ["a"]
    (outcome,) = node.do(enter("b"))
    assert sorted(node.remembered) == ["a", "b"]
    assert done(outcome).generation != 0
    assert list(node.kept) == ["a"]
    seen: list[str] = []
    node.store.snapshot(ROOM, lambda snapshot: seen.extend(r.member.cid for r in snapshot.records))
    assert sorted(seen) == ["a", "b"]


def test_an_isolated_node_goes_on_with_each_room_when_it_is_first_asked_for(node: Node) -> None:
    node.do(enter("a"))
    records = list(node.kept.values())
    begun: dict[str, int] = {}

    def begin(room: str) -> None:
        begun[room] = node.store.begin_in_memory(room, records if room == ROOM else ())

    node.isolated = True
    node.store.isolate([ROOM, "second", "third", "fourth"], begin, lambda room, cid: room == "third")
    assert begun == {}
    (outcome,) = node.do(beat("a"))
    assert (list(begun), done(outcome).generation, done(outcome).unknown) == ([ROOM], begun[ROOM], ())
    node.store.snapshot("second", lambda _: None)
    assert list(begun) == [ROOM, "second"]
    node.store.read_user_end("a", lambda _: None)
    assert list(begun) == [ROOM, "second"]
    node.store.read_claim("a", lambda _: None)
    assert list(begun) == [ROOM, "second", "third"], "memory must know the epoch of the connection there"


def test_a_room_that_is_in_reach_again_before_its_turn_does_not_go_on_in_memory(node: Node) -> None:
    begun: list[str] = []
    node.isolated = True
    node.store.isolate([ROOM, "second"], begun.append, lambda room, cid: True)
    node.store.leave_memory(lambda room: room == ROOM)
    node.store.ensure_begun(ROOM)
    node.store.ensure_begun("second")
    assert begun == ["second"]


def test_who_left_while_its_node_was_isolated_leaves_the_shared_store_on_return(node: Node) -> None:
    node.do(enter("a"), enter("b"))
    node.isolate(*node.kept.values())
    node.do(leave("a"))
    assert sorted(node.kept) == ["a", "b"]
    node.come_back()
    assert sorted(node.kept) == ["b"]
    assert node.store._departed == {}


def test_of_a_grace_period_the_rest_is_told_and_a_heartbeat_at_least(node: Node) -> None:
    departure = Departure(linger("a", 30_000), since_ms=1_000)
    assert departure.at(1_000, HEARTBEAT_MS) == linger("a", 30_000)
    assert departure.at(11_000, HEARTBEAT_MS) == linger("a", 20_000)
    assert departure.at(22_000, HEARTBEAT_MS) == linger("a", HEARTBEAT_MS)
    assert Departure(leave("a"), 0).at(99_000, HEARTBEAT_MS) == leave("a")


def test_who_lingers_on_return_does_so_in_the_shared_store(node: Node) -> None:
    node.do(enter("a"))
    node.isolate(*node.kept.values())
    node.do(linger("a", 15_000))
    node.clock.move(1_000)
    node.come_back()
    assert list(node.kept) == ["a"]
    node._server.step_clock(HEARTBEAT_MS)
    assert list(node.kept) == ["a"]
    node._server.step_clock(5_000)
    assert node.kept == {}


def test_of_others_members_and_of_who_was_never_there_nothing_is_told(node: Node) -> None:
    node.do(enter("a"), enter("other", node="n2"))
    node.isolate(*node.kept.values())
    node.do(leave("other"), enter("late"), leave("late"))
    node.do(leave("a"), room="another room")
    assert node.store._departed == {}


def test_who_lingered_and_came_back_is_not_told_to_have_left_but_who_left_is(node: Node) -> None:
    node.do(enter("a"), enter("b"))
    node.isolate(*node.kept.values())
    node.do(linger("a", 20_000), enter("a", epoch=2), enter("a", epoch=3), beat("a"))
    node.do(leave("b"), enter("b"))
    assert node.store._departed.keys() == {(ROOM, "b")}
    node.come_back()
    assert list(node.kept) == ["a"]


def test_a_departure_that_is_not_answered_is_told_after_the_next_return(node: Node) -> None:
    node.do(enter("a"))
    node.isolate(*node.kept.values())
    node.do(leave("a"))
    node.isolated = False
    node.store.replay()
    node.fail()
    assert (node.isolated, list(node.kept)) == (True, ["a"])
    node.isolate()
    node.come_back()
    assert node.kept == {}


def test_a_later_departure_is_not_forgotten_by_the_answer_to_an_earlier_one(node: Node) -> None:
    node.do(enter("a"))
    node.isolate(*node.kept.values())
    node.do(linger("a", 20_000))
    node.isolated = False
    node.store.replay()
    later = node.store._departed[ROOM, "a"] = Departure(leave("a"), node.clock.now_ms())
    node.pump()
    assert node.store._departed == {(ROOM, "a"): later}


def test_an_operation_that_is_not_answered_is_carried_out_here_and_ends_contact(node: Node) -> None:
    outcomes: list[Outcome] = []
    node.store.carry_out(ROOM, enter("a"), outcomes.append)
    node.fail()
    assert (node.losses, len(outcomes), list(node.remembered), node.kept) == (1, 1, ["a"], {})
    assert done(outcomes[0]).record is not None
    # It may have been carried out: that it leaves is to be told.
    node.do(leave("a"))
    assert node.store._departed.keys() == {(ROOM, "a")}


@pytest.mark.parametrize("operation", [Leave("a", None, "kicked", fence=True), enter("a", node=LEASE_NODE)])
def test_what_a_backend_asked_and_is_not_answered_is_refused_and_not_carried_out_here(
    node: Node, operation: Operation
) -> None:
    outcomes: list[Outcome] = []
    node.store.carry_out(ROOM, operation, outcomes.append)
    node.fail()
    assert (outcomes, node.losses, node.remembered) == ([BROKEN], 1, {})
    assert node.store._departed == {}
    assert node.store._maybe_shared == set()


def test_what_was_not_sent_yet_is_carried_out_here(node: Node) -> None:
    outcomes: list[Outcome] = []
    node.store.carry_out(ROOM, enter("a"), outcomes.append)
    node.isolate()
    assert (len(outcomes), list(node.remembered)) == (1, ["a"])
    node.come_back()
    assert node.kept == {}


def test_what_was_done_in_memory_is_forgotten_when_the_shared_store_has_been_told(node: Node) -> None:
    node.do(enter("a"))
    node.isolate(*node.kept.values())
    node.come_back()
    node.store.forget_isolation(everything)
    assert (node.remembered, node.store._maybe_shared) == ({}, set())


def test_claims_and_ends_of_tokens_are_asked_where_there_is_a_store(node: Node) -> None:
    answers: list[Any] = []

    def ask(cid: str, user: str) -> list[Any]:
        store = node.store
        answers.clear()
        store.claim(cid, 1, "n1", "n2", answers.append)
        store.read_claim(cid, answers.append)
        store.end_tokens(cid, lambda: answers.append("ended"))
        store.claim(cid, 5, "n1", "n2", answers.append)
        store.end_user_tokens(user, 77, lambda: answers.append("ended"))
        store.read_user_end(user, answers.append)
        return answers

    ask("shared", "ann")
    node.pump()
    expected = [2, Claim(2, "n1", 1), "ended", 0, "ended", 77]
    assert answers == expected
    node.isolated = True
    assert ask("alone", "bob") == expected
    node.isolated = False
    node.store.read_user_end("bob", answers.append)
    node.pump()
    assert answers[6:] == [0]


def test_a_claim_that_is_not_answered_is_made_here_and_ends_contact(node: Node) -> None:
    epochs: list[int] = []
    node.store.claim("a", 4, "n1", "n2", epochs.append)
    node.fail()
    assert (epochs, node.losses, node.isolated) == ([5], 1, True)


def test_a_room_is_asked_for_in_the_shared_store_alone(node: Node) -> None:
    node.do(enter("a"))
    outcomes: list[Outcome] = []
    node.store.ask(ROOM, outcomes.append)
    assert outcomes == []
    node.pump()
    assert done(outcomes[0]).unknown == ()
    assert done(outcomes[0]).seq == 1


def test_sweeps_are_of_the_store_that_is_there(node: Node) -> None:
    node.do(enter("a"))
    node.store.snapshot(ROOM, lambda snapshot: None)
    node.pump()
    node.store.note_delta(ROOM, Delta(1, 1, 1, 1, due_ms=node.clock.wall_ms() + 100))
    node.clock.move(200)
    node.sweep()
    assert len(node.shared.take()) == 1
    node.isolate(*node.kept.values())
    node.do(linger("a", 1))
    node.clock.move(2)
    node.sweep()
    assert (node.remembered, node.shared.take()) == ({}, [])


def test_what_an_isolated_node_hears_and_what_nobody_watches_any_more_is_not_swept(node: Node) -> None:
    due = Delta(1, 1, 1, 1, due_ms=node.clock.wall_ms() + 100)
    node.store.snapshot(ROOM, lambda snapshot: None)
    node.pump()
    node.isolated = True
    node.store.note_delta(ROOM, due)
    node.isolated = False
    node.clock.move(200)
    node.sweep()
    assert node.shared.take() == []
    node.store.note_delta(ROOM, due)
    node.store.forget(ROOM)
    node.sweep()
    assert node.shared.take() == []


def test_a_delta_of_memory_reaches_this_node_and_is_out_at_once() -> None:
    told: list[object] = []
    delivery = LocalDelivery(lambda room, delta: told.append((room, delta.seq)))
    delivery.publish(ROOM, Delta(1, 2, 3, 4))
    delivery.publish(ROOM, Delta(1, 3, 3, 4), lambda: told.append("sent"))
    assert told == [(ROOM, 2), (ROOM, 3), "sent"]
