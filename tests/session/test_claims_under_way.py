"""Claims that the store has not answered yet, and what other nodes say meanwhile."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.port import Claim
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import Join, Resume
from presence_server.session.claims import EpochClaims
from presence_server.session.session import Session
from tests.support.world import Client, World

OTHER = "node-2"
EPOCH = 2
"""Of a connection that was resumed once."""


class SlowStore(PresenceMemoryStore):
    """A store that answers about claims when it is told to; it writes down what it was asked."""

    def __init__(self, world: World) -> None:
        super().__init__(world.bus, world.clock, ttl_ms=30_000, claim_ms=world.presence.resume_ms)
        self.asked: list[tuple[Any, ...]] = []
        self._waiting: list[Callable[[], None]] = []

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
        self.asked.append(("claim", cid, epoch, node, issuer))
        self._waiting.append(partial(super().claim, cid, epoch, node, issuer, done, known=known))

    def read_claim(self, cid: str, done: Callable[[Claim], None]) -> None:
        self.asked.append(("read", cid))
        self._waiting.append(partial(super().read_claim, cid, done))

    def answer(self) -> None:
        """Answer what has waited longest."""
        self._waiting.pop(0)()

    def answer_all(self) -> None:
        while self._waiting:
            self.answer()

    def know(self, cid: str, epoch: int) -> None:
        """Let another node have claimed a connection, with a token of the epoch before."""
        super().claim(cid, epoch - 1, OTHER, OTHER, lambda _: None)


class Node:
    """A node with a connection that was resumed and is confirmed."""

    def __init__(self) -> None:
        self.world = World()
        self.store = SlowStore(self.world)
        self.isolated = False
        self.claims = EpochClaims(
            self.store, self.world.node, self.world.directory._sessions, lambda _: self.isolated
        )
        first = self.world.connect("ann")
        first.drop(Ending.LOST)
        self.ann = self.world.connect("ann", resume=first.resume)
        self.ann.take()
        assert self.session.participant.epoch == EPOCH

    @property
    def session(self) -> Session:
        return self.ann.session

    def repeat(self) -> list[bool]:
        """Repeat the connection's claim, made while isolated; what is returned is filled when that is over."""
        over: list[bool] = []
        self.isolated = True
        self.claims.note_resumed(self.session, self.session.participant.epoch - 1)
        self.isolated = False
        assert self.claims.unconfirmed() == [self.session]
        self.claims.repeat_claim(self.session, lambda: over.append(True))
        return over


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_claim_is_made_for_this_node_and_names_the_issuer(node: Node) -> None:
    node.claims.claim_epoch("c1", 4, OTHER, lambda _: None)
    assert node.store.asked == [("claim", "c1", 4, node.world.node, OTHER)]
    node.store.answer()
    assert len(node.claims) == 0


def test_a_claim_that_is_repeated_names_this_node_as_issuer_and_is_noted_anew(node: Node) -> None:
    over = node.repeat()
    node.world.registry._users.clear()
    node.store.answer_all()
    this = node.world.node
    assert node.store.asked == [("read", node.ann.cid), ("claim", node.ann.cid, EPOCH - 1, this, this)]
    assert (over, len(node.claims)) == ([True], 0)
    assert list(node.world.registry._users["ann"]) == [node.ann.cid]


def test_what_another_node_claims_closes_an_earlier_life_at_once(node: Node) -> None:
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH)
    node.claims.note_claimed_elsewhere("of nobody here", EPOCH + 1)
    assert node.ann.is_open
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH + 1)
    assert node.ann.closed_with == 4010


@pytest.mark.parametrize("heard", [(EPOCH + 2,), (EPOCH + 2, EPOCH), (EPOCH, EPOCH + 2)])
def test_of_what_is_heard_while_a_claim_is_under_way_the_latest_counts_when_it_is_answered(
    node: Node, heard: tuple[int, ...]
) -> None:
    claimed: list[int] = []
    node.claims.claim_epoch(node.ann.cid, EPOCH - 1, OTHER, claimed.append)
    for epoch in heard:
        node.claims.note_claimed_elsewhere(node.ann.cid, epoch)
    assert node.ann.is_open
    node.store.answer()
    assert (claimed, node.ann.closed_with) == ([EPOCH], 4010)


def test_what_is_heard_of_an_earlier_life_while_a_claim_is_under_way_closes_nobody(node: Node) -> None:
    node.claims.claim_epoch(node.ann.cid, EPOCH - 1, OTHER, lambda _: None)
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH)
    node.store.answer()
    assert node.ann.is_open


def test_a_claim_is_under_way_until_the_last_of_a_connection_is_answered(node: Node) -> None:
    for _ in range(2):
        node.claims.claim_epoch(node.ann.cid, EPOCH - 1, OTHER, lambda _: None)
    node.store.answer()
    assert len(node.claims) == 1
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH + 2)
    assert node.ann.is_open
    node.store.answer()
    assert (len(node.claims), node.ann.closed_with) == (0, 4010)


def test_a_claim_whose_tokens_have_ended_closes_the_connection_as_kicked(node: Node) -> None:
    node.store.end_tokens(node.ann.cid, lambda: None)
    over = node.repeat()
    node.store.answer_all()
    assert (over, node.ann.closed_with, len(node.claims)) == ([True], 4003, 0)


