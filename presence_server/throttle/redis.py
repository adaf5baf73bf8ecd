"""Counting in a Redis or Valkey that many share: what `dispatch` decides to send, over one connection."""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

import hiredis
import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.redis_io.client import AWAY, RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.multiplexed import MultiplexedConnection, OnReply, pack
from presence_server.redis_io.scripts import Call, Script, slot_of
from presence_server.throttle.decision import Verdict
from presence_server.throttle.dispatch import (
    Answer,
    Batch,
    Deliveries,
    Dispatcher,
    Done,
    Flight,
    GivenUp,
    Said,
    tell,
)
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Row, Rule

PARTS: Final = ("rules", "fixed", "sliding", "counter", "bucket", "leases", "slots", "throttle")
SCRIPT: Final = Script("presence_server.throttle", *PARTS)
CONNECT_S: Final = 5.0
"""The longest that connecting may take. It runs beside decisions: none of them has to wait for it."""
FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 2.0
SHORT_LIVED_S: Final = 1.0
"""A connection that was lost sooner counts as one that could not be made."""
GIVEN_BACK: Final = "+"
"""What a message about a key begins with to which something was given back; no key does."""
IDLE_PING_S: Final = 2.0
"""A connection on which nothing came for so long is asked for a sign of life, and dropped if it gives none."""
SILENT_DEADLINES_MAX: Final = 20
"""A connection that owes a reply for so many deadlines is dropped."""
SLOT_REFUSALS: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""How an error begins where a server does not have a slot, or the slot is moving."""
SERVER_REFUSAL: Final = "CLUSTERDOWN The cluster is down"
"""The one of them that is about all slots of a server."""
LOOK_AT_CLOCK: Final = 8
"""Answers between two looks at the clock."""
TURN_S: Final = 0.005
"""Work on answers in one turn of the loop, so that other replies are read meanwhile."""

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode


class Answers(msgspec.Struct, array_like=True):
    """What the script returns: its TIME, and for each decision verdicts or what was wrong."""

    now_us: int
    answers: list[Said | str]


_serial = count()
"""With a process's random name, text that no other call has."""
_decode = msgspec.msgpack.Decoder(Answers, strict=False).decode


class SlotPart(NamedTuple):
    """The decisions of a flight that are of one slot, and their numbers among all of the flight."""

    batch: Batch
    numbers: list[int]


def split_by_slot(batches: Sequence[Batch]) -> list[SlotPart]:
    """Return the decisions of batches by slot: a Cluster carries out no call with keys of several."""
    parts: dict[int, SlotPart] = {}
    number = count()
    for batch in batches:
        at = 0
        for row, dones in zip(batch.rows, batch.dones, strict=True):
            places = batch.places[at : at + (1 if type(row) is tuple else len(row) - 2)]
            at += len(places)
            slot = slot_of(places[0])
            part = parts.get(slot) or parts.setdefault(slot, SlotPart(Batch(0, 0), []))
            part.numbers.append(next(number))
            part.batch.places += places
            part.batch.rows.append(row)
            part.batch.dones.append(dones)
    return list(parts.values())


class Gathering:
    """The replies to the calls of one flight, gathered until none is outstanding."""

    __slots__ = ("answered", "answers", "flight", "outstanding")

    def __init__(self, flight: Flight, outstanding: int) -> None:
        self.flight = flight
        self.outstanding = outstanding
        self.answered = False
        """Whether one of the calls has run."""
        self.answers: list[Said | str] = [""] * sum(len(batch.rows) for batch in flight.batches)


