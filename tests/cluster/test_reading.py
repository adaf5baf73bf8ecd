"""What a node tells of members that come while it reads their room."""

from presence_server.protocol.messages import Diff, Join, Publish, Published, Sync
from tests.simulation.test_world import Recorder
from tests.simulation.world import World


def test_a_message_of_one_who_joins_while_a_room_is_being_read_comes_after_its_join() -> None:
    with World(seed=1, nodes=2, client_delay_ms=(1, 2)) as world:
        world.run_for(500)
        here, there = world.nodes
        bob, cat = Recorder(there, "bob"), Recorder(here, "cat")
        for member in (bob, cat):
            world.run_for(100)
            member.socket.send(Join("hall"))
        world.run_for(3_000)
        there.link.lose_messages(1.0, 60, rooms_only=True)
        dan = Recorder(here, "dan")
        world.run_for(20)
        dan.socket.send(Join("hall"))  # whose join the second node misses
        world.run_for(60)
        there.link.stall(400, "commands")  # a read takes so long
        ann = Recorder(here, "ann")
        world.run_for(20)
        ann.socket.send(Join("hall"))
        world.run_for(60)
        assert [m for m in ann.messages if isinstance(m, Sync)]
        bob.messages.clear()
        ann.socket.send(Publish("hall", "hello"))
        world.run_for(1_500)
        told = [m for m in bob.messages if isinstance(m, Diff | Published | Sync)]
        (message,) = [m for m in told if isinstance(m, Published)]
        before = told[: told.index(message)]
        assert any("ann" in repr(m) for m in before), "it does not know ann when it hears from her"
        assert world.faults == []
