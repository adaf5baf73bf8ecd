"""Allow and deny lists: keys, and networks of IP addresses, that are admitted or refused without being counted.

The entry that says most about a key decides: its own before a network's, a longer prefix before a shorter one,
and of those for one target the one for the rule before the one for every rule.
"""

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from presence_server.throttle.decision import Verdict
from presence_server.throttle.rule import Rule

if TYPE_CHECKING:
    from presence_server.throttle.address import Network

Kind = Literal["allow", "deny"]
ListSource = Literal["allow_list", "deny_list"]
ENTRIES_MAX: Final = 100_000
ENDLESS_RETRY_US: Final = 3_600_000_000
"""The `retry_after` of a refusal that has no end: the entry may be removed meanwhile."""
BITS: Final = {4: 32, 6: 128}
MAPPED: Final = bytes(10) + b"\xff\xff"
"""The prefix of IPv6 addresses that stand for IPv4 ones (RFC 4291, 2.5.5.2)."""


class ListEntry(NamedTuple):
    """One line of a list: a key or a network, one rule's or ("") every rule's, until a time in ms; 0: no end."""

    kind: Kind
    key: str = ""
    network: str = ""
    rule: str = ""
    until_ms: int = 0


class Ruling(NamedTuple):
    """The ruling of the lists on a decision: the rules that are still to be asked; none: it is decided."""

    rules: Sequence[Rule]
    rule: Rule
    verdict: Verdict
    source: ListSource


Lines = dict[str, tuple[bool, int]]
"""Pairs by rule ("": every rule): whether it is allowed, and until when, ms; 0: no end."""


Target = TypeVar("Target", str, int)
"""A key, or the leading bits of a network."""


class AccessLists:
    """Finds the entry for a key: one look into a table for a key, one for each length of prefix for an address.

    `now_ms` is the clock that entries end by. Entries that have ended are found no more; `prune` forgets them.
    """

    def __init__(
        self,
        entries: Iterable[ListEntry] = (),
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.any = False
        """Whether there is anything to find."""
        self._now_ms = now_ms
        self._keys: dict[str, Lines] = {}
        self._networks: dict[int, dict[int, dict[int, Lines]]] = {4: {}, 6: {}}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}
        self._size = 0
        for entry in entries:
            self.add_entry(entry)

    def __len__(self) -> int:
        return self._size

    def ends_ms(self, ttl_s: float | None) -> int:
        """Return when an entry ends that lasts `ttl_s` seconds from now; 0: never. Raises `ValueError`."""
        if ttl_s is None:
            return 0
        if ttl_s <= 0:
            raise ValueError(f"an entry lasts longer than {ttl_s} s")
        return self._now_ms() + int(ttl_s * 1_000)

    def add_entry(self, entry: ListEntry) -> None:
        """Add an entry, in place of one for the same target and rule.

        Raises `ValueError` for a network that is none, and where there are `ENTRIES_MAX` entries.
        """
        check_target(entry.key, entry.network)
        network = _network(entry.network) if entry.network else None
        if self._size >= ENTRIES_MAX:
            self.prune()
            if self._size >= ENTRIES_MAX:
                raise ValueError(f"the lists hold {ENTRIES_MAX} entries at most")
        lines = self._keys.setdefault(entry.key, {}) if network is None else self._lines(network)
        self._size += entry.rule not in lines
        lines[entry.rule] = (entry.kind == "allow", entry.until_ms)
        self.any = True

    def remove_entry(self, *, key: str = "", network: str = "", rule: str = "") -> bool:
        """Remove what is said of a target and a rule; tell whether there was anything."""
        if key:
            removed = _remove(self._keys, key, rule)
        else:
            version, length, value = _place(_network(network))
            removed = _remove(self._networks[version].get(length, {}), value, rule)
            self._drop_empty_lengths()
        self._size -= removed
        self.any = self._size > 0
        return removed

    def prune(self) -> None:
        """Forget what has ended."""
        now_ms = self._now_ms()
        tables: list[dict[int, Lines] | dict[str, Lines]] = [self._keys]
        tables += [table for by_length in self._networks.values() for table in by_length.values()]
        for table in tables:
            _prune(table, now_ms)
        self._drop_empty_lengths()
        self._size = sum(len(lines) for table in tables for lines in table.values())
        self.any = self._size > 0

    def find_entry(self, rules: Sequence[Rule], key: str) -> Ruling | None:
        """Return what the lists say of a key under these rules; None: nothing.

        A key that is denied under one of the rules is refused. A rule that allows it is not asked, the others are.
        """
        lines = self._targets(key)
        if not lines:
            return None
        now_ms = self._now_ms()
        left = []
        for rule in rules:
            allowed, until_ms = _decide(lines, rule.name, now_ms)
            if allowed is False:
                retry_us = _retry_us(until_ms, now_ms)
                verdict = Verdict(allowed=False, remaining=0, retry_us=retry_us, reset_us=retry_us)
                return Ruling((), rule, verdict, "deny_list")
            if allowed is None:
                left.append(rule)
        if len(left) == len(rules):
            return None
        rule = rules[0]
        verdict = Verdict(allowed=True, remaining=rule.count, retry_us=0, reset_us=0)
        return Ruling(left, rule, verdict, "allow_list")

    def says(self, rule: str, key: str) -> tuple[bool | None, int]:
        """Return whether a key is allowed under a rule of that name (None: neither), and how long it is refused, µs."""
        lines = self._targets(key)
        now_ms = self._now_ms()
        allowed, until_ms = _decide(lines, rule, now_ms) if lines else (None, 0)
        return allowed, _retry_us(until_ms, now_ms) if allowed is False else 0

    def _lines(self, network: "Network") -> Lines:
        """Return what is said of a network, to be added to."""
        version, length, value = _place(network)
        by_length = self._networks[version]
        if length not in by_length:
            by_length[length] = {}
            self._lengths[version] = sorted(by_length, reverse=True)
        return by_length[length].setdefault(value, {})

    def _drop_empty_lengths(self) -> None:
        """Look no more for networks of a length that no entry has: a look costs each address a table."""
        for version, by_length in self._networks.items():
            for length in [length for length, table in by_length.items() if not table]:
                del by_length[length]
                self._lengths[version].remove(length)

    def _targets(self, key: str) -> list[Lines]:
        """Return what is said of a key and of the networks that it is in, what says most first."""
        found = []
        if (own := self._keys.get(key)) is not None:
            found.append(own)
        if self._lengths[4] or self._lengths[6]:
            address = parse_key(key)
            if address is not None:
                version, value, bits = address
                by_length = self._networks[version]
                found += [
                    lines
                    for length in self._lengths[version]
                    if length <= bits and (lines := by_length[length].get(value >> (BITS[version] - length)))
                ]
        return found


