"""Each fault of a simulated store and link does what it says, and a cluster is whole again afterwards."""

from collections.abc import Iterator

import pytest

from presence_server.protocol.messages import Diff, Join, MemberLeave, Publish, Published, Welcome
from tests.simulation.test_world import Recorder
from tests.simulation.truth import SETTLE_MS
from tests.simulation.world import SCALED, World

QUIET_MS = SCALED.ttl_ms + SCALED.grace_lost_ms + 2 * SCALED.heartbeat_ms
"""After this everything is as it was before a fault."""


class Company:
    """Three nodes with contact, and a member of one room on each of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.members = [Recorder(node, f"user-{n}") for n, node in enumerate(world.nodes)]
        for member in self.members:
            member.socket.send(Join("lobby"))
        world.run_for(1_000)
        assert self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether all have contact, the store has everybody, and everybody is told so."""
        everybody = {member.user for member in self.members}
        stored = {record.member.user for record in self.world.store.roster("lobby").values()}
        told = all(member.names() == everybody for member in self.members)
        return stored == everybody and told and self.contact == [True] * 3

    @property
    def contact(self) -> list[bool]:
        """Return of each node whether it has contact."""
        return [node.has_contact for node in self.world.nodes]

    def heals(self) -> bool:
        """Let it be quiet; tell whether everything is as it was, and nothing failed."""
        self.world.run_for(QUIET_MS)
        assert self.world.faults == []
        return self.is_whole

    def published(self, data: str) -> list[bool]:
        """Have the first member publish; return of each of the others whether it has heard."""
        self.members[0].socket.send(Publish("lobby", data))
        self.world.run_for(300)
        return [
            any(isinstance(message, Published) and message.data == data for message in member.messages)
            for member in self.members[1:]
        ]


def leaves(member: Recorder) -> list[MemberLeave]:
    """Return the leaves that a member was told of."""
    return [leave for message in member.messages if isinstance(message, Diff) for leave in message.leaves]


@pytest.fixture
def company() -> Iterator[Company]:
    with World(seed=7) as world:
        yield Company(world)


def test_a_frozen_store_answers_nobody_and_then_everybody(company: Company) -> None:
    store = company.world.store
    store.freeze()
    calls = store.calls
    company.world.run_for(10_000)
    assert store.calls == calls
    assert company.contact == [False] * 3
    store.thaw()
    assert company.heals()


def test_a_sweep_that_a_frozen_store_was_sent_does_not_keep_nodes_away(company: Company) -> None:
    store = company.world.store
    company.world.nodes[2].kill()
    company.world.run_for(SCALED.heartbeat_ms)
    (room,) = store.rooms().values()
    welcome = company.members[2].messages[0]
    assert isinstance(welcome, Welcome)
    company.world.run_for(room._deadlines[welcome.cid].at_ms - store.wall_ms - 500)
    store.freeze()  # before the member of the dead node is swept, and before anybody notices
    company.world.run_for(SCALED.ttl_ms + 1_000)
    store.thaw()
    company.world.run_for(QUIET_MS)
    assert company.contact == [True, True, False]
    assert company.members[0].names() == {"user-0", "user-1"}


def test_a_frozen_node_does_nothing_until_it_is_thawed(company: Company) -> None:
    node, member = company.world.nodes[0], company.members[0]
    node.freeze()
    assert node.frozen
    heard = len(member.messages)
    assert company.published("while frozen") == [False, False]
    company.world.run_for(4_000)
    assert len(member.messages) == heard
    node.thaw()
    company.world.run_for(2_000)
    assert company.published("after") == [True, True]


def test_clients_of_a_killed_node_are_closed_and_its_members_end(company: Company) -> None:
    company.world.nodes[2].kill()
    company.world.run_for(100)
    assert company.members[2].codes == [1006]
    late = Recorder(company.world.nodes[2], "late")
    company.world.run_for(SCALED.ttl_ms + 1_000)
    assert late.codes == [1006]
    assert company.members[0].names() == {"user-0", "user-1"}
    channels = company.world.store.subscribers
    assert all(len(heard_by) <= 2 for heard_by in channels.values())


def test_a_node_that_is_started_joins_the_others(company: Company) -> None:
    node = company.world.start_node()
    company.world.run_for(500)
    assert node.has_contact
    fourth = Recorder(node, "user-3")
    fourth.socket.send(Join("lobby"))
    company.world.run_for(500)
    assert company.members[0].names() == {"user-0", "user-1", "user-2", "user-3"}


