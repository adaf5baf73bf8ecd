"""A member that the store has lost is entered again while its client goes on to change it."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.operations import Enter, Leave, Operation, Outcome
from presence_server.protocol.messages import Join, Ok, Update
from tests.support.world import World

if TYPE_CHECKING:
    from presence_server.presence.roster import Snapshot

ROOM = "lobby"


class LateAnswers(PresenceMemoryStore):
    """A store that carries out at once, and says of members that were entered when it is told to."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.late: list[Callable[[], None]] = []

    def carry_out(self, room: str, operation: Operation, done: Callable[[Outcome], None]) -> None:
        """Carry out one operation."""
        if isinstance(operation, Enter):
            super().carry_out(room, operation, lambda outcome: self.late.append(partial(done, outcome)))
        else:
            super().carry_out(room, operation, done)

    def answer_late(self) -> None:
        """Give the answers that wait."""
        while self.late:
            self.late.pop(0)()


def test_the_answer_to_an_entry_does_not_take_back_an_update_that_followed_it() -> None:
    world = World(shared=True, store_type=LateAnswers)
    store = world.store
    assert isinstance(store, LateAnswers)
    ann = world.connect("ann")
    ann.send(Join(ROOM, {"x": 1}))
    store.answer_late()
    world.settle()
    store.carry_out(ROOM, Leave(ann.cid, 1, "timeout"), lambda _: None)
    ann.send(Update(ROOM, {"x": 2}))
    ann.send(Update(ROOM, {"x": 3}))
    store.answer_late()
    reply = ann.ask(Update(ROOM, {"x": 4}))
    assert isinstance(reply, Ok)
    snapshots: list[Snapshot] = []
    store.snapshot(ROOM, snapshots.append)
    (record,) = snapshots[0].records
    assert (reply.v, record.member.v, bytes(record.member.state)) == (4, 4, b'{"x":4}')
