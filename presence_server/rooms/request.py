"""A request in hand: whose it is, which room it is about, and how it is answered."""

from presence_server.errors import RequestError
from presence_server.protocol.messages import Ok
from presence_server.rooms.participant import Participant


class Request:
    """One message of a client, until it is answered.

    With an `id` it has exactly one reply, which has the same `id`. Without one it gets no `ok`, and errors have none.
    """

    __slots__ = ("id", "participant")

    def __init__(self, participant: Participant, request_id: int | None) -> None:
        self.participant = participant
        self.id = request_id

    def ok(self, *, v: int | None = None, at: int | None = None) -> None:
        """Reply that it was carried out."""
        if self.id is not None:
            self.participant.outbox.send_message(Ok(self.id, v, at))

    def refuse(self, error: RequestError) -> None:
        """Reply that it is refused."""
        self.participant.refuse(error, self.id)


class RoomRequest(Request):
    """A request about one room."""

    __slots__ = ("room",)

    def __init__(self, participant: Participant, request_id: int | None, room: str) -> None:
        super().__init__(participant, request_id)
        self.room = room