def test_flushall_leaves_no_key_and_every_connection(company: Company) -> None:
    store = company.world.store
    pipes = [dict(node.link.pipes) for node in company.world.nodes]
    store.flush_all()
    assert store.keys() == {}
    company.world.run_for(20)
    assert [dict(node.link.pipes) for node in company.world.nodes] == pipes
    assert company.heals()


def test_who_is_lost_just_after_flushall_has_its_grace(company: Company) -> None:
    watcher, lost = company.members[1], company.members[0]
    company.world.store.flush_all()
    lost.socket.reset()
    company.world.run_for(SCALED.grace_lost_ms - 500)
    assert watcher.names() == {"user-0", "user-1", "user-2"}
    assert leaves(watcher) == []
    company.world.run_for(2_000)
    assert watcher.names() == {"user-1", "user-2"}
    assert [leave.reason for leave in leaves(watcher)] == ["timeout"]


def test_who_has_resumed_and_not_joined_yet_at_flushall_is_not_seen_to_leave(company: Company) -> None:
    watcher, replaced = company.members[1], company.members[0]
    welcome = replaced.messages[0]
    assert isinstance(welcome, Welcome)
    again = Recorder(company.world.nodes[0], "user-0", resume=welcome.resume)
    company.world.run_for(200)
    assert replaced.codes == [4010]
    company.world.store.flush_all()
    company.world.run_for(SCALED.heartbeat_ms)
    again.socket.send(Join("lobby"))
    company.world.run_for(QUIET_MS)
    assert leaves(watcher) == []
    assert watcher.names() == {"user-0", "user-1", "user-2"}


def test_a_script_flush_makes_scripts_unknown_once(company: Company) -> None:
    store = company.world.store
    assert store._loaded
    store.script_flush()
    assert not store._loaded
    assert company.published("after") == [True, True]
    assert company.heals()
    assert store._loaded


@pytest.mark.parametrize("refusal", ["READONLY", "OOM", "LOADING"])
def test_a_store_that_refuses_is_away_for_that_long(company: Company, refusal: str) -> None:
    store = company.world.store
    store.refuse(refusal, 4_000)  # type: ignore[arg-type]  # one of the three
    company.world.run_for(3_000)
    assert company.contact == [False] * 3
    assert company.world.store.roster("lobby")
    company.world.run_for(3_000)
    assert company.heals()


def test_a_store_restarted_empty_knows_nothing_and_is_another_server(company: Company) -> None:
    store = company.world.store
    identity = store.run(("INFO", "server"))
    store.restart_empty(700)
    company.world.run_for(600)
    assert company.contact == [False] * 3
    down = [store.is_down]
    company.world.run_for(200)
    assert [*down, store.is_down] == [True, False]
    assert store.run(("INFO", "server")) != identity
    assert company.heals()


def test_a_store_restored_from_before_has_what_it_had_then(company: Company) -> None:
    store = company.world.store
    company.world.run_for(3_000)
    late = Recorder(company.world.nodes[0], "late")
    late.socket.send(Join("lobby"), Join("late"))
    company.world.run_for(1_000)
    assert len(store.roster("lobby")) == 4
    store.restore(2_000, 300)
    company.world.run_for(301)
    assert {record.member.user for record in store.roster("lobby").values()} == {"user-0", "user-1", "user-2"}
    company.world.run_for(QUIET_MS)
    assert company.members[1].names() == {"user-0", "user-1", "user-2", "late"}


def test_a_promoted_replica_lacks_the_last_calls(company: Company) -> None:
    store = company.world.store
    before = len(store._log)
    company.members[0].socket.send(Join("hall"))
    company.world.run_for(200)
    assert store.roster("hall")
    store.promote_replica(len(store._log) - before, 300)
    company.world.run_for(301)
    assert not store.roster("hall")
    assert store.roster("lobby")
    company.world.run_for(QUIET_MS)
    assert store.roster("hall")


def test_keys_end_by_a_clock_that_is_stepped_forward(company: Company) -> None:
    store = company.world.store
    assert None not in store.keys().values()
    store.step_clock(366 * 86_400_000)
    assert store.keys() == {}
    assert company.heals()


