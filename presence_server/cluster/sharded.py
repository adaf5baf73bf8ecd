"""The backend of a node among others that share a Redis Cluster: a link to each primary, and slots that move.

A slot that its server refuses, or gives up, is out of reach by itself: its rooms are served from memory, as in an
outage, until the server that has it by then is subscribed to, and compared. Everything of other slots goes on.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup
from redis.exceptions import RedisError

from presence_server.bus.redis import RedisBus
from presence_server.clock import Clock, ServerClock
from presence_server.cluster.backend import ClusterBackend, ReachingBus
from presence_server.cluster.connectivity import Lost, Restored
from presence_server.cluster.link import Link
from presence_server.cluster.parts import Part, Parts, SlotParts
from presence_server.config.settings import Settings
from presence_server.config.store_url import Address
from presence_server.redis_io.queries import Queries, SlotQueries
from presence_server.redis_io.scripts import SLOTS, Call, slot_of, slot_of_tag
from presence_server.redis_io.slots import NAMES_MAX, ClusterServers, Range, SlotMap
from presence_server.redis_io.subscriber import SLOT_REFUSALS
from presence_server.rooms.events import RoomEvent

LOOK_S: Final = 10.0
"""How often the slots are looked at when nothing seems to have changed."""
LOOK_AGAIN_S: Final = 0.5
"""How often while something has."""
RETRY_MS: Final = 300
"""After so long a slot that was refused is tried again."""
log = structlog.get_logger()


class RoutedBus:
    """Carries a room's events over the server that has its slot; see `RedisBus`."""

    def __init__(self, bus_of: Callable[[str], RedisBus[RoomEvent]], links: list[Link]) -> None:
        self._bus_of = bus_of
        self._links = links

    def subscribe(self, room: str, handler: Callable[[RoomEvent], None], ready: Callable[[], None]) -> None:
        """Begin to receive a room's events."""
        self._bus_of(room).subscribe(room, handler, ready)

    def unsubscribe(self, room: str) -> None:
        """Stop receiving a room's events."""
        self._bus_of(room).unsubscribe(room)

    def publish(self, room: str, event: RoomEvent, sent: Callable[[], None] | None = None) -> None:
        """Send with this tick's payload of the room."""
        self._bus_of(room).publish(room, event, sent)

    def deliver(self, room: str, event: RoomEvent) -> None:
        """Give an event to this node's handler of the room."""
        self._bus_of(room).deliver(room, event)

    def isolate(self, is_concerned: Callable[[str], bool]) -> None:
        """Deliver here what has not come back of rooms, and what has not been sent."""
        for link in self._links:
            link.bus.isolate(is_concerned)


