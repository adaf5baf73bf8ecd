"""Contact with a Redis: one subscriber connection, supervised, and the proof that this node hears itself.

A PING that is answered says little: a node can write and be deaf. So every interval the command side writes,
which a read-only or full server refuses, and publishes a nonce that must come back on the subscriber.

One task owns what is subscribed: it reconnects, subscribes to everything again, and says that contact is back
only when all of it is acknowledged.
"""

import contextlib
import math
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import structlog
from redis.asyncio import Connection
from redis.exceptions import RedisError

from presence_server.measure import Histogram
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.scripts import Call

SUBSCRIBE_MAX: Final = 512
"""Channels in one SUBSCRIBE."""
SILENCE_S: Final = 3.0
"""The longest that a new subscriber waits for what it has subscribed to."""
STALE_S: Final = 2.0
"""A proof of contact older than this is none: `checks` must tell of a frozen store within 3 s."""
IDLE_S: Final = 1.0
"""A subscriber that has had nothing to write for so long writes a PING."""
PINGS_MAX: Final = 3
"""PINGs after which a subscriber that has heard nothing is dead, whatever its socket says. They are counted
and not timed: a process that was frozen must read before it judges."""
BACKOFF_MAX_S: Final = 0.5
LOST: Final = (RedisError, OSError, TimeoutError, RuntimeError, AttributeError)
"""What a lost connection raises; redis-py adds the last two while it reconnects."""

log = structlog.get_logger()


