"""The link to one server of the shared store: its connections, its pipelines, and whether there is contact.

A standalone server is one link; of a Cluster each primary is one.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from presence_server.bus.redis import RedisBus
from presence_server.clock import Clock
from presence_server.cluster.connectivity import Connectivity
from presence_server.cluster.parts import Part
from presence_server.config.settings import PresenceSettings
from presence_server.config.store_url import Address
from presence_server.ids import SourcedRandom
from presence_server.presence.port import PresenceStore
from presence_server.presence.redis import PresenceRedisStore, QueuedOperation, Timing
from presence_server.redis_io.batcher import PipelineBatcher
from presence_server.redis_io.client import AWAY, TIMEOUT_S
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.monitor import ConnectivityMonitor
from presence_server.redis_io.port import StoreConnections
from presence_server.redis_io.queries import ServerQueries
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.subscriber import Subscriber
from presence_server.rooms.event_codec import RoomEventCodec

if TYPE_CHECKING:
    from presence_server.rooms.events import RoomEvent

NONCE_INTERVAL_MAX_MS: Final = 1_000
RETIRE_S: Final = 3 * TIMEOUT_S
"""How long a retired link still runs: by then a pipeline that was under way is answered, or has failed."""


class LinkOwner(Protocol):
    """The backend that has the links, and is told what happens on them."""

    def is_away(self, link: "Link", tag: str) -> bool:
        """Tell whether calls about a hash tag must not go over a link: its part is isolated, or at another server."""

    def hold_rest_ms(self, room: str) -> int:
        """Return for how long a room is asked to evict nobody."""

    def observe_clock(self) -> None:
        """Check whether this process was frozen, or the clock of a server put forward."""

    def register(self, link: "Link") -> Sequence[Call]:
        """Return the call that proves that the server takes writes, and those that go with it."""

    def take_register_answer(self, link: "Link", answer: Any) -> None:
        """Take the answer to the last call of `register`, or the error that refuses it because of its slot."""

    def renew_tag(self, link: "Link") -> bool:
        """Have a link prove contact by another slot of its server; False: there is none."""

    def note_contact_lost(self, link: "Link") -> None:
        """Note that contact over a link has ended."""

    def note_contact_restored(self, link: "Link", without_s: float, same_server: bool) -> None:
        """Note that there is contact over a link again, after `without_s` seconds."""

    def note_channel_dropped(self, link: "Link", channel: str) -> None:
        """Note that the server has unsubscribed a sharded channel: it does not have the slot any more."""

    def mark_away(self, link: "Link", tag: str, error: Exception) -> None:
        """Note that a call about something with a hash tag failed."""

    def note_slot_refused(self, link: "Link") -> None:
        """Note that the server refused a question because of its slot."""

    def carry_out_in_memory(self, room: str, request: QueuedOperation) -> None:
        """Carry out in memory an operation whose call failed because the server is away."""

    def ask_memory(self, ask: Callable[[PresenceStore], None]) -> None:
        """Ask the store in memory what the server did not answer."""

    def note_room_position(self, room: str, generation: int, seq: int) -> None:
        """Note the generation and seq that the store says a room has."""


class Link:
    """One server, and all that goes over it. `tag` is a hash tag whose slot it has; "": it is not in a Cluster."""

    def __init__(
        self,
        owner: LinkOwner,
        client: StoreConnections,
        *,
        keys: Keys,
        clock: Clock,
        node: str,
        presence: PresenceSettings,
        address: Address | None = None,
        tag: str = "",
    ) -> None:
        self.address = address
        self.client = client
        self.clock = clock
        self.tag = tag
        self.stepped_ms = clock.stepped_ms
        """`clock.stepped_ms` when the owner last looked at it."""
        self._keys = keys
        self._node = node
        patience_ms, hold_ms = patience_and_hold_ms(presence)
        sharded = bool(tag)
        connectivity = Connectivity(patience_ms=patience_ms, hold_ms=hold_ms, provisional_ms=presence.ttl_ms)
        self.part = Part(self, connectivity)
        """A standalone server's only part; in a Cluster the part for slots that nobody has asked for yet."""
        self.batcher = PipelineBatcher(client.lane(), TIMEOUT_S, owner.observe_clock)
        # Calls of backends and operators have a pipeline of their own, so that they do not hold up presence.
        self._asking = PipelineBatcher(client.lane(), TIMEOUT_S, lambda: None)
        self.queries = ServerQueries(
            self._asking, lambda: self.part.is_isolated, slot_refused=lambda: owner.note_slot_refused(self)
        )
        self.subscriber = Subscriber(
            client.new_subscriber, lambda channel: owner.note_channel_dropped(self, channel)
        )
        self.monitor = ConnectivityMonitor(
            client.lane(),
            self.subscriber,
            keys.link_nonce(tag, node) if sharded else keys.nonce_channel(node),
            register=lambda: owner.register(self),
            registered=lambda answer: owner.take_register_answer(self, answer),
            lost=lambda: owner.note_contact_lost(self),
            restored=lambda without_s, same_server: owner.note_contact_restored(self, without_s, same_server),
            now_s=anyio.current_time,
            rng=SourcedRandom(),
            interval_s=min(presence.heartbeat_ms // 2, NONCE_INTERVAL_MAX_MS) / 1000,
            patience_s=patience_ms / 1000,
            sharded=sharded,
            renew_slot=lambda: owner.renew_tag(self),
        )
        timing = Timing(
            ttl_ms=presence.ttl_ms, late_ms=patience_ms, hold_ms=hold_ms, claim_ms=presence.resume_ms
        )
        self.shared = PresenceRedisStore(
            self.batcher,
            keys,
            clock,
            timing,
            node,
            hold_rest_ms=owner.hold_rest_ms,
            is_isolated=lambda room: owner.is_away(self, room),
            failed=owner.carry_out_in_memory,
            mark_away=lambda tag, error: owner.mark_away(self, tag, error),
            unanswered=owner.ask_memory,
            answered=owner.note_room_position,
            publishes="SPUBLISH" if sharded else "PUBLISH",
        )
        self.bus: RedisBus[RoomEvent] = RedisBus(
            self.batcher,
            self.subscriber,
            keys,
            RoomEventCodec(),
            is_isolated=lambda room: owner.is_away(self, room),
            mark_away=lambda room, error: owner.mark_away(self, room, error),
            contact_s=self.monitor.contact_s,
            sharded=sharded,
        )
        self._retired = anyio.Event()

    @property
    def name(self) -> str:
        """The server's address, where it is one of a Cluster."""
        return "" if self.address is None else str(self.address)

    async def run(self) -> None:
        """Keep contact and run pipelines, until `RETIRE_S` after `retire`, so that calls under way are answered."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.monitor.run)
            tasks.start_soon(self.batcher.run)
            tasks.start_soon(self._asking.run)
            await self._retired.wait()
            await anyio.sleep(RETIRE_S)
            tasks.cancel_scope.cancel()
        await self.client.aclose()

    def retire(self) -> None:
        """End `run` for good, after `RETIRE_S`: the server is no primary of the Cluster any more."""
        self._retired.set()

    async def read_setting(self, name: str) -> str:
        """Return how the server is configured; "": it does not say, which it need not be allowed to."""
        try:
            answer = await self.client.execute("CONFIG", "GET", name)
        except AWAY:
            return ""
        return bytes(answer.get(name.encode(), b"")).decode() if isinstance(answer, dict) else ""

    def move_tag(self, tag: str) -> None:
        """Prove contact by the slot of another hash tag: the one before has moved to another server."""
        self.tag = tag
        self.monitor.move_nonce(self._keys.link_nonce(tag, self._node))


def patience_and_hold_ms(presence: PresenceSettings) -> tuple[int, int]:
    """Return how long others wait for a node's heartbeats, and for how long a room holds, ms."""
    return presence.heartbeat_ms * 3 // 2, 2 * presence.heartbeat_ms
