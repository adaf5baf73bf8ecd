"""A cluster on virtual time: two clients see each other, and the same seed is the same run."""

from typing import TYPE_CHECKING

import pytest

from presence_server.protocol.messages import Diff, Join, Publish, Published, ServerMessage, Sync
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.nodes import SimulatedNode
    from tests.simulation.sockets import Socket


class Recorder:
    """A client that keeps what it is told."""

    def __init__(self, node: "SimulatedNode", user: str, *, resume: str | None = None) -> None:
        self.messages: list[ServerMessage] = []
        self.codes: list[int] = []
        self.user = user
        self._world = node.world
        self.socket: Socket = node.connect(user, self, resume=resume)

    def received(self, messages: tuple[ServerMessage, ...]) -> None:
        self.messages += messages
        for message in messages:
            self._world.note(self.user, repr(message))

    def closed(self, code: int) -> None:
        self.codes.append(code)
        self._world.note(self.user, f"closed with {code}")

    def names(self) -> set[str]:
        """Return the users that it has been told of, by the last sync and the diffs after it."""
        members: dict[str, str] = {}
        for message in self.messages:
            if isinstance(message, Sync):
                members = {member["cid"]: member["user"] for member in message.members}
            elif isinstance(message, Diff):
                members |= {member.cid: member.user for member in message.joins}
                for leave in message.leaves:
                    del members[leave.cid]
        return set(members.values())


def test_two_clients_on_two_nodes_see_each_other() -> None:
    with World(seed=1) as world:
        world.run_for(500)
        assert [node.has_contact for node in world.nodes] == [True] * 3
        ann, bob = Recorder(world.nodes[0], "ann"), Recorder(world.nodes[1], "bob")
        ann.socket.send(Join("lobby"))
        bob.socket.send(Join("lobby"))
        world.run_for(1_000)
        assert ann.names() == bob.names() == {"ann", "bob"}
        ann.socket.send(Publish("lobby", "hello"))
        world.run_for(1_000)
        (published,) = [message for message in bob.messages if isinstance(message, Published)]
        assert published.data == "hello"
        assert {record.member.user for record in world.store.roster("lobby").values()} == {"ann", "bob"}
        bob.socket.close()
        world.run_for(world.settings.presence.grace_clean_ms + 500)
        assert ann.names() == {"ann"}
        assert world.faults == []


@pytest.mark.parametrize("command", [("EVAL", "return 1", 0), ("GETDEL", "key")], ids=["script", "command"])
def test_what_the_simulated_store_lacks_is_not_passed_over(command: tuple[str | int, ...]) -> None:
    with World(seed=1) as world, pytest.raises(NotImplementedError, match="the simulated store"):
        world.store.run(command)
