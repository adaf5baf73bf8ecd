"""Claims of resumed connections over the loss and the return of the store."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.port import UNKNOWN_EPOCH
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import Join, Resume
from presence_server.session import claims
from presence_server.session.claims import FRESH_EPOCH, EpochClaims
from tests.support.world import Client, World

ANN_EPOCH = 2


class Spoilt(PresenceMemoryStore):
    """A store whose claims are not what they should be."""

    def claim(
        self,
        cid: str,
        epoch: int,
        node: str,
        issuer: str,
        done: Callable[[int], None],
        *,
        known: int | None = None,
    ) -> None:
        done(UNKNOWN_EPOCH)


@dataclass
class Node:
    """A node with a connection that was resumed while it was isolated; `shared` is the store of all nodes."""

    store: type[PresenceMemoryStore] = PresenceMemoryStore
    world: World = field(default_factory=World)
    isolated: bool = True

    def __post_init__(self) -> None:
        world = self.world
        self.shared = self.store(world.bus, world.clock, ttl_ms=30_000, claim_ms=world.presence.resume_ms)
        self.claims = EpochClaims(self.shared, world.node, world.directory._sessions, lambda _: self.isolated)
        earlier = world.connect("ann")
        earlier.drop(Ending.LOST)
        self.ann: Client = world.connect("ann", resume=earlier.resume)
        world.directory.claims = self.claims
        self.claims.note_resumed(self.ann.session, self.ann.session.participant.epoch - 1)
        self.ann.take()
        assert (self.ann.session.participant.epoch, len(self.claims)) == (ANN_EPOCH, 1)

    def know(self, epoch: int) -> None:
        """Let other nodes have claimed the connection up to an epoch."""
        self.shared.claim(self.ann.cid, epoch - 1, "node-2", "node-2", lambda _: None)

    @property
    def stored(self) -> int:
        """The epoch that the shared store knows."""
        epochs: list[int] = []
        self.shared.read_claim(self.ann.cid, lambda claim: epochs.append(claim.epoch))
        (epoch,) = epochs
        return epoch

    def repeat(self) -> None:
        """Come back, and repeat the claim; it is answered."""
        self.isolated = False
        answered: list[bool] = []
        for session in self.claims.unconfirmed():
            self.claims.repeat_claim(session, lambda: answered.append(True))
        assert answered == [True]


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.mark.parametrize("known", [0, ANN_EPOCH - 1])
def test_a_claim_that_nobody_else_made_keeps_its_epoch_and_its_token(node: Node, known: int) -> None:
    if known:
        node.know(known)
    node.repeat()
    assert (node.ann.session.participant.epoch, node.stored, len(node.claims)) == (ANN_EPOCH, ANN_EPOCH, 0)
    assert (node.ann.take(), node.ann.is_open) == ([], True)


def test_of_two_connections_with_one_epoch_the_one_that_claims_last_and_is_in_a_room_goes_on_with_a_fresh_token(
    node: Node,
) -> None:
    node.ann.ask(Join("lobby"))
    node.know(ANN_EPOCH)
    node.repeat()
    assert (node.ann.session.participant.epoch, node.stored, len(node.claims)) == (
        ANN_EPOCH + 1,
        ANN_EPOCH + 1,
        0,
    )
    (fresh,) = [message for message in node.ann.take() if isinstance(message, Resume)]
    claim = node.world.directory.claim_of(fresh.resume)
    assert claim is not None
    assert claim.epoch == ANN_EPOCH + 1


def test_of_two_connections_with_one_epoch_the_one_that_claims_last_and_is_in_no_room_is_to_show_its_client(
    node: Node,
) -> None:
    node.know(ANN_EPOCH)
    for _ in range(2):
        node.repeat()
    assert (node.ann.wire.probes, node.stored, len(node.claims)) == (1, ANN_EPOCH, 1)
    assert (node.ann.take(), node.ann.is_open) == ([], True)


def test_one_whose_client_answers_goes_on_with_a_fresh_token(node: Node) -> None:
    node.know(ANN_EPOCH)
    node.repeat()
    node.ann.session.answer_probe()
    assert (node.ann.session.participant.epoch, node.stored, len(node.claims)) == (
        ANN_EPOCH + 1,
        ANN_EPOCH + 1,
        0,
    )
    assert [type(message) for message in node.ann.take()] == [Resume]


def test_one_that_ends_before_its_client_has_answered_claims_nothing(node: Node) -> None:
    node.know(ANN_EPOCH)
    node.repeat()
    session = node.ann.session
    node.ann.drop(Ending.LOST)
    session.answer_probe()
    assert (node.stored, len(node.claims)) == (ANN_EPOCH, 0)


def test_an_answer_to_what_was_not_asked_claims_nothing(node: Node) -> None:
    node.ann.session.answer_probe()
    node.know(ANN_EPOCH)
    node.repeat()
    assert (node.ann.wire.probes, node.stored) == (1, ANN_EPOCH)


def test_a_connection_in_a_room_outlives_those_that_resumed_with_the_token_that_it_was_resumed_with(
    node: Node,
) -> None:
    node.ann.ask(Join("lobby"))
    for _ in range(2):
        node.shared.claim(node.ann.cid, FRESH_EPOCH, "node-2", "node-2", lambda _: None)
    assert node.stored == ANN_EPOCH + 1
    node.repeat()
    assert (node.ann.is_open, node.ann.session.participant.epoch, node.stored) == (
        True,
        ANN_EPOCH + 2,
        ANN_EPOCH + 2,
    )


def test_a_claim_that_was_carried_out_before_its_answer_was_lost_is_this_connection_s_own(node: Node) -> None:
    node.shared.claim(node.ann.cid, ANN_EPOCH - 1, node.world.node, "node-2", lambda _: None)
    node.repeat()
    assert node.ann.is_open


def test_a_connection_that_was_resumed_elsewhere_since_is_closed_and_claims_nothing(node: Node) -> None:
    node.know(ANN_EPOCH + 1)
    node.repeat()
    assert (node.ann.closed_with, node.stored) == (4010, ANN_EPOCH + 1)


def test_a_claim_that_is_answered_by_an_isolated_node_waits_for_the_next_return(node: Node) -> None:
    answered: list[bool] = []
    node.claims.repeat_claim(node.ann.session, lambda: answered.append(True))
    assert (answered, node.stored, len(node.claims)) == ([True], 0, 1)
    node.repeat()
    assert (node.stored, len(node.claims)) == (ANN_EPOCH, 0)


def test_a_connection_whose_claim_cannot_be_made_goes_on_as_it_is() -> None:
    node = Node(store=Spoilt)
    node.repeat()
    assert (node.ann.session.participant.epoch, len(node.claims)) == (ANN_EPOCH, 0)
    assert (node.ann.take(), node.ann.is_open) == ([], True)


def test_a_claim_that_the_store_has_lost_is_made_again(node: Node) -> None:
    node.repeat()
    node.shared.clear()
    node.claims.compare_memberless(lost=False)
    assert (node.stored, node.ann.session.participant.epoch, node.ann.take()) == (ANN_EPOCH, ANN_EPOCH, [])


def test_a_watcher_that_was_resumed_elsewhere_is_closed_on_return(node: Node) -> None:
    node.repeat()
    node.know(ANN_EPOCH + 1)
    node.claims.compare_memberless(lost=False)
    assert (node.ann.closed_with, node.stored) == (4010, ANN_EPOCH + 1)


def test_a_fresh_connection_claims_nothing_and_a_member_hears_from_its_room(node: Node) -> None:
    bob = node.world.connect("bob")
    assert bob.session.participant.epoch == FRESH_EPOCH
    node.ann.ask(Join("lobby"))
    node.repeat()
    node.shared.clear()
    node.claims.compare_memberless(lost=False)
    node.shared.read_claim(bob.cid, lambda claim: pytest.fail(str(claim)) if claim.epoch else None)
    assert node.stored == 0


def test_a_member_s_claim_that_the_store_has_lost_is_made_again(node: Node) -> None:
    node.ann.ask(Join("lobby"))
    node.repeat()
    node.shared.clear()
    node.claims.compare_memberless(lost=True)
    assert (node.stored, node.ann.session.participant.epoch, node.ann.is_open) == (ANN_EPOCH, ANN_EPOCH, True)


def test_who_resumed_with_the_same_token_after_the_store_had_lost_a_claim_is_the_later(node: Node) -> None:
    node.ann.ask(Join("lobby"))
    node.repeat()
    node.shared.clear()
    node.know(ANN_EPOCH)
    node.claims.compare_memberless(lost=True)
    assert (node.ann.closed_with, node.stored) == (4010, ANN_EPOCH)
    (linger,) = node.world.directory.lingers.of_connection(node.ann.cid)
    assert linger.rooms["lobby"].epoch < ANN_EPOCH, "it must not end the later one's membership"


def test_every_connection_is_compared_a_part_of_them_in_each_sweep(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "COMPARED_MAX", 1)
    node.repeat()
    node.ann.ask(Join("lobby"))  # a later life need not have joined it
    bob = node.world.connect("bob")
    bob.ask(Join("lobby"))
    node.know(ANN_EPOCH + 1)
    node.claims.compare_memberless(lost=False)
    node.claims.compare_all()
    assert (node.ann.closed_with, len(node.claims)) == (None, 2)
    node.claims.compare_next()
    assert (node.ann.closed_with, len(node.claims)) == (4010, 1)
    node.claims.compare_next()
    node.claims.compare_next()
    assert (bob.closed_with, len(node.claims)) == (None, 0)


def test_a_connection_that_is_the_latest_is_noted_again_where_an_earlier_life_was_noted_over_it(
    node: Node,
) -> None:
    node.repeat()
    node.world.registry.closed("ann", node.ann.cid)  # the earlier life's end
    assert node.ann.cid not in str(node.world.registry._users)
    node.claims.compare_all()
    node.claims.compare_next()
    assert node.ann.cid in str(node.world.registry._users)
    assert node.ann.is_open


def test_who_isolated_itself_meanwhile_compares_nothing(node: Node) -> None:
    node.repeat()
    node.know(ANN_EPOCH + 1)
    node.claims.compare_all()
    node.isolated = True
    node.claims.compare_next()
    assert (node.ann.closed_with, len(node.claims)) == (None, 0)