@pytest.mark.parametrize("answered", [EPOCH + 3, EPOCH - 1])
def test_a_claim_that_memory_answers_leaves_the_epoch_that_the_token_says_and_is_repeated_again(
    node: Node, answered: int
) -> None:
    over = node.repeat()
    node.store.answer()  # the read
    node.isolated = True
    node.claims._confirm(node.session, lambda: over.append(True), answered)
    assert (over, node.session.participant.epoch, node.ann.take()) == ([True], EPOCH, [])
    assert node.claims.unconfirmed() == [node.session]


def test_who_resumed_with_the_token_of_a_member_is_later_than_it(node: Node) -> None:
    node.ann.ask(Join("lobby"))
    node.store.know(node.ann.cid, EPOCH + 1)
    over = node.repeat()
    node.store.answer_all()
    assert (over, node.ann.closed_with) == ([True], 4010)


def test_a_lost_claim_that_is_made_again_is_repeated_after_an_outage_that_comes_first(node: Node) -> None:
    node.claims.compare_memberless(lost=False)
    node.store.answer()
    assert node.claims.unconfirmed() == [node.session]
    node.isolated = True
    node.store.answer_all()
    assert node.claims.unconfirmed() == [node.session]


def test_a_fresh_member_is_not_compared_since_there_is_no_claim_of_it(node: Node) -> None:
    bob = node.world.connect("bob")
    bob.ask(Join("lobby"))
    node.claims.compare_memberless(lost=True)
    assert node.store.asked == [("read", node.ann.cid)]


@pytest.mark.parametrize("ended", [True, False])
def test_a_comparison_that_comes_too_late_claims_nothing(node: Node, ended: bool) -> None:
    node.claims.compare_memberless(lost=False)
    if ended:
        node.ann.drop(Ending.CLEAN)
    else:
        node.isolated = True
    node.store.answer_all()
    assert node.store.asked == [("read", node.ann.cid)]
    assert len(node.claims) == 0


def test_what_a_comparison_finds_while_a_claim_is_under_way_counts_when_that_is_answered(node: Node) -> None:
    node.store.know(node.ann.cid, EPOCH + 4)
    node.claims.claim_epoch("another", 1, OTHER, lambda _: None)
    node.claims.compare_memberless(lost=False)
    node.claims.claim_epoch(node.ann.cid, EPOCH - 1, OTHER, lambda _: None)
    node.store.answer()
    node.store.answer()  # what was compared
    assert (node.ann.is_open, len(node.claims)) == (True, 1)
    node.store.answer()
    assert (node.ann.closed_with, len(node.claims)) == (4010, 0)


def test_a_connection_whose_own_claim_is_stored_goes_on(node: Node) -> None:
    node.repeat()
    node.store.answer_all()
    node.claims.compare_memberless(lost=True)
    node.store.answer_all()
    assert (node.ann.is_open, node.session.participant.epoch, len(node.claims)) == (True, EPOCH, 0)


@pytest.mark.parametrize("in_a_room", [True, False])
def test_a_later_life_that_is_claimed_while_a_claim_is_being_repeated_goes_on(
    node: Node, in_a_room: bool
) -> None:
    if in_a_room:
        node.ann.ask(Join("lobby"))
    over = node.repeat()
    node.store.answer()  # that nobody has claimed it
    node.store.know(node.ann.cid, EPOCH + 1)
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH + 1)
    node.store.answer_all()
    claims: list[Claim] = []
    PresenceMemoryStore.read_claim(node.store, node.ann.cid, claims.append)
    assert (over, node.ann.closed_with) == ([True], 4010)
    assert [(claim.epoch, claim.node) for claim in claims] == [(EPOCH + 1, OTHER)]


def test_another_life_that_is_claimed_while_a_claim_is_being_repeated_gives_way_where_it_brought_an_earlier_token(
    node: Node,
) -> None:
    node.ann.ask(Join("lobby"))
    over = node.repeat()
    node.store.answer()
    node.store.know(node.ann.cid, EPOCH)  # by the same token
    node.claims.note_claimed_elsewhere(node.ann.cid, EPOCH)
    node.store.answer_all()
    assert (over, node.ann.is_open, node.session.participant.epoch, len(node.claims)) == (
        [True],
        True,
        EPOCH + 1,
        0,
    )


class OvertakenStore(PresenceMemoryStore):
    """A store that answers a claim after what is done meanwhile."""

    meanwhile: Callable[[], None] | None = None

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
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        super().claim(cid, epoch, node, issuer, done, known=known)


def test_a_resume_that_is_answered_after_a_later_one_does_not_replace_it() -> None:
    world = World()
    store = OvertakenStore(world.bus, world.clock, ttl_ms=30_000, claim_ms=world.presence.resume_ms)
    world.directory.claims._store = store
    first = world.connect("ann")
    first.drop(Ending.LOST)
    later: list[Client] = []
    store.meanwhile = lambda: later.append(world.connect("ann", resume=first.resume))
    given_up = world.connect("ann", resume=first.resume)
    (ann,) = later
    world.settle()
    assert (ann.cid, ann.is_open) == (first.cid, True)
    assert given_up.cid != first.cid
    claims: list[Claim] = []
    store.read_claim(ann.cid, claims.append)
    assert [claim.epoch for claim in claims] == [ann.session.participant.epoch]
    assert len(ann.take_only(Resume)) == 1
