"""A Redis in memory, on virtual time: it runs what nodes send, answers as the server does, and fails in its ways.

Everything that changes it is kept as a log since it was last empty, so that it can become what it was some time ago.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from presence_server.presence.state import RoomState
from tests.simulation.keyspace import Argument, Hash, Keyspace, by_score, number, raw, text
from tests.simulation.known_scripts import run_script

if TYPE_CHECKING:
    from presence_server.presence.roster import Record
    from tests.simulation.links import Link, SimulatedSubscriber
    from tests.simulation.world import World

STORE: Final = "store"
"""The store's name among those whose callbacks can be put aside."""
Refusal = Literal["READONLY", "OOM", "LOADING"]
Command = tuple[Argument, ...]
READS: Final = frozenset(
    (
        "TIME",
        "PING",
        "GET",
        "INFO",
        "CONFIG",
        "HMGET",
        "HGETALL",
        "ZMSCORE",
        "ZRANGEBYSCORE",
        "PUBLISH",
        "SCRIPT",
    )
)
"""Plain commands that change no key."""
FIELDS: Final = ("run_id", "master_replid")


class Recorded(NamedTuple):
    """A command, its answer, and what it published."""

    command: Command
    answer: Any
    published: list[tuple[str, bytes]]


class Logged(NamedTuple):
    """A command that has run, the world's time and the store's then."""

    world_ms: int
    at_ms: int
    command: Command


