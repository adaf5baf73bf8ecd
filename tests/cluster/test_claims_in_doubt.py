"""Two connections that were resumed with one token, on two nodes, of which the client has given one up."""

from collections.abc import Iterator

import pytest

from presence_server.protocol.messages import Join, Welcome
from tests.simulation.test_world import Recorder
from tests.simulation.world import SCALED, World

RETURN_MS = 3_000
"""So soon a node is back after a short cut."""


class Resumes:
    """Two nodes, and a client that was on a third one: in no room, and with a token."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run_for(500)
        self.here, self.there, elsewhere = world.nodes
        first = Recorder(elsewhere, "ann")
        world.run_for(100)
        self.first = welcome(first)
        first.socket.reset()
        world.run_for(100)

    def cut_there(self) -> None:
        """Have the other node lose contact."""
        self.there.link.cut(1_000)
        self.world.run_for(100)
        assert not self.there.has_contact

    def resume_there(self) -> Recorder:
        return Recorder(self.there, "ann", resume=self.first.resume)

    def resume_here(self) -> Recorder:
        return Recorder(self.here, "ann", resume=self.first.resume)

    def come_back(self) -> None:
        self.world.run_for(1_000 + RETURN_MS)
        assert self.there.has_contact

    def listed(self) -> list[tuple[str, str]]:
        """Return the connections of the user, each with its node."""
        asking = self.here.call(lambda: self.here.core.backend.registry.users(["ann"]))
        self.world.run_for(100)
        (status,) = asking.result()
        return [(connection.cid, connection.node) for connection in status.connections]


def welcome(client: Recorder) -> Welcome:
    (first, *_) = client.messages
    assert isinstance(first, Welcome)
    return first


@pytest.fixture
def resumes() -> Iterator[Resumes]:
    with World(seed=7) as world:
        yield Resumes(world)
        assert world.faults == []


def test_one_that_its_client_gave_up_before_it_was_welcomed_does_not_replace_the_other(
    resumes: Resumes,
) -> None:
    given_up = resumes.resume_here()
    given_up.socket.vanish()
    resumes.world.run_for(100)
    resumes.cut_there()
    ann = resumes.resume_there()
    resumes.come_back()
    assert (ann.codes, welcome(ann).cid) == ([], resumes.first.cid)
    assert resumes.listed() == [(resumes.first.cid, resumes.there.core.id)]
    resumes.world.run_for(SCALED.ping_ms + SCALED.ping_timeout_ms)
    assert resumes.listed() == [(resumes.first.cid, resumes.there.core.id)]
    assert resumes.here.core.directory.find_connection(resumes.first.cid) is None


def test_one_that_was_given_up_on_a_node_without_contact_does_not_replace_the_other(resumes: Resumes) -> None:
    resumes.cut_there()
    given_up = resumes.resume_there()
    given_up.socket.vanish()
    ann = resumes.resume_here()
    resumes.come_back()
    assert (ann.codes, welcome(ann).cid) == ([], resumes.first.cid)
    assert resumes.listed() == [(resumes.first.cid, resumes.here.core.id)]
    resumes.world.run_for(SCALED.ping_ms + SCALED.ping_timeout_ms)
    assert resumes.listed() == [(resumes.first.cid, resumes.here.core.id)]
    assert resumes.there.core.directory.find_connection(resumes.first.cid) is None


def test_one_that_was_given_up_where_the_other_is_known_of_does_not_replace_it(resumes: Resumes) -> None:
    beside = Recorder(resumes.there, "bob")
    ann = resumes.resume_here()
    for client in (beside, ann):
        resumes.world.run_for(100)
        client.socket.send(Join("lobby"))
    resumes.world.run_for(1_000)
    assert beside.names() == {"ann", "bob"}
    resumes.cut_there()
    given_up = resumes.resume_there()  # memory claims an epoch above the member's
    resumes.world.run_for(100)
    given_up.socket.vanish()
    resumes.come_back()
    assert ann.codes == []
    resumes.world.run_for(SCALED.ping_ms + SCALED.ping_timeout_ms)
    assert resumes.listed() == [(resumes.first.cid, resumes.here.core.id)]
    assert resumes.there.core.directory.find_connection(resumes.first.cid) is None


def test_of_two_that_both_have_a_client_one_goes_on(resumes: Resumes) -> None:
    resumes.cut_there()
    clients = [resumes.resume_there(), resumes.resume_here()]
    resumes.come_back()
    assert sorted(client.codes for client in clients) == [[], [4010]]
    assert len(resumes.listed()) == 1
