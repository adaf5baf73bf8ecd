"""The hash slots of a Redis Cluster, and the server that has each."""

import random
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from presence_server.config.store_url import Address, StoreUrl
from presence_server.redis_io.enquiry import Enquiry
from presence_server.redis_io.scripts import SLOTS, slot_of_tag

ASKED_MAX: Final = 6
"""Servers that are asked at a time."""
NAMES_MAX: Final = 5
"""Ranges of slots that a message names."""
SLOTS_EVERY_S: Final = 10.0
"""The interval at which the slot map is read while nothing seems to change."""
SLOTS_AGAIN_S: Final = 0.5
"""The interval at which the slot map is read while a server is away or a slot has moved."""
SLOTS_PAUSE_S: Final = 0.1
"""The delay of a read after a slot has moved: slots move one after the other."""


class NoClusterError(RedisConnectionError):
    """Servers answer, and refuse CLUSTER SLOTS: they are in no Cluster."""


class Range(NamedTuple):
    """Slots from `first` to `last`, and their primary."""

    first: int
    last: int
    owner: Address


class SlotMap:
    """Ranges of slots, pure; `servers` are all that were named with them, replicas too."""

    def __init__(self, ranges: Sequence[Range], servers: Sequence[Address]) -> None:
        self.ranges = sorted(ranges)
        self.servers = tuple(dict.fromkeys(servers))
        self._firsts = [each.first for each in self.ranges]
        self.primaries = tuple(dict.fromkeys(each.owner for each in self.ranges))

    def owner(self, slot: int) -> Address | None:
        """Return the primary of a slot; None: nobody has it."""
        place = bisect_right(self._firsts, slot) - 1
        if place < 0 or slot > self.ranges[place].last:
            return None
        return self.ranges[place].owner

    def tag(self, owner: Address, after: str = "") -> str:
        """Return a hash tag whose slot a primary has, the first one that follows `after`; "": it has no other slot.

        The tag is a name that no room may have: when its slot is refused, no room is concerned.
        """
        refused = slot_of_tag(after) if after else -1
        if not any(each.owner == owner and {each.first, each.last} != {refused} for each in self.ranges):
            return ""
        tags = (f"!{n}" for n in count(int(after[1:]) + 1 if after else 0))
        slots = ((tag, slot_of_tag(tag)) for tag in tags)
        return next(tag for tag, slot in slots if slot != refused and self.owner(slot) == owner)

    def takes_over(self, before: "SlotMap", lost: Collection[Address]) -> bool:
        """Tell whether a server has slots now that nobody had before, or a primary that is lost or is none any more."""
        both = (*self.ranges, *before.ranges)
        for slot in {number for each in both for number in (each.first, each.last + 1)}:
            owner, earlier = self.owner(slot), before.owner(slot)
            kept = earlier is not None and earlier in self.primaries and earlier not in lost
            if owner not in {None, earlier} and not kept:
                return True
        return False

    def uncovered(self) -> list[str]:
        """Return the slots that nobody has."""
        gaps, following = [], 0
        for first, last, _ in (*self.ranges, Range(SLOTS, SLOTS, Address("", 0))):
            if first > following:
                gaps.append(f"{following}-{first - 1}" if first - 1 > following else f"{following}")
            following = last + 1
        return gaps


def read_slots(answer: Sequence[Any], asked: Address) -> SlotMap:
    """Read the answer to CLUSTER SLOTS. A server without a host of its own is at the one that was asked.

    A server that the others have just met has port 0 for a moment. Until they know its port, nobody has its slots.
    """
    ranges, servers = [], []
    for first, last, *found in answer:
        addresses = [
            Address(asked.host if host in {None, b"", b"?"} else bytes(host).decode(), int(port))
            for host, port, *_ in found
        ]
        if addresses[0].port:
            ranges.append(Range(int(first), int(last), addresses[0]))
        servers += [address for address in addresses if address.port]
    return SlotMap(ranges, servers)


class ClusterServers:
    """The servers of a Cluster, and what they last said of its slots."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self.slots = SlotMap([], [])
        self._enquiry = Enquiry(
            {**url.tls_options, "username": url.username, "password": url.password}, tls=url.tls
        )

    async def ask_slots(self) -> SlotMap:
        """Ask several servers for CLUSTER SLOTS; the answer of the highest configuration epoch counts.

        One that was frozen while another took its slots over says what was, until it has heard of that. Raises
        `NoClusterError` where servers answer and there is none, and a connection error of redis-py where none answers.
        """
        known = [
            *self.slots.servers,
            *(each for each in self.url.addresses if each not in self.slots.servers),
        ]
        asked = random.sample(known, min(len(known), ASKED_MAX))
        majority = len(asked) // 2 + 1
        commands = [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")]
        replies = await self._enquiry.ask_all(
            asked, commands, lambda replies: len(replies.answers) >= majority
        )
        if not replies.answers:
            if replies.refusals:
                address, error = replies.refusals[0]
                raise NoClusterError(f"{address}: {error}")
            raise RedisConnectionError(f"no server of the Cluster answers: {'; '.join(replies.failures)}")
        found = [(_epoch(info), read_slots(slots, address)) for address, (info, slots) in replies.answers]
        _, slots = max(found, key=lambda pair: (pair[0], -len(pair[1].uncovered())))
        if slots.ranges:
            self.slots = slots
        return slots

    async def aclose(self) -> None:
        """Close the connections."""
        await self._enquiry.aclose()


async def cluster_problem(url: StoreUrl) -> str:
    """Return why the servers of a URL cannot be used as a Cluster; "": they can, or none answers at present."""
    servers = ClusterServers(url)
    try:
        gaps = (await servers.ask_slots()).uncovered()
    except NoClusterError as exc:
        return f"this is no Cluster: {exc}"
    except (RedisError, OSError, TimeoutError):
        return ""
    finally:
        await servers.aclose()
    if not gaps:
        return ""
    named = ", ".join(gaps[:NAMES_MAX]) + (", …" if len(gaps) > NAMES_MAX else "")
    return f"the Cluster at {url.place} has slots that no server has: {named}"


def _epoch(info: bytes) -> int:
    """Return the configuration epoch that a server knows of (CLUSTER INFO)."""
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    return int(fields.get(b"cluster_current_epoch", 0))
