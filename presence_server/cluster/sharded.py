"""The backend of a node among others that share a Redis Cluster: a link to each primary, and slots that move.

A slot that its server refuses, or gives up, is out of reach by itself: its rooms are served from memory, as in an
outage, until the server that has it by then is subscribed to, and compared. Everything of other slots goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from presence_server.bus.redis import RedisBus
from presence_server.clock import ServerClock
from presence_server.cluster.backend import ClusterBackend, ReachingBus
from presence_server.cluster.connectivity import Lost, Restored
from presence_server.cluster.gathered import GatheredParts
from presence_server.cluster.link import Link
from presence_server.cluster.parts import Part, Parts, SlotParts
from presence_server.cluster.port import BackendContext
from presence_server.config.store_url import Address
from presence_server.redis_io.cluster_slots import (
    NAMES_MAX,
    SLOTS_AGAIN_S,
    SLOTS_EVERY_S,
    SLOTS_PAUSE_S,
    ClusterServers,
    Range,
    SlotMap,
)
from presence_server.redis_io.port import StoreConnections
from presence_server.redis_io.queries import Queries, ServerQueries, SlotQueries
from presence_server.redis_io.scripts import SLOTS, Call, slot_of, slot_of_tag
from presence_server.redis_io.store_errors import LOST
from presence_server.redis_io.subscriber import SLOT_REFUSALS
from presence_server.rooms.events import RoomEvent

LOOK_S: Final = 1.0
"""How long a question whose slot has moved waits for the slot map."""
RETRY_MS: Final = 300
"""A slot that its server refused is tried again after this."""
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
        """Deliver to this node the events of these rooms that have not come back, or have not been sent."""
        for link in self._links:
            link.bus.isolate(is_concerned)


class ShardedBackend(ClusterBackend):
    """Store, bus and registry that nodes share in a Redis Cluster; `servers` are asked which slots there are."""

    def __init__(
        self,
        context: BackendContext,
        *,
        servers: ClusterServers,
        new_client: Callable[[Address | None], StoreConnections],
    ) -> None:
        self._servers = servers
        # Until the servers have said where the slots are: at the first that the URL names.
        self._slots = SlotMap([Range(0, SLOTS - 1, servers.url.addresses[0])], [])
        self._slot_parts: SlotParts
        self._by_address: dict[Address, Link] = {}
        self._refused: dict[Part, int] = {}
        """Parts that are tried again, although their link has contact, with the number of the attempt under way."""
        self._attempts = 0
        self._given_up = GatheredParts(self._isolate)
        """Parts that their server has just refused or given up."""
        self._resubscribed = GatheredParts(self._restore)
        """Parts of which all rooms are subscribed to again."""
        self._look_wanted = anyio.Event()
        self._next_look = anyio.Event()
        """Set when the slot map has been read the next time."""
        self._tasks: TaskGroup | None = None
        self._problem = ""
        super().__init__(context, new_client=new_client)
        self._subscribed_home = self.home

    # --- which link ---

    def _make_links(self) -> tuple[Parts, ReachingBus, Queries]:
        self._add_link(self._slots.primaries[0])
        self._slot_parts = SlotParts(self._link_of_slot)
        bus = RoutedBus(lambda room: self._slot_parts.of(room).link.bus, self._links)
        queries = SlotQueries(
            self._queries_of_slot, lambda: [link.queries for link in self._links], self._look_again
        )
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

    def _queries_of_slot(self, slot: int | None) -> ServerQueries:
        return (self.home if slot is None else self._link_of_slot(slot)).queries

    @property
    def home(self) -> Link:
        """The link to the server that has the registry of nodes."""
        return self._link_of_slot(slot_of(self._keys.registry().expiry))

    async def _start_links(self, tasks: TaskGroup) -> None:
        await self._read_slot_map()
        self._tasks = tasks
        await super()._start_links(tasks)
        tasks.start_soon(self._follow_slots)

    async def _check_server(self) -> None:
        """Warn of servers that may throw presence away, and of one that takes all others with it."""
        await super()._check_server()
        if await self.home.read_setting("cluster-require-full-coverage") == "yes":
            log.warning(
                "no room is served while one server of the Cluster is away; set cluster-require-full-coverage no"
            )

    # --- what links say ---

    def register(self, link: Link) -> Sequence[Call]:
        """Return the call that shows that a server takes writes, and on one of them that of this node's record.

        Contact does not depend on the slot of the registry: it may be moving, or at no server.
        """
        contact = self._keys.link_contact(link.tag, self._node)
        written = Call(("SET", contact, "1", "PX", self._settings.presence.ttl_ms))
        return [written, self._register_call()] if link is self.home else [written]

    def take_register_answer(self, link: Link, answer: Any) -> None:
        """Take the answer to the call of this node's record; that to SET says nothing."""
        if isinstance(answer, Exception):
            self.note_slot_refused(link)
        elif isinstance(answer, list):
            super().take_register_answer(link, answer)

    def renew_tag(self, link: Link) -> bool:
        """Prove contact by another slot: the one before is moving, or at another server."""
        assert link.address is not None  # noqa: S101 - of a Cluster's
        self._look_wanted.set()
        tag = self._slots.tag(link.address, after=link.tag)
        if tag:
            link.move_tag(tag)
        return bool(tag)

    def mark_away(self, link: Link, tag: str, error: Exception) -> None:
        """End contact with a server, or with a slot that it refuses."""
        if isinstance(error, SLOT_REFUSALS):
            self._refuse(link, tag)
        else:
            super().mark_away(link, tag, error)

    def note_slot_refused(self, link: Link) -> None:
        """Read soon where the slots are now."""
        self._look_wanted.set()

    def note_channel_dropped(self, link: Link, channel: str) -> None:
        """End contact with a slot whose channels a server gives up."""
        if not link.monitor.note_channel_dropped(channel):
            self._refuse(link, channel.partition("{")[2].partition("}")[0])

    def note_contact_lost(self, link: Link) -> None:
        """Serve from memory what is on a server, which is away."""
        now_ms = self._clock.now_ms()
        for part in self._slot_parts.with_link(link):
            if not part.is_isolated:
                part.lost_ms = now_ms
        self._look_wanted.set()
        super().note_contact_lost(link)

    def note_contact_restored(self, link: Link, without_s: float, same_server: bool) -> None:
        """Begin the rejoin of what is on a server, but for slots that it refuses."""
        parts = [part for part in self._slot_parts.with_link(link) if part not in self._refused]
        self._rejoin.on(Restored(round(without_s * 1000), same_server), parts)
        if link is self._subscribed_home:
            self._compare_claims()

    def _compare_claims(self) -> None:
        """Compare the claims of all servers: other nodes told of theirs over a channel that this node did not hear."""
        self.directory.claims.compare_all()

    # --- slots ---

    def _refuse(self, link: Link, tag: str) -> None:
        """Isolate the part of a tag, which its server refuses, and try it again after `RETRY_MS`."""
        self._look_wanted.set()
        part = self._slot_parts.of(tag)
        if part.link is link:
            self._retry_in([part], RETRY_MS)
            self._given_up.add(part)

    def _isolate(self, parts: Sequence[Part]) -> None:
        """Serve from memory what is in parts that their servers have refused."""
        now_ms = self._clock.now_ms()
        connected = [part for part in parts if not part.is_isolated]
        for part in connected:
            part.lost_ms = now_ms
        self._rejoin.on(Lost(), connected, whole=False)

    def _retry_in(self, parts: Sequence[Part], ms: int) -> None:
        self._attempts += 1
        for part in parts:
            part.retry_ms = self._clock.now_ms() + ms
            self._refused[part] = self._attempts
            self._resubscribed.discard(part)

    def sweep(self) -> None:
        """Try refused slots again; the rest is as with one server."""
        now_ms = self._clock.now_ms()
        due = [
            part
            for part in self._refused
            if part.retry_ms <= now_ms and part.is_isolated and not part.link.part.is_isolated
        ]
        if due:
            self._retry_in(due, RETRY_MS)
            self._resubscribe(due)
        super().sweep()

    def _resubscribe(self, parts: Sequence[Part]) -> None:
        """Subscribe to all rooms of some parts again; a part is restored when those of its rooms are acknowledged."""
        rooms: dict[Part, list[str]] = {part: [] for part in parts}
        for link in dict.fromkeys(part.link for part in parts):
            for room in link.bus.rooms(lambda room: self._slot_parts.of(room) in rooms):
                rooms[self._slot_parts.of(room)].append(room)
        for part, names in rooms.items():
            part.link.bus.subscribe_again(names, partial(self._note_resubscribed, part, self._refused[part]))

    def _note_resubscribed(self, part: Part, attempt: int) -> None:
        if self._refused.get(part) == attempt:
            self._resubscribed.add(part)

    def _restore(self, parts: Sequence[Part]) -> None:
        """Begin the rejoin of slots: all their rooms are subscribed to."""
        parts = [part for part in parts if part.is_isolated and not part.link.part.is_isolated]
        for part in parts:
            self._refused.pop(part, None)
        if parts:
            without_ms = self._clock.now_ms() - min(part.lost_ms for part in parts)
            self._rejoin.on(Restored(without_ms, same_server=False), parts, whole=False)

    async def _follow_slots(self) -> None:
        """Read the slot map at intervals, and at once when a slot was refused, until cancelled."""
        while True:
            uneasy = self._refused or any(link.part.is_isolated for link in self._links)
            with anyio.move_on_after(SLOTS_AGAIN_S if uneasy or self._problem else SLOTS_EVERY_S):
                await self._look_wanted.wait()
            await anyio.sleep(SLOTS_PAUSE_S)
            self._look_wanted = anyio.Event()
            looked, self._next_look = self._next_look, anyio.Event()
            await self._read_slot_map()
            looked.set()

    async def _look_again(self) -> None:
        """Wait until the slot map has been read again, for a moment at most."""
        self._look_wanted.set()
        with anyio.move_on_after(LOOK_S):
            await self._next_look.wait()

    async def _read_slot_map(self) -> None:
        try:
            slots = await self._servers.ask_slots()
        except LOST as exc:
            self._note_problem(f"nobody says where the slots are: {exc}")
            return
        gaps = slots.uncovered()
        self._note_problem(f"no server has the slots {', '.join(gaps[:NAMES_MAX])}" if gaps else "")
        if slots.ranges:
            self._apply_slot_map(slots)

    def _note_problem(self, problem: str) -> None:
        if problem != self._problem and problem:
            log.warning("the Cluster has a problem", problem=problem)
        self._problem = problem

    def _apply_slot_map(self, slots: SlotMap) -> None:
        """Keep a link to each primary, and move parts whose slots are at another one now."""
        lost = {each for each, link in self._by_address.items() if link.part.is_isolated}
        before, self._slots = self._slots, slots
        if slots.takes_over(before, lost):
            # The keys have not moved with their slots: some or all of them may be lost.
            self.registry.renew_all()
            self.room_index.note_all_anew()
        for address in slots.primaries:
            if address not in self._by_address:
                self._add_link(address)
        moved = {
            part: self._link_of_slot(slot)
            for slot, part in self._slot_parts.by_slot.items()
            if slots.owner(slot) is not None and part.link is not self._link_of_slot(slot)
        }
        if moved:
            self._move(moved)
        for link in list(self._links):
            self._check_link(link)
        if self._subscribed_home is not self.home:
            self._node_channels.stop_listening_on(self._subscribed_home.subscriber)
            self._subscribed_home = self.home
            self._node_channels.listen_on(self.home.subscriber, self._compare_claims)

    def _move(self, moved: Mapping[Part, Link]) -> None:
        """Isolate slots, give their rooms to the links of the servers that have them now, and try them at once."""
        parts = list(moved)
        self._isolate(parts)
        links_before = dict.fromkeys(part.link for part in parts)
        for part, link in moved.items():
            self._given_up.discard(part)
            part.link = link
        for before in links_before:
            for room in before.bus.rooms(lambda room: self._slot_parts.of(room) in moved):
                before.shared.forget(room)
                before.bus.move(room, self._slot_parts.of(room).link.bus)
        self._retry_in(parts, 0)

    def _check_link(self, link: Link) -> None:
        """Retire the link to a server that is no primary; let others prove contact by a slot that their server has."""
        assert link.address is not None  # noqa: S101 - of a Cluster's
        if link.address not in self._slots.primaries:
            if len(self._slot_parts.with_link(link)) == 1 and len(self._links) > 1:
                self._links.remove(link)
                del self._by_address[link.address]
                link.retire()
        elif self._slots.owner(slot_of_tag(link.tag)) != link.address:
            link.move_tag(self._slots.tag(link.address))

    def checks(self) -> dict[str, str]:
        """Return what is wrong; of several servers with a problem the first is named."""
        wrong = {"store": self._problem, "pubsub": ""}
        for link in self._links:
            for name, what in link.monitor.checks().items():
                if what and not wrong[name]:
                    wrong[name] = f"{link.address}: {what}"
        return wrong