def test_a_clock_that_is_stepped_back_ends_nobody(company: Company) -> None:
    company.world.store.step_clock(-3_600_000)
    assert company.heals()


def test_a_cut_link_refuses_until_its_time_is_over(company: Company) -> None:
    link = company.world.nodes[0].link
    link.cut(3_000)
    whole = [link.is_whole]
    company.world.run_for(1_000)
    assert company.contact == [False, True, True]
    assert not link.pipes
    assert company.published("alone") == [False, False]
    company.world.run_for(3_000)
    assert [*whole, link.is_whole] == [False, True]
    assert company.heals()


def test_pubsub_can_be_cut_alone(company: Company) -> None:
    link = company.world.nodes[1].link
    link.cut(1_500, "pubsub")
    company.world.run_for(500)
    assert {pipe.side for pipe in link.pipes} == {"commands"}
    assert company.contact == [True, False, True]
    assert company.published("over there") == [False, True]
    assert company.heals()


def test_what_a_stalled_link_was_sent_arrives_late(company: Company) -> None:
    company.world.nodes[1].link.stall(600, "pubsub")
    assert company.published("late") == [False, True]
    company.world.run_for(600)
    assert any(isinstance(message, Published) for message in company.members[1].messages)
    assert company.contact == [True] * 3


def test_half_open_connections_are_given_up_and_made_anew(company: Company) -> None:
    link = company.world.nodes[0].link
    dead = dict(link.pipes)
    link.half_open()
    company.world.run_for(500)
    assert company.contact == [True] * 3, "nobody has been told"
    company.world.run_for(5_000)
    assert not dead.keys() & link.pipes.keys()
    assert company.heals()


def test_a_lossy_link_loses_messages_and_nothing_else(company: Company) -> None:
    link = company.world.nodes[1].link
    link.lose_messages(1.0, 500)
    assert company.published("lost") == [False, True]
    company.world.run_for(1_000)
    assert company.published("heard") == [True, True]
    assert company.heals()


def test_a_pipeline_whose_answers_are_lost_has_run(company: Company) -> None:
    node, store = company.world.nodes[0], company.world.store
    node.link.lose_answers(1)
    calls = store.calls
    company.world.run_for(1_200)
    assert store.calls > calls
    assert node.core.backend.losses > 0  # type: ignore[attr-defined]  # of a cluster's
    assert company.heals()


def test_a_slow_link_is_no_loss_of_contact(company: Company) -> None:
    company.world.nodes[0].link.slow(3_000, 50, 150)
    assert company.published("slow") == [False, False] or company.published("slow") == [True, True]
    company.world.run_for(3_000)
    assert company.contact == [True] * 3
    assert company.heals()


def test_a_vanished_client_is_noticed_by_pings(company: Company) -> None:
    company.members[2].socket.vanish()
    company.world.run_for(SCALED.ping_timeout_ms)
    assert company.members[0].names() == {"user-0", "user-1", "user-2"}
    company.world.run_for(SCALED.ping_ms + SCALED.grace_lost_ms + 1_000)
    assert company.members[0].names() == {"user-0", "user-1"}
    assert company.members[2].codes == []


def test_a_suspended_machine_goes_on_where_it_was(company: Company) -> None:
    company.world.freeze_all(store=True)
    company.world.run_for(3_600_000)
    company.world.thaw_all()
    assert company.heals()


def test_a_node_that_begins_while_all_others_are_silent_judges_nobody_before_they_may_be_back(
    company: Company,
) -> None:
    company.members[2].socket.close()
    company.world.run_for(SCALED.grace_clean_ms + 500)
    company.world.nodes[2].kill()
    for node in company.world.nodes[:2]:
        node.link.cut(SCALED.ttl_ms + SCALED.heartbeat_ms)
    company.world.run_for(SCALED.ttl_ms)
    begins = company.world.start_node()
    company.world.run_for(SCALED.heartbeat_ms // 2)
    watcher = Recorder(begins, "watcher")
    watcher.socket.send(Join("lobby"))
    company.world.run_for(SCALED.heartbeat_ms // 4)
    assert begins.has_contact
    assert company.contact[:2] == [False, False]
    assert watcher.names() == {"user-0", "user-1", "watcher"}
    company.world.run_for(SETTLE_MS)
    assert company.contact[:2] == [True, True]
    assert leaves(watcher) == []
