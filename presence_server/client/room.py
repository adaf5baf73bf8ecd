"""One room as an application sees it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from presence_server.client.errors import RequestFailed
from presence_server.client.events import Event, Users
from presence_server.client.mailbox import Mailbox
from presence_server.client.reconnector import Reconnector
from presence_server.client.subscription import Subscription
from presence_server.protocol.codec import check_document
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Leave, Member, Mode, Ok, Publish, SendSignal, Update


class Room:
    """A room that this client joined or watches.

    It stays the same over reconnects. What it knows of the roster is changed by messages only, between two
    `await`s of the reader: it never changes under code that does not wait.

    Iterating gives the room's events, each once: an iteration goes on where the last one stopped, and ends
    when the room is left, the client is removed from it, or the client closed. For several consumers, each with
    every event, there is `events`.
    """

    def __init__(self, reconnector: Reconnector, subscription: Subscription) -> None:
        self._reconnector = reconnector
        self._subscription = subscription
        self._roster = subscription.roster

    @property
    def name(self) -> str:
        """The room's name."""
        return self._subscription.room

    @property
    def members(self) -> Mapping[str, Member]:
        """The members by cid: a live, read-only view, empty unless `mode` is `full`."""
        return self._roster.members

    @property
    def users(self) -> Users:
        """The users by name, each with all of its connections: a live, read-only view like `members`."""
        return self._roster.users

    @property
    def me(self) -> Member | None:
        """The own entry in the roster; None for who only watches."""
        return self._roster.members.get(self._reconnector.cid)

    @property
    def count(self) -> int:
        """The number of members (connections) that the server counts; right in the modes `full` and `count`."""
        return self._roster.count

    @property
    def user_count(self) -> int:
        """The number of distinct users that the server counts."""
        return self._roster.user_count

    @property
    def stale(self) -> bool:
        """Whether the roster may be out of date: no connection, or the server said so."""
        return self._subscription.stale or not self._subscription.current

    @property
    def mode(self) -> Mode:
        """The mode in which the server sends the roster now; it may lower `full` to `count` in a big room."""
        return self._roster.mode or "none"

    @property
    def seq(self) -> int:
        """The number of the last change; it may jump, up or down, at a `Synced`."""
        return self._roster.seq

    @property
    def state(self) -> Mapping[str, Any] | None:
        """The own state as asked for last and not refused: what a reconnect announces."""
        return self._subscription.state

    async def update(self, state: dict[str, Any], *, if_version: int | None = None) -> int:
        """Replace this member's whole state; return its new version.

        With `if_version` it succeeds only at that version, else `RequestFailed` with code `conflict` and the
        present version as `v`. After `ConnectionLost` the state still counts as wanted: the reconnect
        announces it. Raises `ValueError` for what JSON cannot say.
        """
        check_document(state)
        self._subscription.state = state
        message = Update(self.name, state, if_version)
        try:
            reply = await self._request(message)
        except RequestFailed:
            self._subscription.refuse(state)
            raise
        self._subscription.acknowledge(state)
        return reply.v if isinstance(reply.v, int) else 0

    async def publish(self, data: Any) -> int:
        """Send `data` to everybody else in the room, at most once; return when, in ms since 1970.

        `ConnectionLost` means that it may have been sent or not; it is not sent again.
        """
        check_document(data)
        reply = await self._request(Publish(self.name, data))
        return reply.at if isinstance(reply.at, int) else 0

    async def signal(self, key: str, data: Any) -> None:
        """Send a transient value to everybody else: the latest of each `key` counts, any may be lost.

        Returns once it is on its way; a refusal is not reported. Raises `ConnectionLost` where there is no
        connection.
        """
        check_document(data)
        link = self._reconnector.present_link()
        await self._subscription.until_entered()
        await link.send(SendSignal(self.name, key, data))

    async def leave(self) -> None:
        """Stop being a member and a watcher; iterations end.

        Without a connection this returns at once, and the server ends the membership when the grace period is
        over; so it does after `ConnectionLost`.
        """
        link = self._reconnector.link
        self._reconnector.subscriptions.forget(self._subscription)
        if link is not None:
            try:
                await link.request(Leave(self.name), Ok)
            except RequestFailed as refusal:
                if refusal.code != ErrorCode.NOT_JOINED:
                    raise

    def events(self) -> AbstractContextManager[Mailbox]:
        """Open a queue for one more consumer: `with room.events() as events: async for event in events`."""
        return self._subscription.events.open()

    async def _request(self, message: Update | Publish) -> Ok:
        # Right after a reconnect the server does not know yet that this client is in the room.
        link = self._reconnector.present_link()
        await self._subscription.until_entered()
        return await link.request(message, Ok)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._subscription.events.main

    def __repr__(self) -> str:
        return f"<Room {self.name!r}: {self.count} members>"
