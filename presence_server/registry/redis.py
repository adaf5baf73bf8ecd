"""The registry that nodes share.

What it holds of a user's connections is a hint: a node that dies leaves its entries behind, and who reads them asks
which nodes are alive.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Final

import anyio
import msgspec
import structlog

from presence_server.clock import Clock
from presence_server.errors import BansFullError, StoreAwayError
from presence_server.protocol.messages import Document
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.queries import Queries
from presence_server.redis_io.scripts import Call, Script, script_call
from presence_server.registry.bans import (
    BANS_MAX,
    BanEntry,
    Bans,
    ban_entry,
    ban_name,
    ban_of,
    page_of,
    read_cursor,
)
from presence_server.registry.commands import Command
from presence_server.registry.noted_users import LiveNodes, NotedUser
from presence_server.registry.own_connections import OwnConnections
from presence_server.registry.port import (
    Connections,
    Located,
    LostNode,
    NodeStatus,
    UserStatus,
    rooms_here,
)

PACKAGE: Final = "presence_server.registry"
REGISTER: Final = Script(PACKAGE, "register")
USER: Final = Script(PACKAGE, "user")
COMMAND: Final = Script(PACKAGE, "command")
MESSAGE: Final = Script(PACKAGE, "message")
BANS: Final = Script(PACKAGE, "bans")
COMMANDS_KEPT_MS: Final = 3_600_000
"""A node that was away for no longer than this applies the commands that it has missed."""
COMMANDS_MAX: Final = 10_000
"""Commands that the store keeps, and that a node remembers to have applied."""
STEP_NOTICED_MS: Final = 2_000
"""The longest that a node may take to notice that the store's clock was put back."""
ROOMS_ANSWER_S: Final = 1.0
"""The longest that another node is waited for that is asked where its connections are."""
ASKED_MAX: Final = 8
"""Connections in one question to a node: the answer names up to `limits.rooms` rooms of each."""
DEAD_MAX: Final = 1_000
"""Nodes in one question about when they died."""

_encode = msgspec.msgpack.Encoder().encode
_decode_command = msgspec.msgpack.Decoder(Command).decode
log = structlog.get_logger()


