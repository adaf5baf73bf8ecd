"""The registry that nodes share.

What it holds of a user's connections is a hint: a node that dies leaves its entries behind, and who reads them asks
which nodes are alive.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, islice
from typing import Any, Final, NamedTuple

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
from presence_server.registry.port import (
    Connections,
    Located,
    LostNode,
    NodeStatus,
    UserConnection,
    UserStatus,
    rooms_here,
)

PACKAGE: Final = "presence_server.registry"
REGISTER: Final = Script(PACKAGE, "register")
OPENED: Final = Script(PACKAGE, "opened")
LOCATED: Final = Script(PACKAGE, "located")
CLOSED: Final = Script(PACKAGE, "closed")
FORGET: Final = Script(PACKAGE, "forget")
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
DEPARTED_MAX: Final = 100_000
"""Ended connections that are told on the store's return; of more the lease ends."""
ROOMS_ANSWER_S: Final = 1.0
"""The longest that another node is waited for that is asked where its connections are."""
ASKED_MAX: Final = 8
"""Connections in one question to a node: the answer names up to `limits.rooms` rooms of each."""
LEASE_MS: Final = 3_600_000
"""A user's connections are noted anew before this is over; without that the hint ends."""
GONE: Final = 3
"""The index, among the registry's keys, of the one that says when dead nodes were last heard of."""
INCARNATIONS: Final = 4
"""The index, among the registry's keys, of the one that has the least incarnation of each node that counts."""
DEAD_MAX: Final = 1_000
"""Nodes in one question about when they died."""
RENEWALS_MAX: Final = 500
"""Connections noted anew in one sweep, and ends told again."""

_encode = msgspec.msgpack.Encoder().encode
_decode_command = msgspec.msgpack.Decoder(Command).decode
log = structlog.get_logger()


class NotedConnection(NamedTuple):
    """A connection as its node noted it, and when it last did; it does so again before its lease ends.

    `incarnation` is the node's when it did; see `RedisRegistry.renew_all`.
    """

    cid: str
    node: str
    at: int
    noted_ms: int
    incarnation: int


class Living:
    """The nodes that are alive, and the least incarnation of each that counts."""

    def __init__(self, own: str, alive: Sequence[bytes], incarnations: Mapping[bytes, bytes]) -> None:
        # This node is alive, whatever the store's clock has done to its record.
        self._nodes = {own, *(bytes(node).decode() for node in alive)}
        self._least = {bytes(node).decode(): int(least) for node, least in incarnations.items()}

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def has(self, node: str, incarnation: int) -> bool:
        """Tell whether what a node noted in an incarnation still counts."""
        return node in self._nodes and incarnation >= self._least.get(node, 0)


class HeldConnection(NamedTuple):
    """A connection of this node: whose it is, since when, its epoch, and when it is to be noted anew."""

    user: str
    at: int
    epoch: int
    due_ms: int


