"""Many clients in one room, through a proxy or not, each with when it was lost and back, and what it was told."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any, Final

import anyio

from presence_server.client import (
    Client,
    ClientError,
    Connected,
    Disconnected,
    Event,
    Joined,
    Left,
    Message,
    Overflow,
    Room,
    Synced,
    connect,
)
from presence_server.client.mailbox import Mailbox
from tests.support.waiting import until

ROOM: Final = "lobby"
AT_A_TIME: Final = 32
"""Clients that come in at the same time."""
DEADLINE_S: Final = 60
EVENTS_MAX: Final = 10_000


class Guest:
    """One client. Times are of the monotonic clock, in seconds."""

    def __init__(self, client: Client, room: Room) -> None:
        self.client = client
        self.room = room
        self.cid = client.cid
        self.lost_s: list[float] = []
        self.back_s: list[float] = []
        """When the room's roster was complete again."""
        self.failed_attempts = 0
        """Attempts to come back that brought no connection."""
        self.resumed: list[bool] = []
        self.heard: set[Any] = set()
        """The data of messages."""
        self.changes: list[Event] = []
        """Joins and leaves that it was told of, and what it missed."""

    @property
    def is_back(self) -> bool:
        """Whether it is in the room, and knows all of it."""
        return len(self.back_s) >= len(self.lost_s) and self.client.connected and not self.room.stale

    @property
    def gaps_s(self) -> list[float]:
        """How long it was away, each time."""
        return [back - lost for lost, back in zip(self.lost_s, self.back_s, strict=True)]

    def forget(self) -> None:
        """Begin anew: what has happened so far does not count."""
        for events in (self.lost_s, self.back_s, self.resumed, self.changes):
            events.clear()
        self.failed_attempts = 0

    @property
    def knows(self) -> int:
        """How many members it knows of, everything taken; 0 while something is not."""
        mailbox = aiter(self.client)
        assert isinstance(mailbox, Mailbox)
        members = len(self.room.members)
        return members if members == self.room.count and not mailbox else 0

    async def listen(self) -> None:
        """Note everything that happens."""
        async for event in self.client:
            match event:
                case Disconnected():
                    if len(self.lost_s) == len(self.back_s):
                        self.lost_s.append(time.monotonic())
                    else:
                        self.failed_attempts += 1
                case Connected():
                    self.resumed.append(event.resumed)
                case Synced():
                    if len(self.back_s) < len(self.lost_s):
                        self.back_s.append(time.monotonic())
                case Message():
                    self.heard.add(event.data)
                case Joined() | Left() | Overflow():
                    self.changes.append(event)
                case _:
                    pass


@asynccontextmanager
async def guests(
    url: str,
    users: Sequence[str],
    *,
    token: Callable[[str], str] | None = None,
    tls: SSLContext | None = None,
) -> AsyncIterator[list[Guest]]:
    """Let users in, and return when everybody knows everybody. `token(user)` are a user's credentials."""
    connected: list[Client] = []
    complete = anyio.Event()
    found: list[Guest] = []
    turns = anyio.Semaphore(AT_A_TIME)

    async def come(user: str) -> None:
        name = {"user": user} if token is None else {"token": token(user)}
        await turns.acquire()
        async with connect(url, ssl=tls, events_max=EVENTS_MAX, **name) as client:  # type: ignore[arg-type]  # by name
            turns.release()
            connected.append(client)
            if len(connected) == len(users):
                complete.set()
            await complete.wait()  # many joins at once are few diffs
            guest = Guest(client, await client.join(ROOM))
            found.append(guest)
            await guest.listen()

    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(come, user)
        await until(
            lambda: len(found) == len(users) and all(guest.knows == len(users) for guest in found),
            lambda: len(found),
            DEADLINE_S,
        )
        for guest in found:
            guest.forget()
        yield found
        tasks.cancel_scope.cancel()


class Chatter:
    """Messages that guests send in turn while something happens, and who sent which."""

    def __init__(self, speakers: Sequence[Guest], every_s: float) -> None:
        self._speakers = speakers
        self._every_s = every_s
        self.sent: dict[int, Guest] = {}
        """What has been acknowledged."""

    async def run(self) -> None:
        """Send until cancelled; who is not connected just now is left out."""
        number = 0
        while True:
            number += 1
            speaker = self._speakers[number % len(self._speakers)]
            with suppress(ClientError):
                await speaker.room.publish(number)
                self.sent[number] = speaker
            await anyio.sleep(self._every_s)
