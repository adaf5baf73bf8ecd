"""The checker itself: plans can be shortened, runs repeat, and what breaks a promise is found."""

import random

import msgspec
import pytest

from presence_server.client.events import Joined, Left, Updated
from presence_server.protocol.messages import Member
from tests.simulation.answers import answers_true
from tests.simulation.chronicle import (
    Answer,
    Chronicle,
    Fault,
    GivenCommand,
    Heard,
    Life,
    Publication,
    Request,
    Span,
    Stay,
)
from tests.simulation.closing import replaced_by_another, stays_out
from tests.simulation.drawing import draw_plan
from tests.simulation.evidence import Ears, Run
from tests.simulation.invariants import ALWAYS
from tests.simulation.memberships import (
    leaves_heard,
    leaves_heard_on_return,
    no_false_leave,
    one_join_one_leave,
)
from tests.simulation.plan import Cut, Disaster, Join, Plan, Start, decode_plan, encode_plan
from tests.simulation.play import Outcome, play
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.serving import closed_for_a_reason, served
from tests.simulation.shrink import shrink
from tests.simulation.telling import delivered, in_order, never_twice, users_told, versions_rise
from tests.simulation.truth import Truth

ANN = Member("ann-cid", "ann", {}, {"n": 1}, 2, 1_000)


class Scenario:
    """A record of two connections in a room, ann's on node 0 and bob's on node 1, with nothing wrong."""

    def __init__(self) -> None:
        self.chronicle = Chronicle()
        self.ann, self.bob = self._life("ann", 0), self._life("bob", 1)
        self.ann_stay, self.bob_stay = self._stay(self.ann), self._stay(self.bob)
        self.hears(200, Joined("lobby", ANN))

    def _life(self, user: str, node: int) -> Life:
        number = len(self.chronicle.lives)
        life = Life(number, user, user, node, 50, cid=f"{user}-cid", opened_ms=60, welcomed_ms=70)
        self.chronicle.lives.append(life)
        return life

    def _stay(self, life: Life) -> Stay:
        stay = Stay(life, "lobby", joining=True, mode="full", asked_ms=80, entered_ms=100)
        self.chronicle.stays.append(stay)
        return stay

    def hears(self, at_ms: int, *events: Joined | Left | Updated) -> None:
        """Have bob be told of something."""
        self.chronicle.heard.append(Heard(at_ms, self.bob, "lobby", list(events), "Diff", stale=False))

    def says(self, sent_ms: int) -> Publication:
        """Have ann say something that is answered with ok."""
        number = self.chronicle.number()
        said = Publication(number, self.ann, 0, "lobby", sent_ms, ok_ms=sent_ms + 10)
        self.chronicle.publications[number] = said
        return said

    def calls(self, sent_ms: int) -> Publication:
        """Have a backend say something to bob by node 0."""
        number = self.chronicle.number()
        said = Publication(number, None, 0, "", sent_ms, "bob", ok_ms=sent_ms + 10)
        self.chronicle.publications[number] = said
        return said

    def reads(self, kind: str, what: str, asked_ms: int, value: object) -> None:
        """Have a backend be told something by node 0."""
        self.chronicle.answers.append(Answer(0, kind, what, asked_ms, asked_ms + 10, value))

    def cut(self, node: int, begin_ms: int, end_ms: int) -> None:
        """Have a node be cut off."""
        self.breaks("cut", node, begin_ms, end_ms)

    def breaks(self, kind: str, node: int, begin_ms: int, end_ms: int) -> None:
        """Have something be broken."""
        self.chronicle.faults.append(Fault(kind, (node,), begin_ms, end_ms))

    @property
    def run(self) -> Run:
        """The run, over."""
        return Run(self.chronicle, Ears(self.chronicle))


def test_a_record_with_nothing_wrong_breaks_nothing() -> None:
    scenario = Scenario()
    assert [what for invariant in ALWAYS for what in invariant(scenario.run)] == []


def test_a_leave_of_somebody_who_is_there_is_found() -> None:
    scenario = Scenario()
    scenario.hears(20_000, Left("lobby", ANN, "timeout"))
    assert len(list(no_false_leave(scenario.run))) == 1


def test_a_leave_after_a_leave_is_right() -> None:
    scenario = Scenario()
    scenario.ann_stay.end(19_950, "left")
    scenario.hears(20_000, Left("lobby", ANN, "left"))
    assert list(no_false_leave(scenario.run)) == []


@pytest.mark.parametrize(("lost_ms", "found"), [(17_900, 1), (16_000, 0)])
def test_a_lost_connection_leaves_after_its_grace_and_not_before(lost_ms: int, found: int) -> None:
    scenario = Scenario()
    scenario.ann.hung_up_ms = lost_ms
    scenario.ann_stay.end(lost_ms, "lost")
    scenario.hears(20_000, Left("lobby", ANN, "timeout"))
    assert len(list(no_false_leave(scenario.run))) == found


