"""The backend of a node among others: store, bus and registry shared through Redis or Valkey."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import structlog
from anyio.abc import TaskGroup

from presence_server.bus.board import RedisBoard
from presence_server.bus.port import Bus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import (
    ClockStepped,
    Event,
    HistoryBroken,
    Lost,
    NodeForgotten,
    OthersSilent,
    OwnMemberLost,
    Restored,
    State,
    Suspended,
)
from presence_server.cluster.link import Link, patience_and_hold_ms
from presence_server.cluster.node_channels import NodeChannels
from presence_server.cluster.parts import Concerned, OnePart, Parts
from presence_server.cluster.port import BackendContext
from presence_server.cluster.rejoin import Rejoin
from presence_server.cluster.store import ClusterStore, LocalDelivery
from presence_server.config.store_url import Address
from presence_server.counters import Histogram
from presence_server.errors import StoreAwayError
from presence_server.opaque_sessions.redis import RedisSessions
from presence_server.presence.memory import PresenceMemoryStore
from presence_server.presence.port import PresenceStore
from presence_server.presence.redis import QueuedOperation
from presence_server.presence.room_index.redis import RedisRoomIndex
from presence_server.redis_io.client import AWAY, TIMEOUT_S
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.port import StoreConnections
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call
from presence_server.registry.figures import KEPT_MS as FIGURES_KEPT_MS
from presence_server.registry.figures import NodeFigures
from presence_server.registry.redis import RedisRegistry
from presence_server.rooms.events import RoomEvent
from presence_server.throttle.policy_follower import PolicyFollower
from presence_server.throttle.policy_store import RedisPolicyStore
from presence_server.throttle.talkers import PUBLISHED_KEPT_MS, TalkersReport

if TYPE_CHECKING:
    from presence_server.session.directory import Directory

EXAMINE_S: Final = 0.5
log = structlog.get_logger()


class ReachingBus(Bus[RoomEvent], Protocol):
    """The bus of a node among others."""

    def deliver(self, room: str, event: RoomEvent) -> None:
        """Give an event to this node's handler of the room."""

    def isolate(self, is_concerned: Callable[[str], bool]) -> None:
        """Deliver to this node the events of these rooms that have not come back, or have not been sent."""