class RedisRegistry:
    """Nodes, users' connections and commands in Redis or Valkey; see `Registry` for what it promises.

    `register` makes the call that is sent with every proof of contact, and `registered` takes its answer: by it
    this node stays in the registry, and hears of commands whose message was lost. `forgotten` is called when the store
    has lost what this node told it: it was wiped, or took the node for dead. Then `renew_all` is to be called.
    `others_silent(ms)` is called once, at first, where there are other nodes: for how long none was heard of.
    `connections()` returns those that commands and messages are for: a function, since they note themselves here.
    `is_deaf()` tells whether the server is out of reach over which nodes hear each other.
    """

    def __init__(
        self,
        queries: Queries,
        keys: Keys,
        clock: Clock,
        describe: Callable[[], NodeStatus],
        *,
        forgotten: Callable[[], None],
        others_silent: Callable[[int], None],
        connections: Callable[[], Connections],
        is_deaf: Callable[[], bool],
        node: str,
        ttl_ms: int,
        last_seen_ms: int,
    ) -> None:
        self._connections = connections
        self._queries = queries
        self._keys = keys
        self._clock = clock
        self._describe = describe
        self._forgotten = forgotten
        self._others_silent = others_silent
        self._is_deaf = is_deaf
        self._node = node
        self._ttl_ms = ttl_ms
        self._last_seen_ms = last_seen_ms
        self._bans = Bans()
        self._questions: dict[int, Callable[[dict[str, list[str]]], None]] = {}
        """The callbacks of questions to other nodes that are not answered yet."""
        self._numbers = count()
        self._applied: dict[tuple[int, int], None] = {}
        """Commands that this node has applied, by their places; a store with older data brings them back."""
        self._began = (0, 0)
        """Commands up to this one are from before this node began, or were applied and are remembered no more."""
        self._last_command = ""
        self._registered = False
        self._own = OwnConnections(queries, keys, clock, node=node, last_seen_ms=last_seen_ms)

    # --- this node ---

    def register(self, secret: str, secret_ms: int) -> Call:
        """Return the call that keeps this node's record, and brings what it may have missed.

        `secret` is what the nodes sign resume tokens with if nobody has said so before; "": it is configured.
        """
        record = msgspec.json.encode(self._describe())
        sent_ms = self._clock.wall_ms() if self._registered else 0
        arguments = (
            *(self._node, record, self._ttl_ms, secret, secret_ms, self._keys.probe_channel()),
            *(
                self._last_command,
                self._own.remembered_ms,
                sent_ms,
                self._ttl_ms // 2,
                self._own.least_incarnation,
            ),
        )
        return script_call(REGISTER, self._keys.registry(), arguments)

    def registered(self, answer: Sequence[Any]) -> str:
        """Take the answer to `register`; return the secret that the nodes share."""
        now_ms, secret, known, last_command, commands, bans, heard_ms = answer
        self._clock.follow(int(now_ms))
        for name, until_ms in zip(bans[::2], bans[1::2], strict=True):
            self._bans.set(bytes(name).decode(), int(until_ms))
        for command_id, payload in commands:
            self._apply_once(_place(command_id), payload)
        if not self._last_command:
            self._began = _place(last_command)
        self._last_command = bytes(last_command).decode()
        if self._registered and not known:
            log.warning("the store has forgotten this node; its connections and rooms are noted anew")
            self._forgotten()
        if not self._registered and heard_ms:
            self._others_silent(max(0, int(now_ms) - int(heard_ms)))
        self._registered = True
        return bytes(secret).decode()

    def receive_command(self, payload: bytes) -> None:
        """Take a command from the channel of all nodes."""
        command_id, _, command = payload.partition(b" ")
        place = _place(command_id)
        if self._last_command and place > _place(self._last_command.encode()):
            self._apply_once(place, command)

    def receive_message(self, user: str, data: str, at: int) -> None:
        """Take a message to a user from this node's channel."""
        self._connections().deliver_to_user(user, msgspec.Raw(data.encode()), at)

    def renew_due(self) -> None:
        """Note connections anew whose lease has run for a while, and tell of ends that could not be told."""
        self._own.renew_due()

    def renew_all(self) -> None:
        """Have every connection noted anew, soon; see `OwnConnections.renew_all`."""
        self._own.renew_all()

    def opened(self, user: str, cid: str, at: int, epoch: int = 1) -> None:
        """Note that a connection is here."""
        self._own.opened(user, cid, at, epoch)

    def withhold(self, cid: str) -> None:
        """Note a connection no more until it is opened again."""
        self._own.withhold(cid)

    def closed(self, user: str, cid: str) -> None:
        """Note that a connection has ended."""
        self._own.closed(user, cid)

    def banned_until(self, user: str, room: str = "") -> int:
        """Return when a user may come back."""
        return self._bans.until(user, room, self._clock.wall_ms())

    def receive_rooms_question(self, asker: str, number: int, cids: list[str]) -> None:
        """Tell another node which rooms connections of this one are in."""
        rooms = {cid: rooms_here(self._connections(), cid) for cid in cids}
        self._tell_node(asker, ("rooms", number, rooms))

    def receive_rooms_answer(self, number: int, rooms: dict[str, list[str]]) -> None:
        """Take another node's answer to `rooms`."""
        answer = self._questions.pop(number, None)
        if answer is not None:
            answer(rooms)

    # --- all nodes ---

    async def users(self, users: Sequence[str]) -> list[UserStatus]:
        """Return where users are, in one pipeline, and one more where nodes have died."""
        reads = [script_call(USER, self._keys.user(user), ()) for user in users]
        # Asked for last: a node registers before it notes connections, so each that has noted one and lives is there.
        *answers, incarnations, alive = await self._queries.ask(*reads, *self._living_calls())
        found = [NotedUser(answer) for answer in answers]
        live = LiveNodes(self._node, alive, incarnations)
        dead = list(dict.fromkeys(c.node for noted in found for c in noted.connections if c.node not in live))
        heard_ms: dict[str, int] = {}
        for i in range(0, len(dead), DEAD_MAX):
            some = dead[i : i + DEAD_MAX]
            (scores,) = await self._queries.ask(Call(("ZMSCORE", self._keys.registry().gone, *some)))
            heard_ms |= {
                node: int(float(ms)) for node, ms in zip(some, scores, strict=True) if ms is not None
            }
        return [noted.status(live, heard_ms, self._last_seen_ms) for noted in found]

    async def nodes(self) -> list[NodeStatus]:
        """Return the nodes that are alive."""
        records = self._keys.registry().records
        alive, kept = await self._queries.ask(self._alive_call(), Call(("HGETALL", records)))
        found = [kept[node] for node in sorted(alive) if node in kept]
        return [msgspec.json.decode(record, type=NodeStatus) for record in found]

    async def lost_nodes(self, since_ms: int, limit: int) -> list[LostNode]:
        """Return the nodes that were lost lately."""
        gone = self._keys.registry().gone
        (found,) = await self._queries.ask(
            Call(("ZREVRANGEBYSCORE", gone, "+inf", since_ms, "WITHSCORES", "LIMIT", 0, limit))
        )
        return [LostNode(bytes(node).decode(), int(heard_ms)) for node, heard_ms in found]

    async def bans(self, cursor: str | None, limit: int) -> tuple[list[BanEntry], str | None]:
        """Return a page of the bans in force."""
        until_ms, name = read_cursor(cursor)
        arguments = (until_ms, name, limit + 1)
        (answer,) = await self._queries.ask(script_call(BANS, [self._keys.registry().bans], arguments))
        entries = [
            ban_entry(bytes(name).decode(), int(until))
            for name, until in zip(answer[::2], answer[1::2], strict=True)
        ]
        return page_of(entries, limit)

    async def locate(self, cid: str) -> Located | None:
        """Return where a connection is, unless its node has died."""
        read = Call(("GET", self._keys.connection(cid)))
        entry, incarnations, alive = await self._queries.ask(read, *self._living_calls())
        if entry is None:
            return None
        node, incarnation, _, user = bytes(entry).decode().split(" ", 3)
        live = LiveNodes(self._node, alive, incarnations)
        return Located(user, node) if live.counts(node, int(incarnation)) else None

    async def rooms(self, connections: Mapping[str, str]) -> dict[str, list[str] | None]:
        """Return the rooms of connections, from the nodes that have them."""
        found: dict[str, list[str] | None] = dict.fromkeys(connections)
        elsewhere: dict[str, list[str]] = {}
        for cid, node in connections.items():
            if node == self._node:
                found[cid] = rooms_here(self._connections(), cid)
            else:
                elsewhere.setdefault(node, []).append(cid)
        with anyio.move_on_after(ROOMS_ANSWER_S):
            async with anyio.create_task_group() as asking:
                for node, cids in elsewhere.items():
                    for i in range(0, len(cids), ASKED_MAX):
                        asking.start_soon(self._ask_rooms, node, cids[i : i + ASKED_MAX], found)
        return found

    async def send_command(self, command: Command) -> bool:
        """Give a command: written down for those who are away, and published for all others."""
        ban = ban_of(command)
        named = ("", 0) if ban is None else (ban_name(ban.user, ban.room), ban.until)
        arguments = (
            _encode(command),
            COMMANDS_KEPT_MS,
            COMMANDS_MAX,
            self._keys.commands_channel(),
            *named,
            BANS_MAX,
        )
        keys = self._keys.registry()
        (answer,) = await self._queries.ask(script_call(COMMAND, [keys.commands, keys.bans], arguments))
        command_id, held = bytes(answer[0]), bool(answer[1])
        if not command_id:
            raise BansFullError
        self.receive_command(command_id + b" " + _encode(command))
        return held

    async def message(self, user: str, data: Document, at: int) -> None:
        """Send something to the nodes that a user is on."""
        if self._is_deaf():  # else the store would accept a message that no node receives
            raise StoreAwayError
        prefix, _, suffix = self._keys.node_channel("\0").partition("\0")
        payload = _encode(("message", user, bytes(data).decode(), at))
        arguments = (prefix, suffix, payload)
        await self._queries.ask(script_call(MESSAGE, self._keys.user(user)[:1], arguments))

    def _alive_call(self) -> Call:
        """Return the call that reads which nodes are alive."""
        return Call(("ZRANGEBYSCORE", self._keys.registry().expiry, f"({self._clock.wall_ms()}", "+inf"))

    def _living_calls(self) -> tuple[Call, Call]:
        """Return the calls whose answers say what counts of the nodes that are alive."""
        return Call(("HGETALL", self._keys.registry().incarnations)), self._alive_call()

    async def _ask_rooms(self, node: str, cids: list[str], found: dict[str, list[str] | None]) -> None:
        """Ask a node, and wait for its answer."""
        number, answered = next(self._numbers), anyio.Event()

        def answer(rooms: dict[str, list[str]]) -> None:
            found.update((cid, rooms.get(cid)) for cid in cids)
            answered.set()

        self._questions[number] = answer
        try:
            self._tell_node(node, ("rooms?", self._node, number, cids))
            await answered.wait()
        finally:
            self._questions.pop(number, None)

    def _tell_node(self, node: str, message: tuple[object, ...]) -> None:
        self._queries.tell(Call(("PUBLISH", self._keys.node_channel(node), _encode(message))))

    def _apply_once(self, place: tuple[int, int], payload: bytes) -> None:
        """Apply a command unless this node has applied it already, or began after it."""
        twice = self._clock.repeated_time
        # A store that was wiped on a clock that went back gives new commands the places of old ones.
        is_new = twice.begin_ms - STEP_NOTICED_MS < place[0] <= twice.end_ms or place > self._began
        if place in self._applied or not is_new:
            return
        self._applied[place] = None
        if len(self._applied) > COMMANDS_MAX:
            forgotten = next(iter(self._applied))
            del self._applied[forgotten]
            self._began = max(self._began, forgotten)
        self._apply(payload)

    def _apply(self, payload: bytes) -> None:
        try:
            command = _decode_command(payload)
        except msgspec.MsgspecError as exc:
            log.warning("a command cannot be read", error=str(exc))
            return
        self._bans.note_command(command, self._clock.wall_ms())
        try:
            self._connections().apply_command(command)
        except Exception:  # every node gets the same command: it must not end them all
            log.exception("a command failed", command=type(command).__name__)


def _place(command_id: bytes) -> tuple[int, int]:
    """Return where a command stands in the stream."""
    ms, _, number = bytes(command_id).partition(b"-")
    return int(ms), int(number)