@pytest.mark.parametrize(("nodes", "found"), [((0,), 0), ((0, 1, 2), 1)])
def test_a_node_that_was_cut_off_alone_may_be_taken_for_dead_but_not_where_all_were(
    nodes: tuple[int, ...], found: int
) -> None:
    scenario = Scenario()
    for node in nodes:
        scenario.cut(node, 20_000, 28_000)
    scenario.hears(28_500, Left("lobby", ANN, "timeout"))
    assert len(list(no_false_leave(scenario.run))) == found


@pytest.mark.parametrize(("for_ms", "found"), [(2_500, 0), (3_500, 1)])
def test_who_was_away_for_long_judges_nobody_at_first_and_who_was_for_a_moment_does(
    for_ms: int, found: int
) -> None:
    scenario = Scenario()
    scenario.cut(0, 20_000, 28_000)
    for node in (1, 2):
        scenario.cut(node, 20_000, 20_000 + for_ms)
    scenario.hears(26_500, Left("lobby", ANN, "timeout"))
    assert len(list(no_false_leave(scenario.run))) == found


def test_a_node_that_was_cut_off_for_less_than_a_lease_lasts_keeps_its_members() -> None:
    scenario = Scenario()
    scenario.cut(0, 20_000, 20_900)
    assert Truth(scenario.chronicle).cut_alone(0) == []


def test_a_second_join_of_a_membership_is_found() -> None:
    scenario = Scenario()
    scenario.hears(20_000, Left("lobby", ANN, "left"), Joined("lobby", ANN))
    assert len(list(one_join_one_leave(scenario.run))) == 1


@pytest.mark.parametrize(("stale", "found"), [(True, 0), (False, 1)])
def test_a_second_join_is_right_after_a_stale_sync_and_no_other(stale: bool, found: int) -> None:
    scenario = Scenario()
    synced = Heard(19_000, scenario.bob, "lobby", [], "RosterSync", stale=stale)
    scenario.chronicle.heard.append(synced)
    scenario.hears(20_000, Joined("lobby", ANN))
    assert len(list(one_join_one_leave(scenario.run))) == found


@pytest.mark.parametrize(("cut", "found"), [(True, 0), (False, 2)])
def test_a_lease_may_end_twice_on_a_node_without_contact_and_no_other(cut: bool, found: int) -> None:
    scenario = Scenario()
    leased = msgspec.structs.replace(ANN, cid="leased-1")
    for at_ms in (20_000, 40_000):
        scenario.hears(at_ms, Joined("lobby", leased))
        scenario.hears(at_ms + 1_000, Left("lobby", leased, "timeout"))
    if cut:
        scenario.cut(1, 20_500, 30_000)
    assert len(list(one_join_one_leave(scenario.run))) == found


def test_a_version_that_goes_back_is_found() -> None:
    scenario = Scenario()
    before = msgspec.structs.replace(ANN, v=3)
    scenario.hears(20_000, Updated("lobby", ANN, before))
    assert len(list(versions_rise(scenario.run))) == 1


def test_a_message_that_does_not_arrive_is_found_unless_the_node_was_cut_off() -> None:
    scenario = Scenario()
    said = scenario.says(20_000)
    assert len(list(delivered(scenario.run))) == 1
    scenario.cut(1, 19_900, 20_100)
    assert list(delivered(scenario.run)) == []
    said.got += [(20_010, scenario.bob)] * 2
    assert len(list(never_twice(scenario.run))) == 1


def test_a_slow_link_is_no_reason_to_lose_a_message_only_to_get_it_later() -> None:
    scenario = Scenario()
    scenario.breaks("slow", 1, 19_000, 22_000)
    scenario.says(20_000)
    scenario.calls(20_000)
    scenario.reads("members", "lobby", 20_000, ["ann-cid"])
    assert [len(list(each(scenario.run))) for each in (delivered, users_told, answers_true)] == [1, 1, 1]
    scenario.bob_stay.end(23_000, "left")
    scenario.bob.hung_up_ms = 23_000
    assert [len(list(each(scenario.run))) for each in (delivered, users_told)] == [0, 0]


@pytest.mark.parametrize(("forgot_ms", "found"), [(20_200, 0), (30_000, 1)])
def test_a_command_that_the_store_lost_later_is_no_reason_for_what_was_before(
    forgot_ms: int, found: int
) -> None:
    scenario = Scenario()
    scenario.breaks("store flushed", 0, forgot_ms, forgot_ms)
    kick = GivenCommand("kick", 0, "ann-cid", "", "", 20_000, answered_ms=20_100, status=204)
    scenario.chronicle.commands.append(kick)
    assert len(list(stays_out(scenario.run))) == found