class ShardedBackend(ClusterBackend):
    """Store, bus and registry that nodes share in a Redis Cluster; `servers` are asked which slots there are."""

    def __init__(
        self, settings: Settings, node: str, clock: Clock, *, servers: ClusterServers, **given: Any
    ) -> None:
        self._servers = servers
        # Until the servers have said where the slots are: at the first that the URL names.
        self._slots = SlotMap([Range(0, SLOTS - 1, servers.url.addresses[0])], [])
        self._slot_parts: SlotParts
        self._by_address: dict[Address, Link] = {}
        self._refused: dict[Part, int] = {}
        """Parts that are tried again though their link is well, and the number of the present attempt."""
        self._attempts = 0
        self._wanted = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._problem = ""
        super().__init__(settings, node, clock, **given)
        self._heard_home = self.home

    # --- which link ---

    def _begin(self) -> tuple[Parts, ReachingBus, Queries]:
        self._add_link(self._slots.primaries[0])
        self._slot_parts = SlotParts(self._link_of_slot)
        bus = RoutedBus(lambda room: self._slot_parts.of(room).link.bus, self._links)
        queries = SlotQueries(self._queries_of_slot, lambda: [link.queries for link in self._links])
        return self._slot_parts, bus, queries

    def _add_link(self, address: Address) -> Link:
        link = self._new_link(address, ServerClock(self._clock), self._slots.tag(address))
        self._by_address[address] = link
        if self._tasks is not None:
            self._tasks.start_soon(link.run)
        return link

    def _link_of_slot(self, slot: int) -> Link:
        owner = self._slots.owner(slot)
        return self._by_address[owner] if owner is not None else self._links[0]

    def _queries_of_slot(self, slot: int | None) -> Queries:
        return (self.home if slot is None else self._link_of_slot(slot)).queries

    @property
    def home(self) -> Link:
        """The link to the server that has the registry of nodes."""
        return self._link_of_slot(slot_of(self._keys.nodes()[0]))

    async def _start_links(self, tasks: TaskGroup) -> None:
        await self._look()
        self._tasks = tasks
        await super()._start_links(tasks)
        tasks.start_soon(self._follow_slots)

    async def _check_server(self) -> None:
        """Warn of servers that may throw presence away, and of one that takes all others with it."""
        await super()._check_server()
        if await self._setting(self.home, "cluster-require-full-coverage") == "yes":
            log.warning(
                "no room is served while one server of the Cluster is away; set cluster-require-full-coverage no"
            )

    # --- what links say ---

    def register(self, link: Link) -> Call:
        """Return the call that keeps this node's record or, on other servers, shows that they take writes."""
        if link is self.home:
            return super().register(link)
        return Call(
            ("SET", self._keys.link_contact(link.tag, self._node), "1", "PX", self._settings.presence.ttl_ms)
        )

    def registered(self, link: Link, answer: Sequence[Any]) -> None:
        """Take its answer."""
        if isinstance(answer, list):
            super().registered(link, answer)

    def mark_away(self, link: Link, tag: str, error: Exception) -> None:
        """End contact with a server, or with a slot that it refuses."""
        if isinstance(error, SLOT_REFUSALS):
            self._refuse(link, tag)
        else:
            super().mark_away(link, tag, error)

    def dropped(self, link: Link, channel: str) -> None:
        """End contact with a slot whose channels a server gives up."""
        self._refuse(link, channel.partition("{")[2].partition("}")[0])

    def lost(self, link: Link) -> None:
        """Go on without a server."""
        now_ms = self._clock.now_ms()
        for part in self._slot_parts.with_link(link):
            if not part.is_isolated:
                part.lost_ms = now_ms
        self._wanted.set()
        super().lost(link)

    def restored(self, link: Link, without_s: float, same_server: bool) -> None:
        """Go on with a server, but for slots that it refuses."""
        parts = [part for part in self._slot_parts.with_link(link) if part not in self._refused]
        self._rejoin.on(Restored(round(without_s * 1000), same_server), parts)

    # --- slots ---

    def _refuse(self, link: Link, tag: str) -> None:
        """Isolate what has the slot of a tag, and try again soon."""
        self._wanted.set()
        if tag == link.tag:
            return  # the proof of contact: without its slot there is none
        part = self._slot_parts.of(tag)
        if part.link is link:
            self._isolate(part)
            self._try_in(part, RETRY_MS)

    def _isolate(self, part: Part) -> None:
        if not part.is_isolated:
            part.lost_ms = self._clock.now_ms()
            self._rejoin.on(Lost(), [part], whole=False)

    def _try_in(self, part: Part, ms: int) -> None:
        part.retry_ms = self._clock.now_ms() + ms
        self._attempts += 1
        self._refused[part] = self._attempts

    def sweep(self) -> None:
        """Try slots again that were refused, then do as with one server."""
        now_ms = self._clock.now_ms()
        for part in [part for part in self._refused if part.retry_ms <= now_ms]:
            if not part.link.part.is_isolated:
                self._try_in(part, RETRY_MS)
                self._try(part)
        super().sweep()

    def _try(self, part: Part) -> None:
        bus = part.link.bus
        rooms = bus.rooms(lambda room: self._slot_parts.of(room) is part)
        bus.subscribe_again(rooms, partial(self._heard_again, part, self._refused[part]))

    def _heard_again(self, part: Part, attempt: int) -> None:
        """Compare what a slot has: everything of it is subscribed to."""
        if self._refused.get(part) == attempt and part.is_isolated:
            del self._refused[part]
            without_ms = self._clock.now_ms() - part.lost_ms
            self._rejoin.on(Restored(without_ms, same_server=False), [part], whole=False)

    async def _follow_slots(self) -> None:
        """Look where the slots are, for ever."""
        while True:
            uneasy = self._refused or any(link.part.is_isolated for link in self._links)
            with anyio.move_on_after(LOOK_AGAIN_S if uneasy or self._problem else LOOK_S):
                await self._wanted.wait()
            await anyio.sleep(LOOK_AGAIN_S / 5)  # slots move one after the other
            self._wanted = anyio.Event()
            await self._look()

    async def _look(self) -> None:
        try:
            slots = await self._servers.look()
        except (
            RedisError,
            OSError,
            TimeoutError,
            RuntimeError,
            AttributeError,
        ) as exc:  # the last two: see LOST
            self._note_problem(f"nobody says where the slots are: {exc}")
            return
        gaps = slots.uncovered()
        self._note_problem(f"no server has the slots {', '.join(gaps[:NAMES_MAX])}" if gaps else "")
        if slots.ranges:
            self._go_by(slots)

    def _note_problem(self, problem: str) -> None:
        if problem != self._problem and problem:
            log.warning("a Cluster with a problem", problem=problem)
        self._problem = problem

    def _go_by(self, slots: SlotMap) -> None:
        """Have a link to each primary, and each part at its own."""
        self._slots = slots
        for address in slots.primaries:
            if address not in self._by_address:
                self._add_link(address)
        for slot, part in self._slot_parts.by_slot.items():
            if slots.owner(slot) is not None and part.link is not self._link_of_slot(slot):
                self._move(part, self._link_of_slot(slot))
        for link in list(self._links):
            self._settle_link(link)
        if self._heard_home is not self.home:
            for channel in self._node_channels():
                self._heard_home.subscriber.unsubscribe(channel)
            self._heard_home = self.home
            self._hear(self.home.subscriber)

    def _move(self, part: Part, link: Link) -> None:
        """Have another server's link serve a slot, when everything of it is subscribed to."""
        self._isolate(part)
        before, part.link = part.link, link
        for room in before.bus.rooms(lambda room: self._slot_parts.of(room) is part):
            before.shared.forget(room)
            before.bus.move(room, link.bus)
        self._try_in(part, 0)

    def _settle_link(self, link: Link) -> None:
        """Retire a link that leads to nothing; let others prove contact by a slot that their server has."""
        assert link.address is not None  # noqa: S101 - of a Cluster's
        if link.address not in self._slots.primaries:
            if len(self._slot_parts.with_link(link)) == 1 and link is not self._links_last():
                self._links.remove(link)
                del self._by_address[link.address]
                link.retire()
        elif self._slots.owner(slot_of_tag(link.tag)) != link.address:
            link.move_tag(self._slots.tag(link.address))

    def _links_last(self) -> Link | None:
        return self._links[0] if len(self._links) == 1 else None

    def checks(self) -> dict[str, str]:
        """Return what is wrong with each server, the first first."""
        wrong = {"store": self._problem, "pubsub": ""}
        for link in self._links:
            for name, what in link.monitor.checks().items():
                if what and not wrong[name]:
                    wrong[name] = f"{link.address}: {what}"
        return wrong