class ClusterBackend:
    """Store, bus and registry that nodes share, and this node's own memory while they are out of reach.

    `new_client(address)` makes the way to a server; None: to the one that there is.
    """

    shared = True

    def __init__(
        self, context: BackendContext, *, new_client: Callable[[Address | None], StoreConnections]
    ) -> None:
        self.directory: Directory
        settings, node, clock = context.settings, context.node, context.clock
        presence = settings.presence
        self._settings = settings
        self._node = node
        self._clock = clock
        self._keys = keys = Keys(settings.redis.prefix)
        self._new_client = new_client
        self._patience_ms, _ = patience_and_hold_ms(presence)
        self._suspended_ms = clock.suspended_ms
        self.health: dict[str, Mapping[str, Any]] = {}
        self._lost_something: dict[str, tuple[str, int]] = {}
        """What the store has lost since the last sweep: the first room of which, and how often."""
        self._links: list[Link] = []
        """All links; to a standalone server there is one."""
        self._parts: Parts
        self.bus: ReachingBus
        self._parts, self.bus, queries = self._make_links()
        memory = PresenceMemoryStore(
            LocalDelivery(self.bus.deliver), clock, ttl_ms=presence.ttl_ms, claim_ms=presence.resume_ms
        )
        self.store = ClusterStore(
            lambda tag: self._parts.of(tag).link.shared,
            memory,
            node=node,
            clock=clock,
            heartbeat_ms=presence.heartbeat_ms,
            is_isolated=self.is_part_isolated,
        )
        self.registry = RedisRegistry(
            queries,
            keys,
            clock,
            context.describe,
            forgotten=self._forgotten,
            others_silent=self._others_silent,
            connections=lambda: self.directory,
            is_deaf=lambda: self.home.part.is_isolated,
            node=node,
            ttl_ms=presence.ttl_ms,
            last_seen_ms=presence.last_seen_ms,
        )
        self.room_index = RedisRoomIndex(queries, self, keys, clock)
        self.sessions = RedisSessions(queries, keys)
        self.talkers_board = RedisBoard(
            queries, TalkersReport, node, key_of=keys.talkers, kept_ms=PUBLISHED_KEPT_MS
        )
        self.figures_board = RedisBoard(
            queries, NodeFigures, node, key_of=keys.node_figures, kept_ms=FIGURES_KEPT_MS
        )
        self.policy = PolicyFollower(RedisPolicyStore(queries, keys), context.apply_policy, clock.wall_ms)
        self.directory = context.new_directory(self)
        self._rejoin = Rejoin(
            node=node,
            parts=self._parts,
            directory=self.directory,
            store=self.store,
            bus=self.bus,
            clock=clock,
            presence=presence,
            renew_contact=self._renew_contact,
            note_anew=self._note_anew,
            give_up_unsent=self._give_up_unsent,
            deliver_unsent=self.bus.isolate,
            follow_policy=lambda _: self.policy.look_soon(),
        )
        self._node_channels = NodeChannels(
            keys, node, claims=self.directory.claims, registry=self.registry, policy=self.policy
        )
        self._node_channels.listen_on(self.home.subscriber)

    def _make_links(self) -> tuple[Parts, "ReachingBus", Queries]:
        """Make the first links; return the parts, the bus and the queries that go over them."""
        link = self._new_link(None, self._clock)
        return OnePart(link.part), link.bus, link.queries

    def _new_link(self, address: Address | None, clock: Clock, tag: str = "") -> Link:
        link = Link(
            self,
            self._new_client(address),
            keys=self._keys,
            clock=clock,
            node=self._node,
            presence=self._settings.presence,
            address=address,
            tag=tag,
        )
        self._links.append(link)
        return link

    @property
    def home(self) -> Link:
        """The link to the server that has the registry of nodes."""
        return self._links[0]

    def read_call(self, room: str, verb: str, *operations: Any) -> Call:
        """Return a call of a script that only reads a room."""
        return self._parts.of(room).link.shared.read_call(room, verb, *operations)

    # --- what rooms are told and ask ---

    def is_isolated(self) -> bool:
        """Tell whether the shared store, or a server of it, is out of reach."""
        return any(link.part.is_isolated for link in self._links)

    def is_rejoining(self) -> bool:
        """Tell whether a part that is back in reach is in its rejoin."""
        return any(part.connectivity.state is State.REJOINING for part in self._parts.unresolved)

    def is_part_isolated(self, tag: str) -> bool:
        """Tell whether the part of the shared store that has a room, a cid or a user's tag is out of reach."""
        return self._parts.of(tag).is_isolated

    def is_stale(self, room: str) -> bool:
        """Tell whether other nodes' members of a room may be out of date."""
        return self._parts.of(room).connectivity.stale

    def note_occupied(self, room: str) -> None:
        """Note that a room has members here."""
        self.room_index.note_room(room)

    def own_member_lost(self, room: str, asked_ms: int) -> None:
        """Enter this node's members again: the store did not know one of them."""
        self._repair("a member of this node", room, OwnMemberLost(asked_ms))

    def when_entered(self, room: str, cid: str, send: Callable[[], None]) -> None:
        """Send once the claim of a connection has been repeated, and its room is being entered."""
        self._rejoin.when_entered(room, cid, send)

    def history_broken(self, room: str) -> None:
        """Enter the members of a room again that is further back than it was; those that it lacks are provisional."""
        self._repair("what it said of a room", room, HistoryBroken())

    def _repair(self, what: str, room: str, event: OwnMemberLost | HistoryBroken) -> None:
        first, times = self._lost_something.get(what, (room, 0))
        self._lost_something[what] = first, times + 1
        part = self._parts.of(room)
        if part.connectivity.stale:  # a rejoin of this part is under way already; the others need none
            self._rejoin.on(event, [part], whole=False)
        else:
            self._on(event, part.link)

    def _log_lost_something(self) -> None:
        """Log in one line what the store has lost: it may be something of each of a thousand rooms."""
        lost, self._lost_something = self._lost_something, {}
        for what, (room, times) in lost.items():
            log.warning("the store has lost something", what=what, room=room, times=times)

    def _on(self, event: Event, link: Link) -> None:
        """Take an event of all parts of a server."""
        self._rejoin.on(event, self._parts.with_link(link))

    # --- the state of the store, for operators ---

    async def examine(self) -> None:
        """Ask each server for its INFO, for `health`, which lacks servers that do not answer in time."""
        health: dict[str, Mapping[str, Any]] = {}
        with anyio.move_on_after(EXAMINE_S):
            async with anyio.create_task_group() as tasks:
                for link in self._links:
                    tasks.start_soon(self._examine_server, link, health)
        self.health = health  # in one step: several callers may examine at the same time

    async def _examine_server(self, link: Link, health: dict[str, Mapping[str, Any]]) -> None:
        try:
            health[link.name] = await link.client.execute("INFO")
        except AWAY:  # the node's user may lack the right, and the server may be away
            return

    @property
    def losses(self) -> int:
        """The number of times that contact was lost."""
        return sum(link.monitor.losses for link in self._links)

    @property
    def round_trips(self) -> dict[str, Histogram]:
        """The durations of the proofs of contact, by server."""
        return {link.name: link.monitor.round_trips for link in self._links}

    @property
    def pipeline_seconds(self) -> dict[str, Histogram]:
        """The durations of presence pipelines, by server."""
        return {link.name: link.batcher.seconds for link in self._links}

    @property
    def pipeline_failures(self) -> int:
        """The number of presence pipelines that failed."""
        return sum(link.batcher.failures for link in self._links)

    def checks(self) -> dict[str, str]:
        """Return what is wrong with the store, and with hearing the others."""
        return self.home.monitor.checks()

    async def start(self, tasks: TaskGroup) -> None:
        """Keep contact and run pipelines; wait a little for the store, which may be away."""
        await self._start_links(tasks)
        with anyio.move_on_after(2 * TIMEOUT_S):
            for link in list(self._links):
                await link.monitor.made.wait()
        if self.is_isolated():
            log.warning("the store cannot be reached; this node is isolated until it can")
        else:
            await self._check_server()
            with contextlib.suppress(StoreAwayError, *AWAY), anyio.move_on_after(TIMEOUT_S):
                await self.policy.look_for_change()  # before clients come, of whom some may be denied
        tasks.start_soon(self.policy.run)

    async def _start_links(self, tasks: TaskGroup) -> None:
        for link in self._links:
            tasks.start_soon(link.run)

    async def _check_server(self) -> None:
        """Warn of a server that may throw presence away."""
        for link in self._links:
            policy = await link.read_setting("maxmemory-policy")
            if policy not in {"", "noeviction"}:
                log.warning("the store may evict members; set maxmemory-policy noeviction", policy=policy)

    async def stop(self) -> None:
        """Take this node out of the registry."""
        keys = self._keys.registry()
        with anyio.move_on_after(TIMEOUT_S):
            try:
                await self.home.client.execute("ZREM", keys.expiry, self._node)
                await self.home.client.execute("HDEL", keys.records, self._node)
            except AWAY as exc:
                log.info("this node stays in the registry until its record ends", error=str(exc))

    def sweep(self) -> None:
        """Have the store swept, views that have missed something read, and what was noted sent."""
        self.observe_clock()
        self._log_lost_something()
        self.store.sweep_expired()
        for link in self._links:
            if not link.part.is_isolated:
                link.shared.sweep_expired()
            link.bus.forget_late_payloads()
        if not self.home.part.is_isolated:
            self.registry.renew_due()
            self.room_index.send_noted()
        self._rejoin.check()

    # --- what links say ---

    def is_away(self, link: Link, tag: str) -> bool:
        """Tell whether calls about a hash tag must not go over a link: its part is isolated, or at another server."""
        part = self._parts.of(tag)
        return part.link is not link or part.is_isolated

    def mark_away(self, link: Link, tag: str, error: Exception) -> None:
        """End contact with a server: a call has failed in a way that says that it is away."""
        del tag
        link.monitor.mark_unreachable(f"{type(error).__name__}: {error}")

    def note_slot_refused(self, link: Link) -> None:
        """Do nothing: only servers of a Cluster have slots."""

    def note_channel_dropped(self, link: Link, channel: str) -> None:
        """Do nothing: only servers of a Cluster have channels of slots."""

    def note_contact_lost(self, link: Link) -> None:
        """Serve from memory what is on a server, which is away."""
        link.part.lost_ms = self._clock.now_ms()
        self._on(Lost(), link)

    def note_contact_restored(self, link: Link, without_s: float, same_server: bool) -> None:
        """Begin the rejoin of what is on a server, which is in reach again."""
        self._on(Restored(round(without_s * 1000), same_server), link)

    def _forgotten(self) -> None:
        self._on(NodeForgotten(), self.home)

    def _others_silent(self, silent_ms: int) -> None:
        """Judge nobody at first where no other node has spoken for long: they may all be cut off."""
        if silent_ms > self._patience_ms:
            log.info("no other node has been heard of for a while", ms=silent_ms)
            for link in list(self._links):
                self._on(OthersSilent(), link)

    def _renew_contact(self, concerned: Concerned) -> None:
        for link in dict.fromkeys(part.link for part in concerned.parts):
            link.monitor.mark_unreachable()

    def _give_up_unsent(self, concerned: Concerned) -> None:
        """Have operations that were not sent yet carried out in memory."""
        for link in dict.fromkeys(part.link for part in concerned.parts):
            link.shared.abandon(concerned)

    def _note_anew(self, concerned: Concerned) -> None:
        """Note this node's connections and rooms anew, soon: the store may have lost them.

        Not where a slot has moved alone: its keys moved with it, unless its server was lost (`ShardedBackend`).
        """
        if concerned.whole:
            self.registry.renew_all()
            self.room_index.note_all_anew()

    def hold_rest_ms(self, room: str) -> int:
        """Return for how long a room is asked to evict nobody."""
        self.observe_clock()
        return self._parts.of(room).connectivity.hold_rest_ms(self._clock.now_ms())

    def observe_clock(self) -> None:
        """Check whether this process was frozen, or the clock of a server put forward, before members expire by it."""
        self._clock.now_ms()
        suspended_ms, self._suspended_ms = (
            self._clock.suspended_ms - self._suspended_ms,
            self._clock.suspended_ms,
        )
        if suspended_ms > self._patience_ms:
            log.warning("this process was suspended", ms=suspended_ms)
            for link in list(self._links):
                self._on(Suspended(), link)
        for link in self._links:
            stepped_ms, link.stepped_ms = link.clock.stepped_ms - link.stepped_ms, link.clock.stepped_ms
            if stepped_ms > self._patience_ms:
                log.warning("the store's clock was put forward", ms=stepped_ms)
                self._on(ClockStepped(), link)

    def carry_out_in_memory(self, room: str, request: QueuedOperation) -> None:
        """Carry out in memory what a server did not answer."""
        self.store.carry_out_in_memory(room, request)

    def ask_memory(self, ask: Callable[[PresenceStore], None]) -> None:
        """Ask this node what a server did not answer."""
        self.store.ask_again(ask)

    def note_room_position(self, room: str, generation: int, seq: int) -> None:
        """Note where the store says that a room is."""
        self.directory.rooms.views.note_position(room, generation, seq)

    def renew_tag(self, link: Link) -> bool:
        """Return False: only servers of a Cluster have slots."""
        del link
        return False

    def register(self, link: Link) -> Sequence[Call]:
        """Return the call that keeps this node's record, and agrees on the secret of resume tokens."""
        del link
        return [self._register_call()]

    def _register_call(self) -> Call:
        secret = ""
        if not self._settings.auth.resume_secret:
            secret = self.directory.tokens.secret
        return self.registry.register(secret, 2 * self._settings.presence.resume_ms)

    def take_register_answer(self, link: Link, answer: Any) -> None:
        """Take the answer to the call of `register`."""
        del link
        secret = self.registry.registered(answer)
        if secret:
            self.directory.tokens.sign_with(secret)