@pytest.mark.parametrize(("forgot_ms", "found"), [(19_000, 0), (1_000, 1), (30_000, 1)])
def test_what_the_store_lost_long_before_or_later_brings_no_member_back(forgot_ms: int, found: int) -> None:
    scenario = Scenario()
    scenario.breaks("store flushed", 0, forgot_ms, forgot_ms)
    for at_ms in (25_000, 27_000):
        scenario.hears(at_ms, Left("lobby", ANN, "left"))
    assert len(list(one_join_one_leave(scenario.run))) == found


@pytest.mark.parametrize(("back_ms", "found"), [(8_000, 0), (2_000, 1)])
def test_a_version_goes_back_only_for_a_while_after_its_member_changed_nodes(
    back_ms: int, found: int
) -> None:
    scenario = Scenario()
    scenario.cut(0, 800, back_ms)
    scenario.ann.hung_up_ms = 1_000
    again = Life(2, "ann", "ann", 1, 1_100, cid="ann-cid", claimed="ann-cid")
    scenario.chronicle.lives.append(again)
    scenario.hears(26_000, Updated("lobby", ANN, msgspec.structs.replace(ANN, v=3)))
    assert len(list(versions_rise(scenario.run))) == found


@pytest.mark.parametrize(("killed_ms", "found"), [(20_500, 0), (40_000, 1)])
def test_a_node_that_is_killed_later_is_no_reason_to_hear_of_no_leave(killed_ms: int, found: int) -> None:
    scenario = Scenario()
    scenario.ann_stay.end(20_000, "left")
    scenario.breaks("killed", 0, killed_ms, killed_ms + 1)
    assert len(list(leaves_heard(scenario.run))) == found


def test_a_message_to_a_user_that_does_not_arrive_is_found_unless_the_node_was_cut_off() -> None:
    scenario = Scenario()
    said = scenario.calls(20_000)
    assert len(list(users_told(scenario.run))) == 1
    said.got.append((20_010, scenario.bob))
    assert list(users_told(scenario.run)) == []
    said.got.clear()
    scenario.cut(1, 19_900, 20_100)
    assert list(users_told(scenario.run)) == []


@pytest.mark.parametrize(
    ("kind", "what", "value", "found"),
    [
        ("members", "lobby", ["ann-cid", "bob-cid"], 0),
        ("members", "lobby", ["ann-cid"], 1),
        ("room", "lobby", (2, 2), 0),
        ("room", "lobby", (1, 1), 1),
        ("user", "bob", ["bob-cid"], 0),
        ("user", "bob", [], 1),
    ],
)
def test_an_answer_that_lacks_who_is_there_is_found(kind: str, what: str, value: object, found: int) -> None:
    scenario = Scenario()
    scenario.reads(kind, what, 20_000, value)
    assert len(list(answers_true(scenario.run))) == found


@pytest.mark.parametrize(("kind", "what"), [("members", "lobby"), ("user", "ann")])
@pytest.mark.parametrize(("over_ms", "found"), [(2_000, 1), (19_000, 0)])
def test_an_answer_with_somebody_who_is_long_gone_is_found(
    kind: str, what: str, over_ms: int, found: int
) -> None:
    scenario = Scenario()
    scenario.ann.hung_up_ms = over_ms
    scenario.ann_stay.end(over_ms, "closed")
    scenario.reads(kind, what, 20_000, ["ann-cid", "bob-cid"])
    assert len(list(answers_true(scenario.run))) == found


@pytest.mark.parametrize(("back_ms", "heard_ms", "found"), [(28_000, 30_900, 0), (28_000, 34_000, 1)])
def test_a_leave_on_a_node_without_contact_that_is_told_too_late_is_found(
    back_ms: int, heard_ms: int, found: int
) -> None:
    scenario = Scenario()
    scenario.cut(0, 20_000, back_ms)
    scenario.ann_stay.end(21_000, "left")
    scenario.hears(heard_ms, Left("lobby", ANN, "left"))
    assert len(list(leaves_heard_on_return(scenario.run))) == found


def test_what_a_client_read_late_it_had_been_told_before() -> None:
    scenario = Scenario()
    scenario.bob.dozes.append(Span(19_000, 30_000))
    scenario.ann_stay.end(20_000, "left")
    scenario.hears(30_010, Left("lobby", ANN, "left"))
    assert list(leaves_heard(scenario.run)) == []
    said = scenario.says(19_500)
    assert len(list(delivered(scenario.run))) == 1
    said.got.append((30_010, scenario.bob))
    assert list(delivered(scenario.run)) == []


