"""A client's subscription to one room, which outlives connections, and what it knows of the room."""

from typing import Any

import anyio

from presence_server.client.errors import ClientError, ConnectionLost
from presence_server.client.events import Counted, Event, Message, Signal, StaleChanged
from presence_server.client.mailbox import Events
from presence_server.client.message_codec import RosterPage, RosterSync
from presence_server.client.roster import ClientRoster
from presence_server.protocol import messages
from presence_server.protocol.messages import Count, Diff, Join, Mode, Published, Stale, Watch

RoomMessage = RosterSync | RosterPage | Diff | Count | Published | messages.Signal | Stale
State = dict[str, Any]


class Subscription:
    """One room of one client.

    `joining` says whether it wants to be a member or only to watch; `state` is what it asked for last and
    was not refused. `entered` is false from the loss of a connection to the answer to the next join, and
    `current` to the end of the roster that begins with it. `syncs` counts the rosters that were begun, so
    that a page can be told from one of an older roster.
    """

    mode: Mode | None

    def __init__(self, room: str, events_max: int) -> None:
        self.room = room
        self.roster = ClientRoster(room)
        self.events = Events(events_max)
        self.joining = False
        self.mode = None
        self.state: State | None = None
        self.entered = False
        self.current = False
        self.stale = False
        self.kicked = False
        """Whether this client has heard that it was kicked, but not yet whether from the room or altogether."""
        self.syncs = 0
        self._losses = 0
        self._acknowledged: State | None = None
        self._ended: ClientError | None = None
        self._changed = anyio.Event()

    def request(self) -> Join | Watch:
        """Return what to send to be in the room as wanted."""
        return Join(self.room, self.state, self.mode) if self.joining else Watch(self.room, self.mode)

    def acknowledge(self, state: State | None) -> None:
        """Note that the server took `state`."""
        if state is not None:
            self._acknowledged = state

    def refuse(self, state: State | None) -> None:
        """Note that `state` was refused: the last good one counts, unless a newer one is on its way."""
        if self.state is state:
            self.state = self._acknowledged

    def apply_message(self, message: RoomMessage, own_cid: str) -> list[Event]:
        """Apply a message about the room; return what happened by it."""
        events: list[Event] = []
        match message:
            case RosterSync():
                self.syncs += 1
                self.entered = True
                self.kicked = False
                events += self._freshness(stale=message.stale)
                events += self.roster.sync(message)
            case RosterPage():
                events += self.roster.page(message.members, last=False)
            case Diff():
                events += self.roster.diff(message)
                if any(leave.cid == own_cid and leave.reason == "kicked" for leave in message.leaves):
                    self.kicked = True
            case Count():
                self.roster.recount(message)
                events.append(Counted(self.room, message.count, message.users))
            case Published():
                events.append(Message(self.room, message.cid, message.user, message.data, message.at))
            case messages.Signal():
                events.append(Signal(self.room, message.cid, message.user, message.key, message.data))
            case Stale():
                events += self._freshness(stale=message.stale)
        self._note()
        return events

    def finish(self) -> list[Event]:
        """Note that the last page of the present roster is in; return what happened by it."""
        events: list[Event] = [*self.roster.page((), last=True)]
        self._note()
        return events

    def disconnect(self) -> None:
        """Note that nothing will come until the room is entered again."""
        self.entered = self.current = False
        self._losses += 1
        self._changed.set()

    def end(self, error: ClientError, *, quietly: bool) -> None:
        """Expect nothing more; iterations end, by raising `error` unless `quietly`. Only once."""
        if self._ended is not None:
            return
        self._ended = error
        self.entered = self.current = False
        self.events.close(None if quietly else error)
        self._changed.set()

    async def complete(self) -> None:
        """Wait until the roster is complete; raises the error that the subscription ended with."""
        while not self.current:
            await self._change()

    async def until_entered(self) -> None:
        """Wait until the server has this client in the room; raises `ConnectionLost` at the next loss."""
        losses = self._losses
        while not self.entered:
            await self._change()
            if self._losses != losses:
                raise ConnectionLost("the connection ended")

    async def _change(self) -> None:
        if self._ended is not None:
            raise self._ended
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def _note(self) -> None:
        if self.entered:
            self.current = self.roster.complete
            self._changed.set()

    def _freshness(self, *, stale: bool) -> list[Event]:
        if stale == self.stale:
            return []
        self.stale = stale
        return [StaleChanged(self.room, stale)]
