"""The connectivity monitor: whether this node writes to the store and hears itself on it.

A PING that is answered says little: a node can write and be deaf. So every interval the command side writes,
which a read-only or full server refuses, and publishes a nonce that must come back on the subscriber.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import anyio
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError, TryAgainError

from presence_server.counters import Histogram
from presence_server.faults import contain
from presence_server.redis_io.client import is_away
from presence_server.redis_io.deadline import within_looks
from presence_server.redis_io.port import Lane
from presence_server.redis_io.scripts import Call
from presence_server.redis_io.store_errors import LOST
from presence_server.redis_io.subscriber import SLOT_REFUSALS, Subscriber

LOOK_S: Final = 0.3
LOOKS_MAX: Final = 5
"""Looks that find no answer of the store, after which contact is lost; counted, so that a process that was frozen
reads before it judges."""
STALE_S: Final = 2.0
"""A proof of contact older than this is none: `checks` must tell of a frozen store within 3 s."""
BACKOFF_MAX_S: Final = 0.5
SLOTS_TRIED_MAX: Final = 4
"""Slots of a server by which contact is proven in turn before it counts as lost."""
LOG_AGAIN_S: Final = 60.0
"""While there is no contact, the same reason is logged again after this."""
IDENTITY_FIELDS: Final = (b"run_id", b"master_replid")
"""The fields of INFO that differ for another process, or for other data in the same one."""

log = structlog.get_logger()


class ConnectivityMonitor:
    """Keeps contact with one store, and says when it ends and when it is there again.

    `lost()` is called when contact ends. `restored(without_s, same_server)` is called when it is there (again), with
    every channel subscribed: `without_s` is how long there was none, the time that this process was frozen included;
    `same_server` is false where the server or its data may be other ones than at the last contact. Contact without
    a sign for `patience_s` counts as lost even if it is there again before anybody noticed.

    `register()` returns the call that writes, and maybe others: of these a refusal because of their slot ends no
    contact. `registered(answer)` gets the answer to the last one, or such a refusal.

    `sharded`: the nonce's channel is that of a Cluster's slot, like the key that is written. Where the server refuses
    it, `renew_slot()` is to call `move_nonce` with one of another slot, and to return whether there is one.

    `lane` is the monitor's own; `now_s` is a monotonic clock and `rng` what draws nonces and pauses.
    """

    def __init__(
        self,
        lane: Lane,
        subscriber: Subscriber,
        nonce_channel: str,
        *,
        register: Callable[[], Sequence[Call]],
        registered: Callable[[Any], None],
        lost: Callable[[], None],
        restored: Callable[[float, bool], None],
        now_s: Callable[[], float],
        rng: random.Random,
        interval_s: float,
        patience_s: float,
        sharded: bool = False,
        renew_slot: Callable[[], bool] = lambda: False,
    ) -> None:
        self._renew_slot = renew_slot
        self._sharded = sharded
        self._publishes = "SPUBLISH" if sharded else "PUBLISH"
        self.away = True
        self.made = anyio.Event()
        """Set when there has been contact once."""
        self.losses = 0
        """The number of times that contact was lost."""
        self.round_trips = Histogram()
        """The round trips of a nonce over the store, with the write before it, s."""
        self._lane = lane
        self._subscriber = subscriber
        self._nonce_channel = nonce_channel
        self._register = register
        self._registered = registered
        self._lost = lost
        self._restored = restored
        self._now_s = now_s
        self._rng = rng
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._good_s = self._written_s = self._restored_s = now_s()
        self._identity: tuple[bytes, ...] = ()
        self._nonce = b""
        self._nonce_back = anyio.Event()
        self._nonce_answered = anyio.Event()
        """Set when the nonce's channel is acknowledged, or refused."""
        self._nonce_is_refused = False
        self._logged = ("", -LOG_AGAIN_S)
        self._subscribe_nonce()

    def _subscribe_nonce(self) -> None:
        self._nonce_answered = anyio.Event()
        self._nonce_is_refused = False
        answered = self._nonce_answered.set
        self._subscriber.subscribe(self._nonce_channel, self._hear_nonce, answered, sharded=self._sharded)

    def move_nonce(self, channel: str) -> None:
        """Hear the nonce on another channel: the server does not have the slot of the one before, or it is moving."""
        self._subscriber.unsubscribe(self._nonce_channel)
        self._nonce_channel = channel
        self._subscribe_nonce()

    def note_channel_dropped(self, channel: str) -> bool:
        """Note that the server refuses a channel, or has ended it; return whether that channel is the nonce's."""
        if channel != self._nonce_channel:
            return False
        self._nonce_is_refused = True
        self._nonce_answered.set()
        self._nonce_back.set()
        return True

    def checks(self) -> dict[str, str]:
        """Return what is wrong with the command side (`store`) and with hearing (`pubsub`); "": nothing."""
        now_s = self._now_s()
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

    def contact_s(self) -> float:
        """Return for how long there has been contact, s; 0 while there is none."""
        return 0.0 if self.away else self._now_s() - self._restored_s

    def mark_unreachable(self, reason: str = "") -> None:
        """Give the connection up: a call has failed in a way that says the store is away, for a `reason` to be logged.

        Without contact this does nothing. Whether the store is there again is for the next round trip to say: calls
        that were under way before, and fail one after the other, must not end each attempt to come back.
        """
        if not self.away:
            if reason:
                self._log_lost(reason)
            self._mark_lost()
            self._subscriber.give_up()

    async def run(self) -> None:
        """Keep contact, for ever."""
        try:
            while True:
                self._nonce_is_refused = False
                try:
                    await self._subscriber.stay(self._prove)
                except* LOST as group:
                    reason = next(_leaves(group))
                    self._log_lost(f"{type(reason).__name__}: {reason}")
                self._mark_lost()
                await self._look()
                await anyio.sleep(self._rng.uniform(0.05, BACKOFF_MAX_S))  # spreads nodes over time
        finally:
            with anyio.CancelScope(shield=True):
                await self._lane.aclose()

    def _log_lost(self, reason: str) -> None:
        """Log why there is no contact: attempts go on several times a second for as long as an outage lasts."""
        logged, at_s = self._logged
        if self.away and reason == logged and self._now_s() - at_s < LOG_AGAIN_S:
            return
        self._logged = reason, self._now_s()
        log.warning("no contact with the store", error=reason)

    async def _look(self) -> None:
        """See whether the store answers although it cannot be heard, so that operators are told which it is."""
        try:
            (answer,) = await self._pipeline([Call(("TIME",))])
            if not isinstance(answer, Exception):
                self._written_s = self._now_s()
        except* LOST:
            pass

    def _mark_lost(self) -> None:
        if not self.away:
            self.losses += 1
            self.away = True
            contain("connectivity", self._lost)

    async def _prove(self) -> None:
        """See that the nonce comes back, and that it keeps coming."""
        identity = await self._identify()
        while True:
            await self._round_trip()
            now_s = self._now_s()
            without_s, self._good_s = now_s - self._good_s, now_s
            if without_s > self._patience_s:
                self._mark_lost()
            if self.away:
                if not identity and not self.made.is_set():
                    log.warning("INFO does not say which server the store is: each outage costs a TTL")
                self.away = False
                self._restored_s = now_s
                self.made.set()
                same_server = bool(identity) and identity == self._identity
                self._identity = identity
                contain("connectivity", self._restored, without_s, same_server)
            await anyio.sleep(self._interval_s)
            if await self._lane.has_moved():
                raise RedisConnectionError("another server is the primary now")

    async def _identify(self) -> tuple[bytes, ...]:
        """Return which server this is with which data, as far as it may be known."""
        answers = await self._pipeline([Call(("INFO", "server")), Call(("INFO", "replication"))])
        for answer in answers:
            if isinstance(answer, Exception) and not _is_refused(answer):
                raise answer
        return _identity(answers)

    async def _round_trip(self) -> None:
        """Write, and hear the nonce. Where the server refuses the slot of both, try others of its slots."""
        for _ in range(SLOTS_TRIED_MAX - 1):
            try:
                await self._write_and_hear()
            except SLOT_REFUSALS:
                if not self._renew_slot():
                    raise
            else:
                return
        await self._write_and_hear()

    async def _write_and_hear(self) -> None:
        began_s = self._now_s()
        self._nonce = self._rng.randbytes(8)
        self._nonce_back = anyio.Event()
        if not self._nonce_answered.is_set():
            await within_looks(self._nonce_answered.wait, LOOKS_MAX, LOOK_S)
        self._raise_if_refused()
        publish = Call((self._publishes, self._nonce_channel, self._nonce))
        written, *others, published = await self._pipeline([*self._register(), publish])
        for answer in (written, published, *others):
            if isinstance(answer, Exception) and not (answer in others and isinstance(answer, SLOT_REFUSALS)):
                raise answer
        self._written_s = self._now_s()
        contain("connectivity", self._registered, [written, *others][-1])
        await within_looks(self._nonce_back.wait, LOOKS_MAX, LOOK_S)
        self._raise_if_refused()
        self.round_trips.observe(self._now_s() - began_s)

    def _raise_if_refused(self) -> None:
        if self._nonce_is_refused:
            raise TryAgainError(f"{self._nonce_channel} is of a slot that the server does not serve")

    async def _pipeline(self, calls: Sequence[Call]) -> list[Any]:
        return await within_looks(partial(self._lane.pipeline, calls), LOOKS_MAX, LOOK_S)

    def _hear_nonce(self, payload: bytes) -> None:
        if payload == self._nonce:
            self._nonce_back.set()


def _is_refused(error: Exception) -> bool:
    """Tell whether a command is forbidden, or one that a managed service does not have."""
    return isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and not is_away(error))


def _identity(infos: Sequence[Any]) -> tuple[bytes, ...]:
    """Return the fields of INFO that name a process and its data; nothing where one of them is not there."""
    lines = b"\n".join(info for info in infos if isinstance(info, bytes)).splitlines()
    fields = dict(line.split(b":", 1) for line in lines if b":" in line)
    return tuple(fields[name] for name in IDENTITY_FIELDS) if fields.keys() >= set(IDENTITY_FIELDS) else ()


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    """Yield the errors of a group and of those within it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