def test_a_connection_that_nobody_replaced_is_found() -> None:
    scenario = Scenario()
    scenario.ann.ended_ms, scenario.ann.code = 20_000, 4010
    assert len(list(replaced_by_another(scenario.run))) == 1
    again = Life(2, "ann", "ann", 1, 19_900, cid="ann-cid", claimed="ann-cid")
    scenario.chronicle.lives.append(again)
    assert list(replaced_by_another(scenario.run)) == []


def test_a_connection_that_is_closed_for_no_reason_is_found() -> None:
    for code in (1006, 4003, 4004, 4102, 4201):
        scenario = Scenario()
        scenario.ann.ended_ms, scenario.ann.code = 20_000, code
        assert len(list(closed_for_a_reason(scenario.run))) == 1
        kick = GivenCommand(
            "disconnect", 0, "", "ann", "", 19_900, ban_ms=1_000, answered_ms=19_950, status=204
        )
        scenario.chronicle.commands.append(kick)
        scenario.ann.dozes.append(Span(19_000, 20_000))
        scenario.breaks("killed", 0, 19_990, 21_000)
        assert len(list(closed_for_a_reason(scenario.run))) == (code == 4201)


@pytest.mark.parametrize(
    ("answered_ms", "refused", "found"),
    [(20_100, "", 0), (26_000, "", 1), (None, "", 1), (20_100, "unavailable", 1)],
)
def test_a_request_that_is_not_answered_or_refused_for_want_of_contact_is_found(
    answered_ms: int | None, refused: str, found: int
) -> None:
    scenario = Scenario()
    scenario.cut(0, 15_000, 40_000)
    asked = Request(scenario.ann, "join hall", 20_000, answered_ms, refused)
    scenario.chronicle.requests.append(asked)
    assert len(list(served(scenario.run))) == found
    scenario.breaks("frozen", 0, 20_000, 30_000)
    assert len(list(served(scenario.run))) == (refused != "")


@pytest.mark.parametrize(("was_ready", "found"), [(True, 1), (False, 0)])
def test_who_is_not_let_in_is_found(was_ready: bool, found: int) -> None:
    scenario = Scenario()
    late = Life(2, "carl", "carl", 1, 20_000, hung_up_ms=23_000, was_ready=was_ready)
    scenario.chronicle.lives.append(late)
    assert len(list(served(scenario.run))) == found


def test_messages_that_overtake_each_other_or_come_back_are_found() -> None:
    scenario = Scenario()
    run = scenario.run
    heard = Heard(20_000, scenario.bob, "lobby", [], "Published", stale=False)
    for number in (5, 7, 6):
        run.ears._check_author(scenario.bob, scenario.ann, heard, number)
    assert len(list(in_order(run))) == 1
    run.ears._check_author(scenario.ann, scenario.ann, heard, 8)
    assert len(list(in_order(run))) == 2


def test_a_plan_is_the_same_each_time_and_goes_to_a_file_and_back() -> None:
    plan = draw_plan(11)
    assert draw_plan(11) == plan != draw_plan(12)
    assert decode_plan(encode_plan(plan)) == plan
    assert [step.at_ms for step in plan.steps] == sorted(step.at_ms for step in plan.steps)
    assert any(isinstance(step, Disaster) for step in plan.steps)


def test_any_part_of_a_plan_can_be_played_and_is_the_same_run_each_time() -> None:
    plan = draw_plan(3)
    chance = random.Random(3)  # noqa: S311 - a sample
    part = plan.only(chance.sample(range(len(plan.steps)), len(plan.steps) // 2))
    first, second = play(part, until_empty=False), play(part, until_empty=False)
    assert first.trace == second.trace
    assert "no_exception" not in first.names


def test_a_failing_plan_is_shortened_to_what_it_needs() -> None:
    plan = Plan(1, (*(Start(i, i % 20, 0) for i in range(60)), Join(70, 7, "hall"), Cut(80, 1, 100)))

    def fails_with_a_join_and_a_cut(part: Plan) -> Outcome:
        fails = any(isinstance(s, Join) for s in part.steps) and any(isinstance(s, Cut) for s in part.steps)
        return Outcome(part, [("fold", "as told")] if fails else [])

    assert shrink(plan, "fold", 30, fails_with_a_join_and_a_cut) == [60, 61]


def test_a_quiet_run_with_clients_alone_breaks_nothing() -> None:
    plan = draw_plan(4)
    calm = plan.only([i for i, step in enumerate(plan.steps) if not isinstance(step, Disaster)])
    assert play(calm).broken == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenarios_break_nothing(name: str) -> None:
    assert play(SCENARIOS[name], until_empty=False).broken == []