class ThrottleRedisStore:
    """Asks the shared store over one connection, which is made, kept and made again in the background.

    Nothing is tried twice: it may have been counted. `forget(place, given_back)` is told what every process must
    forget, place None: everything, and whether something was only given back; `refused(place, row, cost, verdict)`
    each refusal. Both are told while replies are read, in the order in which the store said it, so that what was reset
    after a refusal is not remembered as refused. Bound to the event loop in which it is first used; it follows when
    that is closed.

    `by_slot` is for one server of a Cluster: a flight is a call for each slot, and `slot_refused()` is called when the
    server says that a slot is not its own.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        deadline_ms: int,
        forget: Callable[[str | None, bool], None],
        refused: Callable[[str, Row, int, Said], None],
        *,
        by_slot: bool = False,
        slot_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.place = keys.throttle
        self._by_slot = by_slot
        self._slot_refused = slot_refused
        self.listens = False
        """Whether it hears what to forget."""
        self._client = client
        self._deadline_s = deadline_ms / 1_000
        self._forget = forget
        self._purge_channel = keys.purge_channel()
        self._refused = refused
        self._node = os.urandom(8).hex()
        self._warned_of_policy = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._dispatcher = Dispatcher(self._deadline_s)
        self._connection: MultiplexedConnection | None = None
        self._connector: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._subscribed: asyncio.Future[Any] | None = None
        self._lost: asyncio.Future[None] | None = None
        self._sends_soon = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._deliveries: deque[tuple[Done, Answer]] = deque()
        self._delivers_soon = False
        self._broken = False
        self._failure = ""

    @property
    def broken(self) -> bool:
        """Whether the store is not asked at present."""
        dispatcher = self._dispatcher
        return dispatcher.breaker.open or dispatcher.unreachable

    # --- what can be asked ---

    def ask(
        self, verb: str, rules: Sequence[Rule], places: Sequence[str], cost: int | str, done: Done
    ) -> GivenUp | None:
        """Have a decision made; return why not where nothing is tried now: then `done` is not called."""
        batch = self._batch()
        if isinstance(batch, GivenUp):
            return batch
        batch.add(places, [verb, cost, *(row_of(rule) for rule in rules)], done)
        self._added()
        return None

    def ask_once(self, rule: Rule, place: str, done: Done) -> GivenUp | None:
        """Do as `ask` for the usual case: a hit of one rule, with cost 1."""
        batch = self._dispatcher.open_batch
        if batch is None or batch.full or self._loop is not asyncio.get_running_loop():
            found = self._batch()
            if isinstance(found, GivenUp):
                return found
            batch = found
        batch.add_hit(place, row_of(rule), done)
        self._added()
        return None

    def keep(self, rule: Rule, held: Sequence[tuple[str, Callable[[], int]]], done: Done) -> bool:
        """Say how many this process holds at each place, without a deadline.

        How many is asked when it is sent: decisions that were asked for later may go before it. `done` is called once;
        where False is returned, not at all.
        """
        self.follow_loop()
        batch = Batch(0, time.monotonic())
        for place, number in held:
            batch.add([place], ["keep", number, row_of(rule)], _ignore)
        batch.dones[-1] = [done]
        if not self._dispatcher.renew(batch, time.monotonic()):
            return False
        self._send_soon()
        return True

    async def connect(self) -> None:
        """Return when the store is connected."""
        self.follow_loop()
        await self._connected.wait()

    async def aclose(self) -> None:
        """Give everything up and close the connection."""
        connector, self._connector = self._connector, None
        if connector is not None and self._loop is asyncio.get_running_loop():
            connector.cancel()
            await asyncio.gather(connector, return_exceptions=True)
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._deliveries += self._dispatcher.close(time.monotonic())
        while self._deliveries:
            self._deliver()
        await self._client.aclose()
        self._loop = None

    def _batch(self) -> Batch | GivenUp:
        if self._loop is not asyncio.get_running_loop():
            self.follow_loop()
        batch = self._dispatcher.open_batch
        if batch is not None and not batch.full:
            return batch
        return self._dispatcher.new_batch(time.monotonic())

    def _added(self) -> None:
        """Send what was asked for: at once where nothing is under way, else with what else this turn brings."""
        if not self._dispatcher.flights:
            self._send()
        elif not self._sends_soon:
            self._send_soon()

    def follow_loop(self) -> None:
        """Begin in this event loop, or go on in it when another has ended."""
        loop, before = asyncio.get_running_loop(), self._loop
        if loop is not before:
            if before is not None and not before.is_closed():
                raise RuntimeError(
                    "a limiter with a shared store cannot be used in two event loops: close one, then it follows"
                )
            for done, answer in self._dispatcher.close(time.monotonic()):
                tell(done, answer)
            self._reset()
            self._loop = loop
            self._connector = loop.create_task(self._stay_connected(), name="limiter's connection")

    @staticmethod
    def verdicts(said: Said) -> list[Verdict]:
        """Return what the store said as verdicts, one for each rule."""
        return [
            Verdict(said[i] == 1, said[i + 1], said[i + 2], said[i + 3], said[i + 4] == 1)
            for i in range(0, len(said), 5)
        ]

    # --- sending and hearing ---

    def _send_soon(self) -> None:
        if self._loop is not None and not self._sends_soon:
            self._sends_soon = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sends_soon = False
        dispatcher, connection = self._dispatcher, self._connection
        if connection is not None and not connection.closing:
            while (flight := dispatcher.take_flight(time.monotonic())) is not None:
                try:
                    packed = self._packed(flight)
                except Exception:  # noqa: BLE001 - logged; what cannot be packed harms no other flight
                    self._fail(flight)
                else:
                    for call, on_reply in packed:
                        connection.send(call, on_reply)
        if self._loop is not None and self._look_timer is None and dispatcher.waiting:
            delay_s = dispatcher.next_look_s(time.monotonic())
            self._look_timer = self._loop.call_later(delay_s, self._look)

    def _packed(self, flight: Flight) -> list[tuple[bytes, OnReply]]:
        """Return the packed calls of a flight, each with what takes its reply."""
        if not self._by_slot:
            return [(pack(self._call(flight).command), partial(self._replied, flight))]
        parts = split_by_slot(flight.batches)
        gathering = Gathering(flight, len(parts))
        return [
            (pack(self._call_of([part.batch]).command), partial(self._replied_part, gathering, part))
            for part in parts
        ]

    def _replied_part(self, gathering: Gathering, part: SlotPart, reply: Any) -> None:
        """Take the reply to one of the calls of a flight."""
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            if self._connection is not None:
                again = pack(self._call_of([part.batch]).by_text())  # nothing has run
                self._connection.send(again, partial(self._replied_part, gathering, part))
            return
        if isinstance(reply, RedisConnectionError):
            return  # every flight is given up when the loss is noted
        answers: Sequence[Said | str]
        if isinstance(reply, Exception):
            self._failure = str(reply)
            answers = [self._failure] * len(part.numbers)
            if self._failure.startswith(SLOT_REFUSALS):
                self._slot_refused()
                # About this slot alone: who floods a key of a slot that moves must not end the limits of all others.
                gathering.answered |= not self._failure.startswith(SERVER_REFUSAL)
        else:
            gathering.answered = True
            try:
                answers = _decode(reply).answers
            except Exception:
                log.exception("decisions of the limiter are made without the store")
                answers = ["unreadable"] * len(part.numbers)
        for number, answer in zip(part.numbers, answers, strict=True):
            gathering.answers[number] = answer
        gathering.outstanding -= 1
        if not gathering.outstanding:
            if gathering.answered:
                self._learn(gathering.flight, gathering.answers)
            said = gathering.answers if gathering.answered else None
            self._tell(self._dispatcher.replied(gathering.flight, said, time.monotonic()))
            self._send_soon()

    def _replied(self, flight: Flight, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            if self._connection is not None:
                # Nothing has run. Other flights may have been answered before it comes back.
                again = pack(self._call(flight).by_text())
                self._connection.send(again, partial(self._replied, flight))
            return
        if isinstance(reply, RedisConnectionError):
            return  # every flight is given up when the loss is noted
        answers: Sequence[Said | str] | None = None
        if isinstance(reply, Exception):
            self._failure = str(reply)
        else:
            try:
                answers = self._read(flight, reply)
            except Exception:  # noqa: BLE001 - logged; what cannot be read harms no other flight
                self._fail(flight)
                return
        self._tell(self._dispatcher.replied(flight, answers, time.monotonic()))
        self._send_soon()

    def _read(self, flight: Flight, reply: bytes) -> list[Said | str]:
        """Return the answers in a reply, and learn from them before anything else that is read."""
        answers = _decode(reply).answers
        self._learn(flight, answers)
        return answers

    def _learn(self, flight: Flight, answers: Sequence[Said | str]) -> None:
        at = 0
        for batch in flight.batches:
            for place, row, cost, verdict, given_back in batch.learned(answers[at : at + len(batch.rows)]):
                if verdict is None:
                    self._forget(place, given_back)
                elif self.listens:
                    self._refused(place, row, cost, verdict)
            at += len(batch.rows)

    def _fail(self, flight: Flight) -> None:
        """Give up a flight that cannot be packed or whose reply cannot be read: a defect, and nobody else's."""
        log.exception("decisions of the limiter are made without the store")
        self._tell(self._dispatcher.failed(flight))

    def _look(self) -> None:
        """Look at what is under way; a process that was kept from looking counts that once, and looks again."""
        self._look_timer = None
        now_s = time.monotonic()
        self._failure = "no reply in time"
        self._tell(self._dispatcher.look(now_s))
        silent_s = self._dispatcher.silence_s(now_s)
        if self._connection is not None and silent_s > SILENT_DEADLINES_MAX * self._deadline_s:
            self._connection.abort()
        self._send()

    def _tell(self, deliveries: Deliveries) -> None:
        self._note_breaker()
        self._deliveries += deliveries
        if not self._delivers_soon:
            self._deliver()

    def _deliver(self) -> None:
        """Hand out answers, for one turn of the loop."""
        self._delivers_soon = False
        deliveries = self._deliveries
        until_s = time.monotonic() + TURN_S
        told = 0
        while deliveries:
            done, answer = deliveries.popleft()
            tell(done, answer)
            told += 1
            if (
                told % LOOK_AT_CLOCK == 0
                and deliveries
                and self._loop is not None
                and time.monotonic() > until_s
            ):
                self._delivers_soon = True
                self._loop.call_soon(self._deliver)
                return

    def _note_breaker(self) -> None:
        broken = self._dispatcher.breaker.open
        if broken is not self._broken:
            self._broken = broken
            if broken:
                log.warning("the limiter does not ask its store for now: %s", self._failure)
            else:
                log.info("the limiter asks its store again")

    def _call(self, flight: Flight) -> Call:
        """Return the script call of a flight."""
        return self._call_of(flight.batches)

    def _call_of(self, batches: Sequence[Batch]) -> Call:
        return script_call_of(batches, self._purge_channel, self._node)

    # --- the connection ---

    async def _stay_connected(self) -> None:
        """Connect, and again whenever the connection is lost, for ever."""
        retry_s = FIRST_RETRY_S
        told = False
        while True:
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._connect()
            except (*AWAY, hiredis.HiredisError, TimeoutError) as exc:
                if not told:
                    log.warning("the limiter cannot reach its store: %s", str(exc) or type(exc).__name__)
                    told = True
            except Exception:
                # redis-py raises AttributeError and others where a server goes away while it connects. This is the
                # boundary to it: whatever comes, the limiter must not be without a connection for ever.
                log.exception("the limiter's connection could not be made")
            else:
                await self._use(connection)
                if time.monotonic() - began_s > SHORT_LIVED_S:
                    retry_s, told = FIRST_RETRY_S, False
                    continue
            self._tell(self._dispatcher.connect_failed())
            await asyncio.sleep(retry_s * random.uniform(0.5, 1))  # noqa: S311 - spreads nodes over time
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def _connect(self) -> MultiplexedConnection:
        """Connect, and subscribe before anything is decided: what was to be forgotten is never missed."""
        loop = asyncio.get_running_loop()
        self._lost = lost = loop.create_future()

        def on_lost() -> None:
            if not lost.done():
                lost.set_result(None)

        connection = await self._client.new_multiplexed(self._pushed, on_lost)
        try:
            self._subscribed = subscribed = loop.create_future()
            connection.send_unanswered("SUBSCRIBE", self._purge_channel)
            await asyncio.wait([subscribed, lost], return_when=asyncio.FIRST_COMPLETED)
            self.listens = subscribed.done() and not isinstance(subscribed.result(), Exception)
            if subscribed.done() and not self.listens:
                log.warning(
                    "the limiter may not subscribe, so it remembers no refusals: %s", subscribed.result()
                )
            await self._warn_of_eviction(connection)
            # A user may be allowed to run scripts and not to load them.
            with contextlib.suppress(hiredis.ReplyError):
                await connection.ask("SCRIPT", "LOAD", SCRIPT.text)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _warn_of_eviction(self, connection: MultiplexedConnection) -> None:
        """Say so where the store may drop counts when its memory is full; managed services may not tell."""
        try:
            config = await connection.ask("CONFIG", "GET", "maxmemory-policy")
        except hiredis.ReplyError:
            return
        policy = bytes(config.get(b"maxmemory-policy", b"")).decode() if isinstance(config, dict) else ""
        if policy not in {"", "noeviction"} and policy != self._warned_of_policy:
            self._warned_of_policy = policy
            log.warning(
                "the store's maxmemory-policy is %s: it may forget counts and blocks; set noeviction", policy
            )

    async def _use(self, connection: MultiplexedConnection) -> None:
        """Let decisions go over a connection until it is lost."""
        self._connection = connection
        self._dispatcher.connect_succeeded(time.monotonic())
        self._connected.set()
        self._note_breaker()
        self._send()
        try:
            await self._watch(connection)
        finally:
            connection.abort()
            self._connection = None
            self._connected.clear()
            self._failure = "the connection was lost"
            self._tell(self._dispatcher.lost(time.monotonic()))

    async def _watch(self, connection: MultiplexedConnection) -> None:
        """Return when a connection is lost; drop one on which nothing is heard, not even an answer to PING."""
        assert self._lost is not None  # noqa: S101 - set with the connection
        pinged = False
        while not self._lost.done():
            connection.heard = False
            await asyncio.wait([self._lost], timeout=IDLE_PING_S)
            demoted = self._broken and self._failure.startswith("READONLY")
            if demoted or await self._client.has_moved(connection.address):
                connection.abort()  # the next connection may find the server that takes writes
            elif connection.heard:
                pinged = False
            elif pinged:
                connection.abort()
            else:
                pinged = True
                connection.send(pack(("PING",)), _ignore)

    def _pushed(self, message: Any) -> None:
        """Take what the server says unasked."""
        subscribed = self._subscribed
        if isinstance(message, Exception) or bytes(message[0]) == b"subscribe":
            self._forget(None, False)
            if subscribed is not None and not subscribed.done():
                subscribed.set_result(message)
        elif bytes(message[0]) == b"message":
            place = bytes(message[2]).decode()
            self._forget(place.removeprefix(GIVEN_BACK), place.startswith(GIVEN_BACK))