def check_target(key: str, network: str) -> None:
    """Raise `ValueError` unless an entry names a key or a network."""
    if bool(key) == bool(network):
        raise ValueError("an entry is for a key or for a network, one of the two")


def parse_key(key: str) -> tuple[int, int, int] | None:
    """Return IP version, number and prefix length of a key that is an address or a network, or None.

    It costs most keys that are neither one look: `ipaddress` would take ten times as long.
    """
    host, slash, length = key.partition("/")
    if ":" in host:
        family, version = socket.AF_INET6, 6
    elif host[:1].isdecimal() and host.count(".") == 3:
        family, version = socket.AF_INET, 4
    else:
        return None
    try:
        packed = socket.inet_pton(family, host)
        bits = int(length) if slash else BITS[version]
    except (OSError, ValueError):  # a name with a zero byte, or with a slash of its own
        return None
    if not 0 <= bits <= BITS[version]:
        return None
    if version == 6 and packed.startswith(MAPPED) and bits >= 96:
        version, packed, bits = 4, packed[12:], bits - 96
    return version, int.from_bytes(packed, "big"), bits


def normal_network(text: str) -> str:
    """Return a network in the one form that it is compared in: no host bits, IPv4 as such; other texts as they are."""
    try:
        version, length, value = _place(_network(text))
    except ValueError:
        return text
    import ipaddress  # noqa: PLC0415 - see `_network`

    kind = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return str(kind((value << (BITS[version] - length), length)))


def _network(text: str) -> "Network":
    """Return an address or a network as a network. Raises `ValueError` for what is neither."""
    import ipaddress  # noqa: PLC0415 - costs a limiter without such entries 5 ms

    return ipaddress.ip_network(text, strict=False)


def _retry_us(until_ms: int, now_ms: int) -> int:
    return (until_ms - now_ms) * 1_000 if until_ms else ENDLESS_RETRY_US


def _place(network: "Network") -> tuple[int, int, int]:
    """Return where a network's lines are: IP version, length, and that many leading bits."""
    version, length, address = network.version, network.prefixlen, network.network_address
    mapped = address.ipv4_mapped if address.version == 6 else None
    if mapped and length >= 96:
        version, length, address = 4, length - 96, mapped
    return version, length, int(address) >> (BITS[version] - length)


def _decide(found: list[Lines], rule: str, now_ms: int) -> tuple[bool | None, int]:
    for lines in found:
        for name in (rule, ""):
            line = lines.get(name)
            if line is not None and (not line[1] or line[1] > now_ms):
                return line
    return None, 0


def _remove(table: dict[Target, Lines], target: Target, rule: str) -> bool:
    """Remove what is said of a target and a rule; tell whether there was anything."""
    lines = table.get(target)
    if lines is None or rule not in lines:
        return False
    del lines[rule]
    if not lines:
        del table[target]
    return True


def _prune(table: dict[int, Lines] | dict[str, Lines], now_ms: int) -> None:
    for lines in table.values():
        for rule in [rule for rule, (_, until_ms) in lines.items() if 0 < until_ms <= now_ms]:
            del lines[rule]
    for target in [target for target, lines in table.items() if not lines]:
        del table[target]  # type: ignore[arg-type]  # of one table, a key of its own
