"""The channels that a node hears besides those of its rooms: its own, and those of all nodes."""

from collections.abc import Callable

import msgspec
import structlog

from presence_server.redis_io.keys import Keys
from presence_server.redis_io.subscriber import Subscriber
from presence_server.registry.redis import RedisRegistry
from presence_server.session.claims import EpochClaims
from presence_server.throttle.policy_follower import PolicyFollower

log = structlog.get_logger()


class NodeChannels:
    """Hands what comes over the channels to the part of the node that it is for; what cannot be read is logged."""

    def __init__(
        self, keys: Keys, node: str, *, claims: EpochClaims, registry: RedisRegistry, policy: PolicyFollower
    ) -> None:
        self._own = keys.node_channel(node)
        self._commands = keys.commands_channel()
        self._policy_changes = keys.policy_channel()
        self._claims = claims
        self._registry = registry
        self._policy = policy

    def listen_on(self, subscriber: Subscriber, ready: Callable[[], None] | None = None) -> None:
        """Subscribe to all of them; `ready` is called when the node's own is heard."""
        subscriber.subscribe(self._own, self._hear_own, ready)
        subscriber.subscribe(self._commands, self._hear_command)
        subscriber.subscribe(self._policy_changes, lambda _: self._policy.look_soon())

    def stop_listening_on(self, subscriber: Subscriber) -> None:
        """Unsubscribe from all of them."""
        for channel in (self._own, self._commands, self._policy_changes):
            subscriber.unsubscribe(channel)

    def _hear_own(self, payload: bytes) -> None:
        """Handle a message on this node's own channel."""
        try:
            kind, *rest = msgspec.msgpack.decode(payload)
            if kind == "claimed":
                self._claims.note_claimed_elsewhere(*rest)
            elif kind == "message":
                self._registry.receive_message(*rest)
            elif kind == "rooms?":
                self._registry.receive_rooms_question(*rest)
            elif kind == "rooms":
                self._registry.receive_rooms_answer(*rest)
        except (msgspec.MsgspecError, ValueError, TypeError) as exc:
            log.warning("a message of another node cannot be read", error=str(exc))

    def _hear_command(self, payload: bytes) -> None:
        """Handle a command on the channel of all nodes."""
        try:
            self._registry.receive_command(payload)
        except ValueError as exc:
            log.warning("a command cannot be read", error=str(exc))
