"""Counting in a Redis Cluster: a store for each primary, and which of them has a key."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from presence_server.config.store_url import Address, StoreUrl
from presence_server.redis_io.client import RedisClient
from presence_server.redis_io.cluster_slots import (
    SLOTS_AGAIN_S,
    SLOTS_EVERY_S,
    SLOTS_PAUSE_S,
    ClusterServers,
    SlotMap,
)
from presence_server.redis_io.keys import Keys
from presence_server.redis_io.scripts import slot_of
from presence_server.throttle.batch import Done, GivenUp, Verb
from presence_server.throttle.port import Forget, NoteRefusal
from presence_server.throttle.redis import ThrottleRedisStore
from presence_server.throttle.rule import Rule
from presence_server.throttle.store_connection import CONNECT_S

log = logging.getLogger(__name__)


class ThrottleClusterStore:
    """Sends each decision to the primary that has the slot of its key; see `ThrottleRedisStore` for the rest."""

    def __init__(
        self,
        url: StoreUrl,
        keys: Keys,
        deadline_ms: int,
        forget: Forget,
        note_refusal: NoteRefusal,
    ) -> None:
        self.place = keys.throttle
        self._url = url
        self._keys = keys
        self._deadline_ms = deadline_ms
        self._forget = forget
        self._note_refusal = note_refusal
        self._servers = ClusterServers(url)
        self._stores: dict[Address, ThrottleRedisStore] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._follower: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._known = asyncio.Event()

    @property
    def broken(self) -> bool:
        """Whether a primary is not asked at present, or none is known."""
        return not self._stores or any(store.broken for store in self._stores.values())

    def ask(
        self, verb: Verb, rules: Sequence[Rule], places: Sequence[str], cost: int | str, done: Done
    ) -> GivenUp | None:
        """Have a decision made about one key."""
        store = self._store_of(places[0])
        return GivenUp.AWAY if store is None else store.ask(verb, rules, places, cost, done)

    def ask_once(self, rule: Rule, place: str, done: Done) -> GivenUp | None:
        """Do as `ask` for a hit of one rule, with cost 1."""
        store = self._store_of(place)
        return GivenUp.AWAY if store is None else store.ask_once(rule, place, done)

    def keep(self, rule: Rule, held: Sequence[tuple[str, Callable[[], int]]], done: Done) -> bool:
        """Say how many this process holds at each place; `done` is called once, when all are told."""
        by_store: dict[ThrottleRedisStore, list[tuple[str, Callable[[], int]]]] = {}
        for each in held:
            store = self._store_of(each[0])
            if store is not None:
                by_store.setdefault(store, []).append(each)
        outstanding = len(by_store)

        def kept(answer: object) -> None:
            nonlocal outstanding
            outstanding -= 1
            if not outstanding:
                done(answer)

        for store, some in by_store.items():
            if not store.keep(rule, some, kept):
                outstanding -= 1
        return outstanding > 0

    async def connect(self) -> None:
        """Wait until every primary is connected."""
        self.follow_loop()
        await self._known.wait()
        for store in list(self._stores.values()):
            await store.connect()

    async def aclose(self) -> None:
        """Give everything up and close the connections."""
        follower, self._follower = self._follower, None
        if follower is not None and self._loop is asyncio.get_running_loop():
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        stores, self._stores = self._stores, {}
        for store in stores.values():
            await store.aclose()
        await self._servers.aclose()
        self._loop = None

    def follow_loop(self) -> None:
        """Begin in this event loop, or go on in it when another has ended.

        Raises `RuntimeError` where the other one still runs.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                "a limiter with a shared store cannot be used in two event loops: close one, then it follows"
            )
        self._loop = loop
        self._wanted, self._known = asyncio.Event(), asyncio.Event()
        for store in self._stores.values():
            store.follow_loop()
        self._follower = loop.create_task(self._follow(), name="limiter's slots")

    def _store_of(self, place: str) -> ThrottleRedisStore | None:
        if self._loop is not asyncio.get_running_loop():
            self.follow_loop()
        owner = self._servers.slots.owner(slot_of(place))
        return None if owner is None else self._stores.get(owner)

    def _look_soon(self) -> None:
        self._wanted.set()

    async def _follow(self) -> None:
        """Keep a store for each primary, for ever."""
        has_logged = False
        has_moved = True
        while True:
            self._wanted.clear()
            before = self._servers.slots.ranges
            try:
                await self._change(await self._servers.ask_slots())
                has_moved = self._servers.slots.ranges != before
                has_logged = False
                self._known.set()
            except (RedisError, OSError, TimeoutError) as exc:
                if not has_logged:
                    log.warning("the limiter cannot see the slots of its store: %s", exc)
                    has_logged = True
            except Exception:
                # redis-py raises AttributeError and others where a server goes away while it is asked.
                log.exception("the limiter cannot see the slots of its store")
            if self.broken:
                await asyncio.sleep(SLOTS_AGAIN_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOTS_EVERY_S):
                    await self._wanted.wait()
            # Where the slot map has not changed, the slot that was refused is still moving.
            await asyncio.sleep(SLOTS_PAUSE_S if has_moved else SLOTS_AGAIN_S)

    async def _change(self, slots: SlotMap) -> None:
        for address in slots.primaries:
            if address not in self._stores:
                self._stores[address] = store = ThrottleRedisStore(
                    RedisClient(self._url, CONNECT_S, at=address),
                    self._keys,
                    self._deadline_ms,
                    self._forget,
                    self._note_refusal,
                    on_slot_refused=self._look_soon,
                )
                store.follow_loop()
        for address in [each for each in self._stores if each not in slots.primaries]:
            await self._stores.pop(address).aclose()
