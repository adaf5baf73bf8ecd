"""Counting in a Redis or Valkey that many share: sends what `flight_dispatch` decides, over one connection."""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.multiplexed import pack
from presence_server.redis_io.scripts import Call
from presence_server.throttle.batch import (
    DecisionBatch,
    DecisionRow,
    Deliveries,
    Done,
    GivenUp,
    StoreAnswer,
    StoreVerdicts,
    Verb,
    deliver_answer,
)
from presence_server.throttle.flight_calls import (
    FlightCall,
    FlightReplies,
    decode_answers,
    script_call_of,
)
from presence_server.throttle.flight_dispatch import Flight, FlightDispatcher
from presence_server.throttle.port import Forget, NoteRefusal
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule
from presence_server.throttle.store_connection import StoreConnection, ignore_answer

SILENT_DEADLINES_MAX: Final = 20
"""A connection that owes a reply for so many deadlines is dropped."""
SLOT_ERROR_PREFIXES: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""The first words of errors because of a slot: the server does not have it, or it is moving."""
SERVER_REFUSAL: Final = "CLUSTERDOWN The cluster is down"
"""The one of these errors that is about all slots of a server."""
LOOK_AT_CLOCK: Final = 8
"""Answers between two looks at the clock."""
TURN_S: Final = 0.005
"""Work on answers in one turn of the loop, so that other replies are read meanwhile."""
UNREADABLE: Final = "the reply cannot be read"

log = logging.getLogger(__name__)


class ThrottleRedisStore:
    """Asks the shared store over one connection, which is made, kept and made again in the background.

    See `SharedStore` for what it promises. `forget` and `note_refusal` are called while replies are read, in the order
    in which the store decided, so that a key that was reset after a refusal is not remembered as refused. It is bound
    to the event loop in which it is first used, and follows when that is closed.

    With `on_slot_refused` it is one server of a Cluster: a flight is a call for each slot, and `on_slot_refused()` is
    called when the server says that a slot is not its own.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        deadline_ms: int,
        forget: Forget,
        note_refusal: NoteRefusal,
        *,
        on_slot_refused: Callable[[], None] | None = None,
    ) -> None:
        self.place = keys.throttle
        self._on_slot_refused = on_slot_refused
        self._client = client
        self._deadline_s = deadline_ms / 1_000
        self._forget = forget
        self._purge_channel = keys.purge_channel()
        self._note_refusal = note_refusal
        self._node = os.urandom(8).hex()
        self._connection = StoreConnection(
            client,
            self._purge_channel,
            forget=forget,
            is_unwanted=self._is_read_only,
            on_connected=self._begin_to_send,
            on_failed=self._give_up_waiting,
            on_lost=self._give_up_under_way,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._dispatcher = FlightDispatcher(self._deadline_s)
        self._sends_soon = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._deliveries: deque[tuple[Done, StoreAnswer]] = deque()
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
        self, verb: Verb, rules: Sequence[Rule], places: Sequence[str], cost: int | str, done: Done
    ) -> GivenUp | None:
        """Ask for a decision about one key; see `SharedStore`."""
        batch = self._batch()
        if isinstance(batch, GivenUp):
            return batch
        batch.add_decision(places, DecisionRow(verb, cost, tuple(row_of(rule) for rule in rules)), done)
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
        """Tell the store how many slots this process holds at each place; see `SharedStore`."""
        self.follow_loop()
        batch = DecisionBatch(0, time.monotonic())
        for place, number in held:
            batch.add_decision([place], DecisionRow("keep", number, (row_of(rule),)), ignore_answer)
        batch.dones[-1] = [done]
        if not self._dispatcher.queue_renewal(batch, time.monotonic()):
            return False
        self._send_soon()
        return True

    async def connect(self) -> None:
        """Return when the store is connected."""
        self.follow_loop()
        await self._connection.wait_connected()

    async def aclose(self) -> None:
        """Give everything up and close the connection."""
        await self._connection.end_connecting()
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._deliveries += self._dispatcher.give_up_all(time.monotonic())
        while self._deliveries:
            self._deliver()
        await self._client.aclose()
        self._loop = None

    def _batch(self) -> DecisionBatch | GivenUp:
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
            for done, answer in self._dispatcher.give_up_all(time.monotonic()):
                deliver_answer(done, answer)
            self._reset()
            self._loop = loop
            self._connection.begin_connecting()

    # --- sending and hearing ---

    def _send_soon(self) -> None:
        if self._loop is not None and not self._sends_soon:
            self._sends_soon = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sends_soon = False
        dispatcher, connection = self._dispatcher, self._connection.live
        if connection is not None and not connection.closing:
            while (flight := dispatcher.take_flight(time.monotonic())) is not None:
                try:
                    replies = FlightReplies(flight, by_slot=self._on_slot_refused is not None)
                    packed = [(call, pack(self._script_call(call).command)) for call in replies.calls]
                except Exception:  # noqa: BLE001 - logged; what cannot be packed harms no other flight
                    self._fail(flight)
                else:
                    for call, command in packed:
                        connection.send(command, partial(self._take_reply, replies, call))
        if self._loop is not None and self._look_timer is None and dispatcher.waiting:
            delay_s = dispatcher.next_look_s(time.monotonic())
            self._look_timer = self._loop.call_later(delay_s, self._look)

    def _take_reply(self, replies: FlightReplies, call: FlightCall, reply: Any) -> None:
        """Take the reply to one of the calls of a flight."""
        if isinstance(reply, RedisConnectionError):
            return  # every flight is given up when the loss is noted
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            if self._connection.live is not None:
                # Nothing has run. Other flights may have been answered before it comes back.
                again = pack(self._script_call(call).by_text())
                self._connection.live.send(again, partial(self._take_reply, replies, call))
            return
        if isinstance(reply, Exception):
            self._failure = str(reply)
            of_slot = self._on_slot_refused is not None and self._failure.startswith(SLOT_ERROR_PREFIXES)
            # About this slot alone: a client that floods a key of a moving slot must not end the limits of others.
            replies.note_refused(by_server=not of_slot or self._failure.startswith(SERVER_REFUSAL))
            if self._on_slot_refused is not None and of_slot:
                self._on_slot_refused()
        else:
            replies.note_answers(call, self._read(call, reply))
        if not replies.outstanding:
            answers = replies.answers if replies.is_answered else None
            self._tell(self._dispatcher.take_reply(replies.flight, answers, time.monotonic()))
            self._send_soon()

    def _read(self, call: FlightCall, reply: Any) -> Sequence[StoreVerdicts | str]:
        """Return the answers in a reply, and learn from them before anything else that is read."""
        try:
            answers = decode_answers(reply).answers
            if len(answers) != len(call.numbers):
                raise ValueError(f"{len(answers)} answers to {len(call.numbers)} decisions")  # noqa: TRY301 - logged below
            self._learn(call.batches, answers)
        except Exception:
            log.exception("decisions of the limiter are made without the store")
            answers = [UNREADABLE] * len(call.numbers)
        return answers

    def _learn(self, batches: Sequence[DecisionBatch], answers: Sequence[StoreVerdicts | str]) -> None:
        at = 0
        for batch in batches:
            for place, row, cost, verdict, given_back in batch.learned(answers[at : at + len(batch.rows)]):
                if verdict is None:
                    self._forget(place, given_back)
                elif self._connection.listens:
                    self._note_refusal(place, row, cost, verdict)
            at += len(batch.rows)

    def _fail(self, flight: Flight) -> None:
        """Give up a flight that cannot be packed: a defect, and nobody else's."""
        log.exception("decisions of the limiter are made without the store")
        self._tell(self._dispatcher.fail_flight(flight))

    def _look(self) -> None:
        """Look at what is under way; a process that was kept from looking counts that once, and looks again."""
        self._look_timer = None
        now_s = time.monotonic()
        self._failure = "no reply in time"
        self._tell(self._dispatcher.check_flights(now_s))
        silent_s = self._dispatcher.silence_s(now_s)
        if self._connection.live is not None and silent_s > SILENT_DEADLINES_MAX * self._deadline_s:
            self._connection.live.abort()
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
        delivered = 0
        while deliveries:
            done, answer = deliveries.popleft()
            deliver_answer(done, answer)
            delivered += 1
            if (
                delivered % LOOK_AT_CLOCK == 0
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

    def _script_call(self, call: FlightCall) -> Call:
        return script_call_of(call.batches, self._purge_channel, self._node)

    # --- what becomes of the connection ---

    def _begin_to_send(self) -> None:
        self._dispatcher.connect_succeeded(time.monotonic())
        self._note_breaker()
        self._send()

    def _give_up_waiting(self) -> None:
        self._tell(self._dispatcher.connect_failed())

    def _give_up_under_way(self) -> None:
        self._failure = "the connection was lost"
        self._tell(self._dispatcher.note_connection_lost(time.monotonic()))

    def _is_read_only(self) -> bool:
        """Tell whether the server was demoted to a replica, as far as its refusals say."""
        return self._broken and self._failure.startswith("READONLY")
