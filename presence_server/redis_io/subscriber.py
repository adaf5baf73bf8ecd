"""One connection that subscribes: each channel has its handler, and what was asked for survives a lost connection.

The server answers SUBSCRIBE and UNSUBSCRIBE once for each channel, in the order in which they were written. So the
answers are counted: the nth belongs to the nth channel written. One more channel costs the same however many there
are, and the answer to a SUBSCRIBE that has been taken back since is not taken for that of a later one.

A *sharded* channel is that of a Cluster's slot (SSUBSCRIBE, one channel each, since several may be of several slots).
Its server refuses it when it has not the slot, and ends it unasked when the slot goes elsewhere: then it is *dropped*.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from redis.exceptions import AskError, ClusterDownError, TryAgainError

from presence_server.faults import contain
from presence_server.redis_io.port import SubscriberConnection
from presence_server.redis_io.scripts import slot_of

SUBSCRIBE_MAX: Final = 512
"""Channels in one SUBSCRIBE."""
LOOK_S: Final = 0.6
LOOKS_MAX: Final = 5
"""Looks at a new connection that find no further channel acknowledged, after which it is given up. They are counted
and not timed: a process that was frozen must read before it judges. The same holds for PINGs."""
IDLE_S: Final = 1.0
"""A subscriber that has had nothing to write for so long writes a PING."""
PINGS_MAX: Final = 3
"""PINGs after which a subscriber that has heard nothing is dead, whatever its socket says."""
SLOT_REFUSALS: Final = (AskError, ClusterDownError, TryAgainError)
"""Errors about a slot that a server does not have, or that is moving; MOVED is an `AskError`, too."""
Handler = Callable[[bytes], None]
"""Gets the payload of each message of a channel."""


class Subscriber:
    """Keeps channels subscribed while `stay` runs, and hands their messages to their handlers.

    `dropped(channel)` is told of each sharded channel that its server gives up; `subscribe` tries it again.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[SubscriberConnection]],
        dropped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connect = connect
        self._dropped = dropped
        self._sharded: set[bytes] = set()
        self._expected: dict[int, tuple[bytes, bytes]] = {}
        """Commands about sharded channels without an answer yet: kind and channel, by number."""
        self._handlers: dict[bytes, Handler] = {}
        """Every channel that is wanted."""
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        """The callbacks to call when a channel is acknowledged."""
        self._numbers: dict[bytes, int] = {}
        """Channels whose last command written was SUBSCRIBE, with that command's number."""
        self._changed: dict[bytes, None] = {}
        """Channels for which a command may have to be written."""
        self._written = 0
        """Commands written on this connection, counted by channel."""
        self._answered = 0
        self._wake = anyio.Event()
        self._progress = anyio.Event()
        self._unheard_pings = 0
        self._scope: anyio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self._handlers)

    def subscribe(
        self,
        channel: str,
        handler: Handler,
        ready: Callable[[], None] | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        """Begin to hear a channel; its handler replaces an earlier one.

        `ready` is called once, when no message will be missed any more: at once where the channel is acknowledged.
        """
        name = channel.encode()
        self._handlers[name] = handler
        if sharded:
            self._sharded.add(name)
        number = self._numbers.get(name)
        if number is None:
            self._changed[name] = None
            self._wake.set()
        if ready is None:
            return
        if number is not None and number <= self._answered:
            ready()
        else:
            self._waiting.setdefault(name, []).append(ready)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel; callbacks that wait for its acknowledgement are not called."""
        name = channel.encode()
        if self._handlers.pop(name, None) is None:
            return
        self._waiting.pop(name, None)
        if name in self._numbers:
            self._changed[name] = None
            self._wake.set()
        else:
            self._changed.pop(name, None)
            self._sharded.discard(name)

    def give_up(self) -> None:
        """End the connection, if there is one; `stay` returns."""
        if self._scope is not None:
            self._scope.cancel()

    async def stay(self, when_subscribed: Callable[[], Awaitable[None]]) -> None:
        """Connect, subscribe to everything that is wanted, then run `when_subscribed` while messages are handed out.

        Returns after `give_up`. Raises what a lost connection raises, or what `when_subscribed` does.
        """
        connection = await self._connect()
        try:
            self._unheard_pings = self._written = self._answered = 0
            self._changed = dict.fromkeys(self._handlers)
            self._wake.set()
            with anyio.CancelScope() as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, connection)
                    tasks.start_soon(self._write, connection)
                    await self._until_answered(len(self._handlers))
                    await when_subscribed()
                    tasks.cancel_scope.cancel()
        finally:
            self._scope = None
            self._numbers.clear()
            self._expected.clear()
            self._sharded.intersection_update(self._handlers)
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)

    async def _until_answered(self, number: int) -> None:
        """Wait until so many commands are answered; what is subscribed to meanwhile has numbers above."""
        looks = 0
        while self._answered < number:
            answered = self._answered
            with anyio.move_on_after(LOOK_S):
                while self._answered == answered:
                    self._progress = anyio.Event()
                    await self._progress.wait()
            looks = looks + 1 if self._answered == answered else 0
            if looks > LOOKS_MAX:
                raise TimeoutError(f"{number - answered} channels are not acknowledged")

    async def _read(self, connection: SubscriberConnection) -> None:
        while True:
            try:
                response = await connection.read_response(disable_decoding=True, timeout=math.inf)
            except SLOT_REFUSALS as refusal:
                if not self._sharded:
                    raise
                if self._is_answer(refusal):
                    self._answer(refused=True)
                continue
            self._unheard_pings = 0
            if isinstance(response, list):
                self._receive(response)

    def _receive(self, response: list[bytes]) -> None:
        kind, channel = response[0], response[1]
        if kind in {b"message", b"smessage"}:
            handler = self._handlers.get(channel)
            if handler is not None:
                contain("subscriber", handler, response[2])
        elif kind == b"sunsubscribe" and self._expected.get(self._answered + 1) != (kind, channel):
            self._drop(channel)
        elif kind in {b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe"}:
            self._answer(refused=False, channel=channel)

    def _is_answer(self, refusal: Exception) -> bool:
        """Tell whether a refusal answers the command that is next.

        Where a server ends a channel just before it reads this node's SUNSUBSCRIBE of it, it says so, which is taken
        for the answer, and then refuses the command: its slot has gone.
        """
        _, channel = self._expected.get(self._answered + 1, (b"", b""))
        slot = getattr(refusal, "slot_id", None)  # of MOVED and ASK
        return bool(channel) and (slot is None or int(slot) == slot_of(channel.decode()))

    def _answer(self, *, refused: bool, channel: bytes = b"") -> None:
        """Take the answer to the command that is next."""
        self._answered += 1
        self._progress.set()
        _, channel = self._expected.pop(self._answered, (b"", channel))
        if self._numbers.get(channel) == self._answered:
            if refused:
                self._drop(channel)
                return
            for ready in self._waiting.pop(channel, ()):
                contain("subscriber", ready)

    def _drop(self, channel: bytes) -> None:
        """Forget that a channel is subscribed, and tell `dropped`."""
        if self._numbers.pop(channel, None) is not None:
            self._waiting.pop(channel, None)
            contain("subscriber", self._dropped, channel.decode())

    async def _write(self, connection: SubscriberConnection) -> None:
        """Write what is to be heard; the only writer of the connection."""
        while True:
            with anyio.move_on_after(IDLE_S):
                await self._wake.wait()
            if self._wake.is_set():
                self._wake = anyio.Event()
                await self._write_changes(connection)
                continue
            if self._unheard_pings == PINGS_MAX:
                raise TimeoutError("the subscriber hears nothing")
            self._unheard_pings += 1
            await connection.send_command("PING", check_health=False)

    async def _write_changes(self, connection: SubscriberConnection) -> None:
        changed, self._changed = self._changed, {}
        fresh = [name for name in changed if name in self._handlers and name not in self._numbers]
        gone = [name for name in changed if name not in self._handlers and name in self._numbers]
        commands = [*self._commands("SUBSCRIBE", fresh), *self._commands("UNSUBSCRIBE", gone)]
        for verb, names in commands:
            for name in names:
                self._written += 1
                if name in self._handlers:
                    self._numbers[name] = self._written
                else:
                    del self._numbers[name]
                if name in self._sharded:
                    self._expected[self._written] = (verb.lower().encode(), name)
        self._sharded.difference_update(gone)
        for verb, names in commands:
            await connection.send_command(verb, *names, check_health=False)

    def _commands(self, verb: str, names: list[bytes]) -> list[tuple[str, list[bytes]]]:
        """Return the commands about channels: one for many, but of sharded ones one each."""
        plain = [name for name in names if name not in self._sharded]
        sharded = [(f"S{verb}", [name]) for name in names if name in self._sharded]
        return [(verb, plain[i : i + SUBSCRIBE_MAX]) for i in range(0, len(plain), SUBSCRIBE_MAX)] + sharded
