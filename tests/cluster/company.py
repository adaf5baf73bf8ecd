"""Clients over several nodes, each with everything that it was told."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import anyio

from presence_server.client import Client, Event, Joined, Left, Room, Synced, connect
from presence_server.client.mailbox import Mailbox
from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking

TTL_S = 3.0
QUICK = ("--presence.ttl_ms", f"{TTL_S * 1000:.0f}", "--presence.heartbeat_ms", "1000")
"""For tests that wait until a member's lease is over. A node takes 1.5 s of silence for a loss of the store."""
PATIENT = ("--presence.ttl_ms", "12000", "--presence.heartbeat_ms", "4000")
"""For all others: a node whose machine has much else to do has 6 s."""
ROOM = "lobby"
EVENTS_MAX = 100_000


class StartNode(Protocol):
    """Starts one more node, on the test's store unless `url` says otherwise, with further `args`."""

    async def __call__(
        self, url: str = "", env: Mapping[str, str] | None = None, args: Sequence[str] = ()
    ) -> Node: ...


class Visitor:
    """A member or watcher, and the events of its room since it came in."""

    def __init__(self, client: Client, room: Room) -> None:
        self.client = client
        self.room = room
        self._events: list[Event] = []
        self.forget_events()

    @property
    def events(self) -> list[Event]:
        """Everything that has come."""
        mailbox = aiter(self.room)
        assert isinstance(mailbox, Mailbox)
        while (event := mailbox.take_event()) is not None:
            self._events.append(event)
        return self._events

    @property
    def roster(self) -> dict[str, Any]:
        """The roster by cid, as far as all must agree on it."""
        return {cid: (member.user, member.state, member.v) for cid, member in self.room.members.items()}

    def all(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def comings_and_goings(self) -> list[Event]:
        """Everything that says that somebody came or went, or that this client had to begin anew."""
        return [event for event in self.events if isinstance(event, Joined | Left | Synced)]

    def forget_events(self) -> None:
        """Let `events` begin now."""
        self.events.clear()


@asynccontextmanager
async def visiting(
    nodes: Sequence[Node], users: Iterable[str], *, state: bool = True, watching: bool = False
) -> AsyncIterator[list[Visitor]]:
    """Let users in, one after the other on each of the nodes in turn; returns when all know each other."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                connect(nodes[i % len(nodes)].ws_url, user=user, events_max=EVENTS_MAX)
            )
            for i, user in enumerate(users)
        ]
        visitors: list[Visitor] = []

        async def enter(i: int, client: Client) -> None:
            if watching:
                room = await client.watch(ROOM)
            else:
                room = await client.join(ROOM, state={"n": i} if state else None)
            visitors.append(Visitor(client, room))

        async with anyio.create_task_group() as tasks:
            for i, client in enumerate(clients):
                tasks.start_soon(enter, i, client)
        order = {client.cid: i for i, client in enumerate(clients)}
        visitors.sort(key=lambda visitor: order[visitor.client.cid])
        yield visitors


@asynccontextmanager
async def raw_members(node: Node, users: Iterable[str]) -> AsyncIterator[list[RawClient]]:
    """Let members in that never come back by themselves."""
    async with AsyncExitStack() as stack:
        members = []
        for user in users:
            member = await stack.enter_async_context(speaking(node.port, f"/ws?user={user}"))
            await member.request(t="join", room=ROOM, id=1)
            members.append(member)
        yield members


def agreed(visitors: Sequence[Visitor], count: int) -> Callable[[], bool]:
    """Return whether all know the same `count` members, as a condition."""
    return lambda: all(
        len(visitor.roster) == visitor.room.count == count and visitor.roster == visitors[0].roster
        for visitor in visitors
    )


def settled(visitors: Sequence[Visitor], count: int) -> Callable[[], bool]:
    """Return whether all know the same `count` members and that nothing is out of date, as a condition."""
    return lambda: agreed(visitors, count)() and not any(visitor.room.stale for visitor in visitors)


def counts(visitors: Sequence[Visitor]) -> Callable[[], object]:
    """Return what to say when they do not agree."""
    return lambda: [
        (v.client.user, v.client.node, v.room.count, len(v.roster), v.room.stale) for v in visitors
    ]