def script_call_of(batches: Sequence[Batch], purge_channel: str, node: str) -> Call:
    """Return the script call that makes the decisions of batches."""
    places = [place for batch in batches for place in batch.places]
    numbers: dict[Row, int] = {}
    rows: list[Any] = []
    for batch in batches:
        if batch.only_row is not None:
            rows += [numbers.setdefault(batch.only_row, len(numbers) + 1)] * len(batch.rows)
            continue
        for row, dones in zip(batch.rows, batch.dones, strict=True):
            if type(row) is tuple:
                number = numbers.get(row) or numbers.setdefault(row, len(numbers) + 1)
                rows.append(number if len(dones) == 1 else (number, len(dones)))
            else:
                verb, cost, *rules = row
                cost = cost() if callable(cost) else cost
                rows.append([verb, cost, *(numbers.setdefault(rule, len(numbers) + 1) for rule in rules)])
    arguments = (_encode(([*numbers], rows)), f"{node}{next(_serial)}", purge_channel, node)
    # Not by `script_call`: but for a Cluster (`split_by_slot`) a flight has keys of many slots.
    return Call(("EVALSHA", SCRIPT.digest, len(places), *places, *arguments), SCRIPT)


def _ignore(answer: object) -> None:
    """Take an answer that says nothing new."""
