"""The rooms that a client is in: sorts messages to them, enters them again, completes their rosters."""

import logging
import random
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from presence_server.client.errors import ClientClosed, ClientError, RequestFailed
from presence_server.client.events import Event, Removed, RoomLost
from presence_server.client.mailbox import Events
from presence_server.client.message_codec import RosterPage, RosterSync
from presence_server.client.reconnect_backoff import jittered
from presence_server.client.subscription import RoomMessage, Subscription
from presence_server.client.websocket_link import WebSocketLink
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import Leave, Members, RemovalReason

REENTRIES_IN_FLIGHT = 4
"""Rooms entered again at the same time after a reconnect: the server closes connections that are throttled often."""
RETRY_MIN_S = 0.25
TRANSIENT = frozenset({ErrorCode.THROTTLED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL})
"""Refusals after which the client asks again by itself, where nobody waits for the answer."""

log = logging.getLogger(__name__)


class Subscriptions:
    """Every subscription of one client, by room. Events go to the room's queues and to the client's."""

    def __init__(self, events: Events, events_max: int, tasks: TaskGroup) -> None:
        self._events = events
        self._events_max = events_max
        self._tasks = tasks
        self._subscriptions: dict[str, Subscription] = {}

    def get(self, room: str) -> Subscription | None:
        """Return the subscription of `room`, if there is one."""
        return self._subscriptions.get(room)

    def add(self, room: str) -> Subscription:
        """Return a new subscription of `room`."""
        subscription = self._subscriptions[room] = Subscription(room, self._events_max)
        return subscription

    def forget(self, subscription: Subscription, link: WebSocketLink | None = None) -> None:
        """Drop a subscription: its iterations end. With `link`, tell the server in the background."""
        wanted = self._is_wanted(subscription)
        if wanted:
            del self._subscriptions[subscription.room]
        subscription.end(ClientClosed(f"left {subscription.room}"), quietly=True)
        if link is not None and wanted:
            self._tasks.start_soon(_leave, link, subscription.room)

    def remove(self, room: str, reason: RemovalReason) -> None:
        """Drop the subscription of a room that this client was taken out of."""
        subscription = self._subscriptions.get(room)
        if subscription is not None:
            self._emit(subscription, [Removed(room, reason)])
            removal = RequestFailed(ErrorCode.FORBIDDEN, f"removed from {room}: {reason}")
            subscription.end(removal, quietly=True)
            self.forget(subscription)

    def enter_all(self, link: WebSocketLink) -> None:
        """Enter every room that was entered before over a new connection; the others have somebody wait."""
        turns = anyio.Semaphore(REENTRIES_IN_FLIGHT)
        for subscription in list(self._subscriptions.values()):
            if subscription.kicked:  # the connection was lost before the room's last message came
                self.remove(subscription.room, "kicked")
            elif subscription.syncs:
                self._tasks.start_soon(self._reenter, link, subscription, turns)

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        for subscription in self._subscriptions.values():
            subscription.disconnect()

    def end(self, error: ClientError, *, quietly: bool) -> None:
        """End every subscription."""
        for subscription in self._subscriptions.values():
            subscription.end(error, quietly=quietly)

    def dispatch_message(self, link: WebSocketLink, room: str, message: RoomMessage, own_cid: str) -> None:
        """Apply a message, announce what happened by it, and hand it to the request that it answers."""
        subscription = self._subscriptions.get(room)
        if subscription is not None:
            self._emit(subscription, subscription.apply_message(message, own_cid))
            if isinstance(message, RosterSync) and message.cursor is not None:
                self._tasks.start_soon(self._fetch_rest, link, subscription, message.cursor)
        elif isinstance(message, RosterSync):  # the answer to a join whose caller was cancelled meanwhile
            self._tasks.start_soon(_leave, link, room)
        if isinstance(message, RosterSync | RosterPage):
            link.reply(message)

    async def enter(self, link: WebSocketLink, subscription: Subscription) -> None:
        """Ask once to be in a room as the subscription says; raises `RequestFailed` or `ConnectionLost`."""
        state = subscription.state
        await link.request(subscription.request(), RosterSync)
        subscription.acknowledge(state)

    async def _reenter(self, link: WebSocketLink, subscription: Subscription, turns: anyio.Semaphore) -> None:
        async def enter() -> bool:
            await self.enter(link, subscription)
            return False

        async with turns:
            await self._repeat(enter, subscription, lambda: self._is_wanted(subscription))

    async def _fetch_rest(self, link: WebSocketLink, subscription: Subscription, cursor: str) -> None:
        syncs, next_cursor = subscription.syncs, cursor

        def is_latest() -> bool:
            return self._is_wanted(subscription) and subscription.syncs == syncs

        async def fetch_page() -> bool:
            nonlocal next_cursor
            page = await link.request(Members(subscription.room, next_cursor), RosterPage)
            if page.cursor is None:
                if subscription.syncs == syncs:
                    self._emit(subscription, subscription.finish())
                return False
            next_cursor = page.cursor
            return True

        await self._repeat(fetch_page, subscription, is_latest)

    async def _repeat(
        self,
        request: Callable[[], Awaitable[bool]],
        subscription: Subscription,
        is_wanted: Callable[[], bool],
    ) -> None:
        """Repeat a request while it returns True or is refused for the moment. Another refusal loses the room."""
        attempt, goes_on = 0, True
        while goes_on and is_wanted():
            try:
                goes_on = await request()
            except RequestFailed as refusal:
                if refusal.code not in TRANSIENT:
                    self._lose(subscription, refusal)
                    return
                await anyio.sleep(_patience_s(refusal, attempt))
                attempt += 1
            except ClientError:  # the next connection begins again
                return

    def _lose(self, subscription: Subscription, refusal: RequestFailed) -> None:
        if not self._is_wanted(subscription):
            return
        log.warning("lost room %s: %s", subscription.room, refusal)
        self._emit(subscription, [RoomLost(subscription.room, refusal.code, refusal.message)])
        subscription.end(refusal, quietly=True)
        self.forget(subscription)

    def _is_wanted(self, subscription: Subscription) -> bool:
        return self._subscriptions.get(subscription.room) is subscription

    def _emit(self, subscription: Subscription, events: list[Event]) -> None:
        for event in events:
            subscription.events.put(event)
            self._events.put(event)


async def _leave(link: WebSocketLink, room: str) -> None:
    try:
        await link.send(Leave(room))
    except ClientError:
        log.debug("could not leave %s", room)


def _patience_s(refusal: RequestFailed, attempt: int) -> float:
    chance = random.random()  # noqa: S311  # spreads requests over time, hides nothing
    return max(RETRY_MIN_S, (refusal.retry_after_ms or 0) / 1000) + jittered(attempt, chance)