class SimulatedStore:
    """One server. Faults with a length in ms end by themselves."""

    def __init__(self, world: "World") -> None:
        self.subscribers: dict[str, dict[SimulatedSubscriber, None]] = {}
        """Who hears each channel."""
        self.links: list[Link] = []
        """Every node's way to this store."""
        self.calls = 0
        """Commands that have run."""
        self.record: list[Recorded] | None = None
        """Every command from now on; None: it is not kept."""
        self._world = world
        self._offset_ms = world.beginning_ms
        self._keyspace = Keyspace()
        self._log: deque[Logged] = deque()
        self._loaded: set[str] = set()
        self._identity = self._new_identity()
        self._refusal: Refusal | None = None
        self._refusal_number = 0
        self._is_down = False
        self._replaying = False
        self._published: list[tuple[str, bytes]] = []
        """By the present command, where it is recorded."""

    # --- what there is ---

    @property
    def wall_ms(self) -> int:
        """Return this server's TIME."""
        return self._world.now_ms + self._offset_ms

    @property
    def is_down(self) -> bool:
        """Whether connections are refused because the server is being restarted."""
        return self._is_down

    @property
    def refusal(self) -> Refusal | None:
        """Return with what calls are refused at present."""
        return self._refusal

    @property
    def is_frozen(self) -> bool:
        """Whether the server's process is stopped."""
        return self._world.loop.is_frozen(STORE)

    def keys(self) -> dict[str, int | None]:
        """Return every key with how long it will last, in ms; None: for ever, which none may."""
        self._keyspace.now_ms = self.wall_ms
        return self._keyspace.ttls()

    def rooms(self) -> dict[str, RoomState]:
        """Return the rooms that there are, by the first of their keys."""
        self._keyspace.now_ms = self.wall_ms
        found = {key: self._keyspace.get(key) for key in self._keyspace.ttls()}
        return {key: value for key, value in found.items() if isinstance(value, RoomState)}

    def roster(self, room: str) -> "dict[str, Record]":
        """Return who is in a room now, by cid; expired members are not."""
        self._keyspace.now_ms = now_ms = self.wall_ms
        state: RoomState | None = self._keyspace.get(self._world.keys.room(room)[0])
        if state is None:
            return {}
        return {record.member.cid: record for record in state.snapshot(now_ms).records}

    # --- faults ---

    def freeze(self) -> None:
        """Stop the process: its sockets stay, and what comes waits in them."""
        self._world.note(STORE, "freeze")
        self._world.loop.freeze(STORE)

    def thaw(self) -> None:
        """Let the process go on."""
        if self.is_frozen:
            self._world.note(STORE, "thaw")
            self._world.loop.thaw(STORE)

    def restart_empty(self, down_ms: float) -> None:
        """Kill the server, and start it with nothing after a while."""
        self._world.note(STORE, f"restart empty after {down_ms:.0f} ms")
        self._restart(down_ms, lambda: self._become([]))

    def restore(self, older_ms: float, down_ms: float) -> None:
        """Kill the server, and start it from a snapshot of some time ago."""
        self._world.note(STORE, f"restart with the data of {older_ms:.0f} ms ago after {down_ms:.0f} ms")
        until_ms = self._world.now_ms - older_ms
        kept = [logged for logged in self._log if logged.world_ms <= until_ms]
        self._restart(down_ms, partial(self._become, kept))

    def promote_replica(self, lost_calls: int, down_ms: float) -> None:
        """Kill the server; a replica that lacks the last calls takes its place."""
        self._world.note(STORE, f"a replica without the last {lost_calls} calls after {down_ms:.0f} ms")
        kept = list(self._log)
        self._restart(down_ms, partial(self._become, kept[: max(len(kept) - lost_calls, 0)]))

    def flush_all(self) -> None:
        """Delete every key; connections and scripts stay."""
        self._world.note(STORE, "FLUSHALL")
        self._become([])

    def script_flush(self) -> None:
        """Forget every script."""
        self._world.note(STORE, "SCRIPT FLUSH")
        self._loaded.clear()

    def refuse(self, refusal: Refusal, ms: float) -> None:
        """Answer with an error for a while, as a read-only, full or loading server does."""
        self._world.note(STORE, f"{refusal} for {ms:.0f} ms")
        self._refusal = refusal
        self._refusal_number += 1
        self._world.at(ms, partial(self._accept, self._refusal_number))

    def step_clock(self, ms: int) -> None:
        """Step the server's clock; its keys end by it."""
        self._world.note(STORE, f"clock stepped by {ms} ms")
        self._offset_ms += ms

    def _accept(self, refusal_number: int) -> None:
        if refusal_number == self._refusal_number:
            self._refusal = None
            self._world.note(STORE, "accepts calls again")

    def _restart(self, down_ms: float, begin: Callable[[], None]) -> None:
        """Lose every connection, refuse new ones for a while, and be another process then."""
        self._world.loop.thaw(STORE)
        self._is_down = True
        self._refusal = None
        for link in self.links:
            link.reset_by_store()

        def start() -> None:
            # Where another restart has ended meanwhile, clients have connected to that process.
            if not self._is_down:
                for link in self.links:
                    link.reset_by_store()
            begin()
            self._loaded.clear()
            self._identity = self._new_identity()
            self._is_down = False
            self._world.note(STORE, "is up")

        self._world.at(down_ms, start)

    def _become(self, logged: Sequence[Logged]) -> None:
        """Hold what there was after these commands."""
        self._keyspace = Keyspace()
        self._log = deque(logged)
        self._replaying = True
        for _, at_ms, command in logged:
            self._keyspace.now_ms = at_ms
            self._carry_out(command)
        self._replaying = False

    def _new_identity(self) -> tuple[str, str]:
        bits = self._world.random.getrandbits
        return f"{bits(160):040x}", f"{bits(160):040x}"

    # --- pub/sub ---

    def publish(self, channel: str, payload: bytes) -> int:
        """Send a message to everybody who hears a channel; return how many they are."""
        if self._replaying:
            return 0
        if self.record is not None:
            self._published.append((channel, payload))
        heard_by = self.subscribers.get(channel)
        if not heard_by:
            return 0
        for subscriber in heard_by:
            subscriber.push([b"message", channel.encode(), payload], is_message=True)
        return len(heard_by)

    # --- commands ---

    def run(self, command: Command) -> Any:
        """Run one command; return its answer, or the error in its place."""
        self.calls += 1
        self._keyspace.now_ms = self.wall_ms
        try:
            self._check(command)
            answer = self._carry_out(command)
        except (ResponseError, BusyLoadingError) as exc:
            answer = exc
        if self.record is not None:
            published, self._published = self._published, []
            self.record.append(Recorded(command, answer, published))
        return answer

    def _check(self, command: Command) -> None:
        """Refuse what a server in this state refuses; otherwise write it down."""
        name = command[0]
        if self._refusal == "LOADING":
            raise BusyLoadingError("LOADING Redis is loading the dataset in memory")
        is_script = name in {"EVALSHA", "EVAL"}
        if is_script and name == "EVALSHA" and command[1] not in self._loaded:
            raise NoScriptError("NOSCRIPT No matching script. Please use EVAL.")
        if not is_script and name in READS:
            return
        if self._refusal == "READONLY":
            raise ReadOnlyError("READONLY You can't write against a read only replica.")
        if self._refusal == "OOM":
            raise OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'.")
        self._log.append(Logged(self._world.now_ms, self._keyspace.now_ms, command))

    def _carry_out(self, command: Command) -> Any:
        name = text(command[0])
        if name == "EVALSHA":
            return self._run_script(text(command[1]), command[2:])
        if name == "EVAL":
            digest = hashlib.sha1(raw(command[1]), usedforsecurity=False).hexdigest()
            if not self._replaying:
                self._loaded.add(digest)
            return self._run_script(digest, command[2:])
        try:
            plain = COMMANDS[name]
        except KeyError:
            raise NotImplementedError(f"the simulated store has no {name}") from None
        return plain(self, command[1:])

    def _run_script(self, digest: str, rest: Command) -> Any:
        key_count = int(rest[0])
        keys = [text(key) for key in rest[1 : key_count + 1]]
        arguments = rest[key_count + 1 :]
        return run_script(digest, keys, arguments, self._keyspace, self.publish)

    def _publish(self, arguments: Command) -> int:
        return self.publish(text(arguments[0]), raw(arguments[1]))

    def _time(self, _: Command) -> list[bytes]:
        seconds, ms = divmod(self._keyspace.now_ms, 1_000)
        return [str(seconds).encode(), str(ms * 1_000).encode()]

    def _set(self, arguments: Command) -> bytes | None:
        key, value, *options = arguments
        named = [text(option) for option in options]
        if "NX" in named and self._keyspace.get(text(key)) is not None:
            return None
        ttl_ms = int(named[named.index("PX") + 1]) if "PX" in named else None
        self._keyspace.set(text(key), raw(value), ttl_ms)
        return b"OK"

    def _get(self, arguments: Command) -> Any:
        return self._keyspace.get(text(arguments[0]))

    def _remove_fields(self, arguments: Command) -> int:
        """ZREM and HDEL: a sorted set and a hash are both dicts here."""
        key, *fields = map(text, arguments)
        kept = self._keyspace.get(key) or {}
        removed = [field for field in fields if kept.pop(field, None) is not None]
        self._keyspace.drop_empty(key)
        return len(removed)

    def _range_by_score(self, arguments: Command) -> list[bytes]:
        key, lowest, _ = map(text, arguments)
        exclusive = lowest.startswith("(")
        bound = float(lowest.lstrip("("))
        ordered = by_score(self._keyspace.get(key) or {})
        return [
            name.encode() for name, score in ordered if score > bound or (score == bound and not exclusive)
        ]

    def _scores(self, arguments: Command) -> list[bytes | None]:
        key, *members = map(text, arguments)
        kept = self._keyspace.get(key) or {}
        return [number(kept[member]) if member in kept else None for member in members]

    def _fields(self, arguments: Command) -> list[bytes | None]:
        key, *fields = map(text, arguments)
        kept: Hash = self._keyspace.get(key) or {}
        return [kept.get(field) for field in fields]

    def _hash_of(self, arguments: Command) -> dict[bytes, bytes]:
        kept = self._keyspace.get(text(arguments[0])) or {}
        return {field.encode(): value for field, value in kept.items()}

    def _info(self, _: Command) -> bytes:
        run_id, replication_id = self._identity
        return f"# Server\r\nrun_id:{run_id}\r\n# Replication\r\nmaster_replid:{replication_id}\r\n".encode()

    def _script(self, arguments: Command) -> Any:
        digests = [hashlib.sha1(raw(part), usedforsecurity=False).hexdigest() for part in arguments[1:]]
        if arguments[0] == "LOAD":
            self._loaded.update(digests)
            return digests[0].encode()
        return [int(text(digest) in self._loaded) for digest in arguments[1:]]

    def _config(self, _: Command) -> dict[bytes, bytes]:
        return {b"maxmemory-policy": b"noeviction"}

    def _ping(self, _: Command) -> bytes:
        return b"PONG"


COMMANDS: Final[dict[str, Callable[[SimulatedStore, Command], Any]]] = {
    "PUBLISH": SimulatedStore._publish,
    "TIME": SimulatedStore._time,
    "SET": SimulatedStore._set,
    "GET": SimulatedStore._get,
    "ZREM": SimulatedStore._remove_fields,
    "HDEL": SimulatedStore._remove_fields,
    "ZRANGEBYSCORE": SimulatedStore._range_by_score,
    "ZMSCORE": SimulatedStore._scores,
    "HMGET": SimulatedStore._fields,
    "HGETALL": SimulatedStore._hash_of,
    "INFO": SimulatedStore._info,
    "SCRIPT": SimulatedStore._script,
    "CONFIG": SimulatedStore._config,
    "PING": SimulatedStore._ping,
}
