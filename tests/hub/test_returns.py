"""Clients that come back to a process that has been restarted hear of each other once, not one by one."""

from presence_server.hub.window import RETURN_MS, RETURN_QUIET_MS
from presence_server.protocol.messages import Diff, Join, Publish, Published, Sync
from tests.support.world import Client, World

BEFORE = "a token of the process before"


def returning(world: World, many: int, every_ms: int) -> list[Client]:
    """Let clients come back and join, one after the other."""
    clients = []
    for i in range(many):
        clients.append(world.connect(f"user-{i}", resume=BEFORE))
        clients[-1].send(Join("lobby"))
        world.pass_ms(every_ms)
    return clients


def test_everybody_who_returns_gets_one_sync_with_everybody() -> None:
    world = World()
    clients = returning(world, 20, every_ms=100)
    assert [client.take() for client in clients] == [[]] * 20
    world.pass_ms(RETURN_QUIET_MS)
    for client in clients:
        (sync,) = client.take()
        assert isinstance(sync, Sync)
        assert len(sync.members) == 20


def test_who_returns_alone_waits_for_a_moment_only() -> None:
    world = World()
    (client,) = returning(world, 1, every_ms=RETURN_QUIET_MS - 10)
    assert client.take() == []
    world.pass_ms(10)
    assert [type(message) for message in client.take()] == [Sync]


def test_nobody_waits_for_ever_while_others_return() -> None:
    world = World()
    step_ms = RETURN_QUIET_MS - 100
    clients = returning(world, RETURN_MS // step_ms + 1, every_ms=step_ms)
    assert [type(message) for message in clients[0].take_only(Sync)] == [Sync]
    late = world.connect("late", resume=BEFORE)
    assert isinstance(late.ask(Join("lobby")), Sync)
    assert [len(diff.joins) for diff in clients[0].take_only(Diff)][-1:] == [1]


def test_a_message_is_not_held_back_and_brings_the_roster_before_it() -> None:
    world = World()
    ann, bob = returning(world, 2, every_ms=10)
    ann.send(Publish("lobby", "hello"))
    world.pass_ms(0)
    assert [type(message) for message in bob.take()] == [Sync, Published]


def test_who_is_new_does_not_wait() -> None:
    world = World()
    assert isinstance(world.connect("new").ask(Join("lobby")), Sync)


def test_nobody_is_awaited_once_their_grace_is_over() -> None:
    world = World()
    world.pass_ms(world.presence.grace_lost_ms)
    assert isinstance(world.connect("old", resume=BEFORE).ask(Join("lobby")), Sync)


def test_with_a_shared_store_nobody_waits_since_nothing_was_forgotten() -> None:
    world = World(shared=True)
    assert isinstance(world.connect("ann", resume=BEFORE).ask(Join("lobby")), Sync)


def test_a_token_of_this_process_awaits_nobody() -> None:
    world = World()
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.drop()
    assert isinstance(world.connect("ann", resume=ann.resume).ask(Join("lobby")), Sync)
