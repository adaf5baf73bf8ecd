"""A tick writes for a bounded time; what it had no time for is written later, in order, and nobody is starved."""

import pytest

from presence_server.config.settings import LimitsSettings
from presence_server.hub.backlog import FLUSH_S
from presence_server.protocol import codes
from presence_server.protocol.messages import (
    Diff,
    Join,
    Ok,
    Ping,
    Pong,
    Publish,
    Published,
    Sync,
    Update,
    Watch,
)
from tests.support.world import Client, World

LARGE = "x" * 15_000
MANY = 40
WRITE_S = 0.001
"""How long a write takes on the clock of these tests."""


class Slow:
    """A world in which each write takes a millisecond."""

    def __init__(self, limits: LimitsSettings | None = None) -> None:
        self.clients: list[Client] = []
        self.standing = False
        """Whether the clock stands still."""
        self.world = World(limits=limits, now_s=self._now_s)

    def _now_s(self) -> float:
        return 0.0 if self.standing else self.writes * WRITE_S

    @property
    def writes(self) -> int:
        """How often anything was written."""
        return sum(client.wire.writes for client in self.clients)

    def join(self, room: str, number: int) -> list[Client]:
        """Connect clients that are in a room, and have heard of each other."""
        clients = [self.world.connect(f"{room}-{n}") for n in range(number)]
        self.clients += clients
        for client in clients:
            client.send(Join(room))
        self.world.settle()
        for client in clients:
            client.take()
        return clients


def heard(client: Client) -> list[object]:
    """Return the numbers of the messages that have arrived since the last call."""
    messages = client.wire.take()
    return [message.data[0] for message in messages if isinstance(message, Published)]


def test_a_tick_writes_for_a_bounded_time_and_the_next_ones_write_the_rest() -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    writes = slow.writes
    clients[0].send(Publish("lobby", [1, LARGE]))
    slow.world.tick()
    first = slow.writes - writes
    assert 0 < first <= FLUSH_S / WRITE_S + 4
    while slow.writes < writes + MANY - 1:
        before = slow.writes
        slow.world.tick()
        assert 0 < slow.writes - before <= FLUSH_S / WRITE_S + 4
    assert [heard(client) for client in clients[1:]] == [[1]] * (MANY - 1)


def test_one_fan_out_takes_one_tick_when_there_is_time() -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    slow.standing = True
    writes = slow.writes
    clients[0].send(Publish("lobby", [1, LARGE]))
    slow.world.tick()
    assert slow.writes - writes == MANY - 1
    assert not slow.world.hub.backlog


def test_what_was_carried_comes_before_what_was_gathered_later() -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    for number in range(4):
        clients[0].send(Publish("lobby", [number, "short"], id=number))
        clients[-1].send(Update("lobby", {"n": number}))
        slow.world.tick()
    slow.world.settle()
    for client in clients[1:-1]:
        messages = client.wire.take()
        assert [m.data[0] for m in messages if isinstance(m, Published)] == [0, 1, 2, 3]
        versions = [update.v for m in messages if isinstance(m, Diff) for update in m.updates]
        assert versions == sorted(versions)
        assert versions[-1] == 5
    assert [m.id for m in clients[0].wire.take() if isinstance(m, Ok)] == [0, 1, 2, 3]


def test_a_short_answer_does_not_wait_for_long_outboxes_of_others() -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    (bystander,) = slow.join("elsewhere", 1)
    clients[0].send(*(Publish("lobby", [number, LARGE]) for number in range(3)))
    slow.world.tick()
    assert len(slow.world.hub.backlog) > MANY / 2
    for number in range(3):
        bystander.send(Ping(id=number))
        slow.world.tick()
        assert [m.id for m in bystander.wire.take() if isinstance(m, Pong)] == [number]
        assert slow.world.hub.backlog


def test_long_outboxes_are_written_however_many_short_ones_there_are() -> None:
    slow = Slow()
    large, small = slow.join("lobby", MANY), slow.join("elsewhere", 2 * MANY)
    large[0].send(*(Publish("lobby", [number, LARGE]) for number in range(3)))
    slow.world.tick()
    carried = [client for client in large if client.outbox.carried_bytes]
    assert carried
    for _ in carried:
        for client in small:
            client.send(Ping())
        slow.world.tick()
    assert not any(client.outbox.carried_bytes for client in carried)
    slow.world.settle()
    assert all(len(client.take_only(Pong)) == len(carried) for client in small)


def test_who_has_much_carried_is_behind_until_it_is_written() -> None:
    slow = Slow(LimitsSettings(outbox_soft_bytes=65_536))
    clients = slow.join("lobby", MANY)
    clients[0].send(*(Publish("lobby", [number, LARGE]) for number in range(5)))
    slow.world.tick()
    carried = [client for client in clients if client.outbox.carried_bytes]
    assert carried
    assert all(client.outbox.behind for client in carried)
    clients[0].send(Update("lobby", {"n": 1}), Publish("lobby", [5, "short"]))
    slow.world.settle()
    for client in carried:
        assert not client.outbox.behind
        assert client.wire.heard_again
        messages = client.wire.take()
        assert [m.data[0] for m in messages if isinstance(m, Published)] == [0, 1, 2, 3, 4, 5]
        assert isinstance(messages[-2], Sync)


def test_what_is_carried_counts_for_the_node_once() -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    total = slow.world.hub._total
    before = total.estimated_bytes
    clients[0].send(Publish("lobby", [1, LARGE]))
    slow.world.tick()
    carried_bytes = slow.world.hub.unsent_bytes
    assert carried_bytes > MANY / 2 * len(LARGE)
    counted = total.estimated_bytes - before
    assert counted >= (MANY - 1) * len(LARGE)
    slow.world.settle()
    assert total.estimated_bytes - before == counted
    assert slow.world.hub.unsent_bytes == 0


def test_beyond_the_nodes_limit_who_has_most_carried_is_closed() -> None:
    slow = Slow(LimitsSettings(outbox_total_bytes=2_097_152))
    clients = slow.join("lobby", MANY)
    clients[0].send(*(Publish("lobby", [number, LARGE]) for number in range(8)))
    slow.world.tick()
    closed = {client.closed_with for client in clients} - {None}
    assert closed == {codes.TOO_SLOW.code}
    assert slow.world.hub.unsent_bytes <= 2_097_152


@pytest.mark.parametrize("drops", [True, False])
def test_who_goes_while_its_outbox_is_carried_leaves_nothing_behind(drops: bool) -> None:
    slow = Slow()
    clients = slow.join("lobby", MANY)
    clients[0].send(Publish("lobby", [1, LARGE]))
    slow.world.tick()
    gone = next(client for client in clients if client.outbox.carried_bytes)
    if drops:
        gone.drop()
    else:
        gone.send(Watch("lobby", "none"))
        gone.session.close(codes.KICKED)
    assert heard(gone) == [1]
    for client in clients:
        client.drop()
    slow.world.outlive_everything()
    assert slow.world.leftovers() == {}