class Contact:
    """Whether this node is with the others, and what it hears from them.

    `heard(channel, payload)` gets every message. `lost()` is called when contact ends and `back(without_s)`
    when it is there (again), with everything subscribed; `without_s` is how long there was none, the time
    that this process was frozen included. Contact without a sign for `patience_s` counts as lost even if it
    is there again before anybody noticed.

    `register()` is the call that writes; `registered(answer)` gets its answer.
    """

    def __init__(
        self,
        client: RedisClient,
        nonce_channel: str,
        register: Callable[[], Call],
        *,
        interval_s: float,
        patience_s: float,
    ) -> None:
        self.heard: Callable[[str, bytes], None] = lambda channel, payload: None
        self.registered: Callable[[Any], None] = lambda answer: None
        self.lost: Callable[[], None] = lambda: None
        self.back: Callable[[float], None] = lambda without_s: None
        self.away = True
        self.made = anyio.Event()
        """Set when there has been contact once."""
        self.losses = 0
        """How often contact has been lost."""
        self.round_trips = Histogram()
        """How long a nonce took over the store and back, with the write before it, s."""
        self._client = client
        self._lane = client.lane()
        self._unheard_pings = 0
        self._nonce_channel = nonce_channel
        self._register = register
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._good_s = self._written_s = time.monotonic()
        self._wanted: dict[str, list[Callable[[], None]]] = {nonce_channel: []}
        self._asked: set[str] = set()
        self._acknowledged: set[str] = set()
        self._changed = anyio.Event()
        self._settled = anyio.Event()
        self._nonce = b""
        self._nonce_back = anyio.Event()
        self._scope: anyio.CancelScope | None = None

    def checks(self) -> dict[str, str]:
        """Return what is wrong with the command side (`store`) and with hearing (`pubsub`); "": nothing."""
        now_s = time.monotonic()
        sides = {
            "store": (self._written_s, "answered a write"),
            "pubsub": (self._good_s, "came back on pub/sub"),
        }
        wrong = {}
        for name, (good_s, what) in sides.items():
            if self.away and not self.made.is_set():
                wrong[name] = "there has been no contact yet"
            elif now_s - good_s > STALE_S:
                wrong[name] = f"nothing {what} for {now_s - good_s:.1f} s"
            else:
                wrong[name] = ""
        if self.away and not any(wrong.values()):
            wrong["pubsub"] = "contact is being made anew"
        return wrong

    def subscribe(self, channel: str, ready: Callable[[], None]) -> None:
        """Begin to hear a channel; `ready` is called when it is acknowledged, each time anew after a loss."""
        waiting = self._wanted.setdefault(channel, [])
        if channel in self._acknowledged:
            ready()
        else:
            waiting.append(ready)
            self._changed.set()

    def unsubscribe(self, channel: str) -> None:
        """Stop hearing a channel."""
        if self._wanted.pop(channel, None) is not None:
            self._changed.set()

    def trouble(self) -> None:
        """Give the connection up: a call has failed in a way that says the store is away."""
        self._lose()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Keep contact, for ever."""
        try:
            await self._keep()
        finally:
            with anyio.CancelScope(shield=True):
                await self._lane.aclose()

    async def _keep(self) -> None:
        while True:
            try:
                await self._stay()
            except* LOST as group:
                reason = group.exceptions[0]
                log.warning("no contact with the store", error=f"{type(reason).__name__}: {reason}")
            self._lose()
            await self._look()
            await anyio.sleep(random.uniform(0.05, BACKOFF_MAX_S))  # noqa: S311 - spreads nodes over time

    async def _look(self) -> None:
        """See whether the store answers although it cannot be heard, so that operators are told which it is."""
        with anyio.move_on_after(SILENCE_S / 2), contextlib.suppress(*LOST):
            (answer,) = await self._lane.pipeline([Call(("TIME",))])
            if not isinstance(answer, Exception):
                self._written_s = time.monotonic()

    def _lose(self) -> None:
        if not self.away:
            self.losses += 1
            self.away = True
            self.lost()

    async def _stay(self) -> None:
        self._asked.clear()
        self._acknowledged.clear()
        self._settled = anyio.Event()
        self._changed.set()
        self._unheard_pings = 0
        connection = await self._client.new_subscriber()
        try:
            with anyio.CancelScope() as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, connection)
                    tasks.start_soon(self._subscribe, connection)
                    await self._prove()
        finally:
            self._scope = None
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)

    async def _prove(self) -> None:
        """Wait until everything is subscribed and the nonce has come back, then see that it keeps coming."""
        with anyio.fail_after(SILENCE_S):
            await self._settled.wait()
        while True:
            await self._round_trip()
            now_s = time.monotonic()
            without_s, self._good_s = now_s - self._good_s, now_s
            if without_s > self._patience_s:
                self._lose()
            if self.away:
                self.away = False
                self.made.set()
                self.back(without_s)
            await anyio.sleep(self._interval_s)

    async def _round_trip(self) -> None:
        began_s = time.perf_counter()
        self._nonce = secrets.token_bytes(8)
        self._nonce_back = anyio.Event()
        with anyio.fail_after(SILENCE_S / 2):
            publish = Call(("PUBLISH", self._nonce_channel, self._nonce))
            answers = await self._lane.pipeline([self._register(), publish])
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            self._written_s = time.monotonic()
            self.registered(answers[0])
            await self._nonce_back.wait()
        self.round_trips.observe(time.perf_counter() - began_s)

    async def _read(self, connection: Connection) -> None:
        while True:
            response = await connection.read_response(disable_decoding=True, timeout=math.inf)
            self._unheard_pings = 0
            if isinstance(response, list):
                self._take(response)

    def _take(self, response: list[bytes]) -> None:
        kind = bytes(response[0])
        if kind == b"message":
            channel, payload = bytes(response[1]).decode(), bytes(response[2])
            if channel == self._nonce_channel:
                if payload == self._nonce:
                    self._nonce_back.set()
            else:
                self.heard(channel, payload)
        elif kind == b"subscribe":
            channel = bytes(response[1]).decode()
            self._acknowledged.add(channel)
            waiting = self._wanted.get(channel, [])
            ready, waiting[:] = list(waiting), []
            for call in ready:
                call()
            if self._acknowledged.issuperset(self._wanted):
                self._settled.set()

    async def _subscribe(self, connection: Connection) -> None:
        """Write what is to be heard; the only writer of the subscriber."""
        while True:
            with anyio.move_on_after(IDLE_S):
                await self._changed.wait()
            if not self._changed.is_set():
                if self._unheard_pings == PINGS_MAX:
                    raise TimeoutError("the subscriber hears nothing")
                self._unheard_pings += 1
                await connection.send_command("PING", check_health=False)
                continue
            self._changed = anyio.Event()
            fresh = [channel for channel in self._wanted if channel not in self._asked]
            gone = [channel for channel in self._asked if channel not in self._wanted]
            for verb, channels in (("SUBSCRIBE", fresh), ("UNSUBSCRIBE", gone)):
                for i in range(0, len(channels), SUBSCRIBE_MAX):
                    await connection.send_command(verb, *channels[i : i + SUBSCRIBE_MAX], check_health=False)
            self._asked.update(fresh)
            self._asked.difference_update(gone)
            self._acknowledged.difference_update(gone)
