"""One room with many members, and somebody outside of it who publishes to them."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.load import Connection, Crowd, LoadError, room_name
from bench.processes import Measured

MEMBERS = 1_000
MESSAGE_BYTES = 120
"""The published document; what is delivered is longer by its envelope."""
PUBLISH = b'{"t":"publish","id":7,"room":"%s","data":"%s"}' % (room_name(0), b"m" * (MESSAGE_BYTES - 2))


class Room:
    """Members that wait for messages. `frame_bytes` is what one delivery puts on the wire."""

    def __init__(self, node: Measured, members: Crowd, publisher: Connection) -> None:
        self.node = node
        self.members = members
        self._publisher = publisher
        publisher.send(PUBLISH)
        self._publisher.receive_texts(1)
        self.frame_bytes, odd = divmod(members.settle(), len(members))
        if odd:
            raise LoadError("not every member got the same")

    def publish(self, messages: int, times: int) -> int:
        """Publish `messages` at once, `times` one after the other; return the node's CPU time in ns."""
        begin_ns = self.node.cpu_ns()
        for _ in range(times):
            self._publisher.send(*[PUBLISH] * messages)
            self.members.count(messages, self.frame_bytes)
            self._publisher.receive_texts(messages)
        return self.node.cpu_ns() - begin_ns


@contextmanager
def room(node: Measured) -> Iterator[Room]:
    """Fill a room with `MEMBERS`, in the default mode; the publisher only watches it, in mode none."""
    with Crowd() as members:
        members.join(node, MEMBERS, MEMBERS)
        publisher = Connection(node)
        publisher.upgrade(node, "publisher")
        publisher.send(b'{"t":"watch","id":1,"room":"%s","mode":"none"}' % room_name(0))
        publisher.receive_marked(b'"t":"sync"')
        yield Room(node, members, publisher)
        publisher.close()