class NotedUser:
    """A user, as the store knows it."""

    def __init__(self, answer: Sequence[Any]) -> None:
        now_ms, seen_ms, *entries = answer
        self.connections: list[NotedConnection] = []
        self._now_ms = int(now_ms)
        self._seen_ms = int(seen_ms)
        for cid, entry in zip(entries[::2], entries[1::2], strict=True):
            node, *numbers = bytes(entry).decode().split(" ")
            at, noted_ms, incarnation, _ = map(int, numbers)
            self.connections.append(NotedConnection(bytes(cid).decode(), node, at, noted_ms, incarnation))

    def status(self, living: Living, heard_ms: Mapping[str, int], last_seen_ms: int) -> UserStatus:
        """Return where the user is; `heard_ms` is when nodes that died were last heard of, as far as that is known."""
        here = []
        seen_ms = self._seen_ms
        for connection in self.connections:
            counts = living.has(connection.node, connection.incarnation)
            if counts and self._now_ms - connection.noted_ms < LEASE_MS:
                here.append(UserConnection(connection.cid, connection.node, connection.at))
            else:
                seen_ms = max(seen_ms, connection.noted_ms, heard_ms.get(connection.node, 0))
        if here:
            return UserStatus(sorted(here, key=lambda connection: connection.at), self._now_ms)
        return UserStatus([], seen_ms if self._now_ms - seen_ms < last_seen_ms else None)


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
        self._remembered_ms = max(last_seen_ms, LEASE_MS)
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
        # Every connection of this node, by cid; the one to be noted anew next is first.
        self._here: OrderedDict[str, HeldConnection] = OrderedDict()
        self._unnoted: dict[tuple[str, Script], None] = {}
        """Connections here that could not be noted, each with the script that is to be called again."""
        self._incarnation = 0
        self._least_incarnation = 0
        """The least incarnation that counts: entries that this node noted in an earlier one do not."""
        self._completing = 0
        """The incarnation of which every connection is noted once the calls made so far have run; 0: none."""
        self._departed: dict[str, str] = {}
        """Connections, with their users, whose end the store has not been told."""

    # --- this node ---

    def register(self, secret: str, secret_ms: int) -> Call:
        """Return the call that keeps this node's record, and brings what it may have missed.

        `secret` is what the nodes sign resume tokens with if nobody has said so before; "": it is configured.
        """
        record = msgspec.json.encode(self._describe())
        sent_ms = self._clock.wall_ms() if self._registered else 0
        arguments = (
            *(self._node, record, self._ttl_ms, secret, secret_ms, self._keys.probe_channel()),
            *(self._last_command, self._remembered_ms, sent_ms, self._ttl_ms // 2, self._least_incarnation),
        )
        return script_call(REGISTER, self._keys.nodes(), arguments)

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
        now_ms = self._clock.now_ms()
        for _ in range(min(len(self._here), RENEWALS_MAX)):
            cid, held = next(iter(self._here.items()))
            if held.due_ms > now_ms:
                break
            self.opened(held.user, cid, held.at, held.epoch)
        for unnoted in list(islice(self._unnoted, RENEWALS_MAX)):
            del self._unnoted[unnoted]  # one that fails again goes to the end, behind all others
            self._note(*unnoted)
        for cid in list(islice(self._departed, RENEWALS_MAX)):
            self.closed(self._departed.pop(cid), cid)
        if self._incarnation not in (self._least_incarnation, self._completing) and not self._is_due():
            self._completing = self._incarnation
            completed = partial(self._complete, self._incarnation)
            self._queries.tell(Call(("TIME",)), partial(self._complete, 0), completed)

    def renew_all(self) -> None:
        """Have every connection noted anew, soon.

        The store may be an older one, in which connections are noted that have ended since. So this begins another
        incarnation of this node; when every connection is noted in it, nothing counts that was noted in an earlier one.
        """
        # The time: a node that is restarted under the same id goes on above what it noted before.
        self._incarnation = max(self._incarnation + 1, self._clock.wall_ms())
        self._here = OrderedDict((cid, held._replace(due_ms=0)) for cid, held in self._here.items())
        self._unnoted.clear()

    def opened(self, user: str, cid: str, at: int, epoch: int = 1) -> None:
        """Note that a connection is here."""
        self._forget(cid)
        self._departed.pop(cid, None)
        self._here[cid] = HeldConnection(user, at, epoch, self._clock.now_ms() + LEASE_MS // 3)
        self._note(cid, LOCATED)
        self._note(cid, OPENED)

    def _note(self, cid: str, script: Script) -> None:
        """Note where a connection is, or that its user has it; in a Cluster two servers may keep these."""
        held = self._here[cid]
        if script is LOCATED:
            arguments = (self._node, self._incarnation, held.epoch, held.user, LEASE_MS)
            call = script_call(LOCATED, [self._keys.connection(cid)], arguments)
        else:
            noted = (cid, self._node, held.at, LEASE_MS, self._remembered_ms, self._incarnation, held.epoch)
            call = script_call(OPENED, self._keys.user(held.user)[:1], noted)
        self._queries.tell(call, partial(self._note_again, cid, script))

    def _forget(self, cid: str) -> None:
        self._here.pop(cid, None)
        for script in (LOCATED, OPENED):
            self._unnoted.pop((cid, script), None)

    def withhold(self, cid: str) -> None:
        """Note a connection no more until it is opened again."""
        self._forget(cid)

    def closed(self, user: str, cid: str) -> None:
        """Note that a connection has ended."""
        self._forget(cid)
        lost = partial(self._keep_departed, user, cid)
        self._queries.tell(script_call(FORGET, [self._keys.connection(cid)], (self._node,)), lost)
        arguments = (cid, self._node, self._last_seen_ms)
        self._queries.tell(script_call(CLOSED, self._keys.user(user), arguments), lost)

    def _note_again(self, cid: str, script: Script) -> None:
        """Have a connection noted again with the next sweep: the server that was to note it is out of reach."""
        if cid in self._here:
            self._unnoted[cid, script] = None

    def _is_due(self) -> bool:
        """Tell whether a connection is still to be noted anew."""
        if self._unnoted:
            return True
        return bool(self._here) and next(iter(self._here.values())).due_ms <= self._clock.now_ms()

    def _complete(self, incarnation: int) -> None:
        """Let nothing count that was noted before an incarnation if every connection is noted in it; 0: it is not."""
        self._completing = 0
        if incarnation == self._incarnation and not self._is_due():
            self._least_incarnation = incarnation

    def _keep_departed(self, user: str, cid: str) -> None:
        if len(self._departed) < DEPARTED_MAX and cid not in self._here:
            self._departed[cid] = user

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
        living = Living(self._node, alive, incarnations)
        dead = list(
            dict.fromkeys(c.node for noted in found for c in noted.connections if c.node not in living)
        )
        heard_ms: dict[str, int] = {}
        for i in range(0, len(dead), DEAD_MAX):
            some = dead[i : i + DEAD_MAX]
            (scores,) = await self._queries.ask(Call(("ZMSCORE", self._keys.nodes()[GONE], *some)))
            heard_ms |= {
                node: int(float(ms)) for node, ms in zip(some, scores, strict=True) if ms is not None
            }
        return [noted.status(living, heard_ms, self._last_seen_ms) for noted in found]

    async def nodes(self) -> list[NodeStatus]:
        """Return the nodes that are alive."""
        _, records, *_ = self._keys.nodes()
        alive, kept = await self._queries.ask(self._alive_call(), Call(("HGETALL", records)))
        found = [kept[node] for node in sorted(alive) if node in kept]
        return [msgspec.json.decode(record, type=NodeStatus) for record in found]

    async def lost_nodes(self, since_ms: int, limit: int) -> list[LostNode]:
        """Return the nodes that were lost lately."""
        gone = self._keys.nodes()[GONE]
        (found,) = await self._queries.ask(
            Call(("ZREVRANGEBYSCORE", gone, "+inf", since_ms, "WITHSCORES", "LIMIT", 0, limit))
        )
        return [LostNode(bytes(node).decode(), int(heard_ms)) for node, heard_ms in found]

    async def bans(self, cursor: str | None, limit: int) -> tuple[list[BanEntry], str | None]:
        """Return a page of the bans in force."""
        until_ms, name = read_cursor(cursor)
        arguments = (until_ms, name, limit + 1)
        (answer,) = await self._queries.ask(script_call(BANS, self._keys.nodes()[-1:], arguments))
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
        living = Living(self._node, alive, incarnations)
        return Located(user, node) if living.has(node, int(incarnation)) else None

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
        *_, commands, bans = self._keys.nodes()
        (answer,) = await self._queries.ask(script_call(COMMAND, [commands, bans], arguments))
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
        return Call(("ZRANGEBYSCORE", self._keys.nodes()[0], f"({self._clock.wall_ms()}", "+inf"))

    def _living_calls(self) -> tuple[Call, Call]:
        """Return the calls whose answers say what counts of the nodes that are alive."""
        return Call(("HGETALL", self._keys.nodes()[INCARNATIONS])), self._alive_call()

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
        twice = self._clock.told_twice
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
