"""Bounded queues of events between the one task that reads the socket and those that take events.

Putting never waits, so a slow consumer cannot stop the reading. What a consumer does not take in time:

- A signal replaces one of the same member and key that was not taken yet: latest wins.
- A full queue drops its oldest signal, silently: signals may be lost.
- A full queue without signals drops its oldest event, and the consumer's next event is an `Overflow` that
  says how many.

The roster loses nothing by that: it is state, kept apart from the queue.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count

import anyio

from presence_server.client.errors import ClientError
from presence_server.client.events import Event, Overflow, Signal

EVENTS_MAX = 1024
"""The default bound on the events that wait in one queue."""


class Mailbox(AsyncIterator[Event]):
    """A queue of at most `events_max` events.

    Iterating ends when it is closed and empty, by raising the error that it was closed with if there was one.
    """

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._events: dict[int, Event] = {}
        self._signals: dict[tuple[str, str, str], int] = {}
        self._numbers = count()
        self._dropped = 0
        self._closed = False
        self._error: ClientError | None = None
        self._wakeup = anyio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put_event(self, event: Event) -> None:
        """Add an event, at the cost of older ones if the queue is full; nothing after `close`."""
        if self._closed:
            return
        number = next(self._numbers)
        if isinstance(event, Signal):
            key = (event.room, event.cid, event.key)
            self._events.pop(self._signals.pop(key, -1), None)
            self._signals[key] = number
        self._events[number] = event
        if len(self._events) > self._events_max:
            self._drop_one()
        self._wakeup.set()

    def close(self, error: ClientError | None = None) -> None:
        """Take no more events; those that wait can still be taken."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wakeup.set()

    def take_event(self) -> Event | None:
        """Return the next event without waiting, None if there is none."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return Overflow(dropped)
        if not self._events:
            return None
        number = next(iter(self._events))
        event = self._events.pop(number)
        if isinstance(event, Signal):
            del self._signals[event.room, event.cid, event.key]
        return event

    async def __anext__(self) -> Event:
        while True:
            event = self.take_event()
            if event is not None:
                return event
            if self._closed:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            await self._wakeup.wait()

    def _drop_one(self) -> None:
        if self._signals:
            key = next(iter(self._signals))
            del self._events[self._signals.pop(key)]
        else:
            del self._events[next(iter(self._events))]
            self._dropped += 1


class Events:
    """One source of events with any number of queues.

    `main` is there from the start, so nothing is missed between a join and the first iteration.
    """

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self.main = Mailbox(events_max)
        self._mailboxes = [self.main]

    def put(self, event: Event) -> None:
        """Add an event to every queue."""
        for mailbox in self._mailboxes:
            mailbox.put_event(event)

    def close(self, error: ClientError | None = None) -> None:
        """Close every queue."""
        for mailbox in self._mailboxes:
            mailbox.close(error)

    @contextmanager
    def open(self) -> Iterator[Mailbox]:
        """Open one more queue: it gets every event from now to the end of the `with` block."""
        mailbox = Mailbox(self._events_max)
        self._mailboxes.append(mailbox)
        try:
            yield mailbox
        finally:
            self._mailboxes.remove(mailbox)
