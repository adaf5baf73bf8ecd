"""The rules and lists that operators change while nodes run: one document with a version.

The settings are the base. A rule of the document replaces the one of the settings that has its name, or comes beside
them; lists are in the document only.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from presence_server.config.addresses import is_network
from presence_server.rates import CountingAlgorithm
from presence_server.throttle.lists import AccessLists, ListEntry, check_target, normal_network
from presence_server.throttle.rule import Rule

FORMAT: Final = 1
"""The format of the stored document. A node leaves a higher one alone and goes on with what it knows."""
RULES_MAX: Final = 200
ENTRIES_MAX: Final = 5_000
"""The most entries of both lists together."""
DOCUMENT_BYTES_MAX: Final = 1_000_000
UNTIL_MAX: Final = 2**53 - 1
NOT_STORED: Final = frozenset(("messages", "concurrent"))
"""Limits of the server that are not counted by a rule of the limiter."""
NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}(?!\n)$"


class PolicyError(ValueError):
    """The document cannot be as asked; the text names the place."""


class PolicyTooLargeError(PolicyError):
    """A policy is longer than nodes share."""


class NewerPolicyError(PolicyError):
    """The stored document is of a newer version of this software: writing it would lose what is not understood."""


RuleName = Annotated[str, Meta(pattern=NAME_PATTERN, description="The name of a rule of the policy")]
ListRule = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,64}(?!\n)$", description="One rule, or empty: every rule")
]
ListKey = Annotated[str, Meta(max_length=512, description="Who is meant, as it is counted")]
NetworkText = Annotated[
    str, Meta(max_length=64, description="Which addresses are meant: `10.0.0.0/8`, an address")
]
TimeZone = Annotated[str, Meta(max_length=64, description="The time zone of a quota such as 1000/day")]


class RuleRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule as the document has it; see the settings of `[[throttle.rules]]`."""

    name: RuleName
    limit: Annotated[
        str, Meta(max_length=100, description="The rate that it allows for one key, such as 60/60s")
    ]
    algorithm: CountingAlgorithm = "fixed"
    block_ms: Annotated[int, Meta(ge=0, le=366 * 86_400_000)] = 0
    shadow: bool = False
    tz: TimeZone = "UTC"

    def rule(self) -> Rule:
        """Return the rule. Raises `ValueError` naming it and what is wrong with it."""
        return Rule(self.name, self.limit, self.algorithm, self.block_ms, self.shadow, self.tz)


class ListRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line of a list: `key` or `network`, for one rule or ("") for all, until a time in ms since 1970; 0: no end."""

    key: ListKey = ""
    network: NetworkText = ""
    rule: ListRule = ""
    until: Annotated[int, Meta(ge=0, le=UNTIL_MAX)] = 0
    note: Annotated[str, Meta(max_length=200)] = ""

    @property
    def target(self) -> tuple[str, str, str]:
        """The identity of the entry: a list has one line for each."""
        return self.key, normal_network(self.network), self.rule


class Policy(Struct, frozen=True):
    """The document's content."""

    rules: tuple[RuleRecord, ...] = ()
    allow: tuple[ListRecord, ...] = ()
    deny: tuple[ListRecord, ...] = ()


class Stored(Struct, frozen=True):
    """The document as it is stored: each record by itself, so that one that cannot be read spoils no other."""

    format: int = FORMAT
    rules: list[msgspec.Raw] = []
    allow: list[msgspec.Raw] = []
    deny: list[msgspec.Raw] = []


class ParsedPolicy(NamedTuple):
    """A stored document as far as it is understood; `problems` says what is not."""

    policy: Policy
    problems: list[str]


def read(document: bytes) -> ParsedPolicy:
    """Read a stored document. Raises `NewerPolicyError` for a format that is not known, `PolicyError` for no JSON."""
    try:
        stored = msgspec.json.decode(document, type=Stored)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise PolicyError(f"the stored policy cannot be read: {exc}") from None
    if stored.format > FORMAT:
        raise NewerPolicyError(f"the stored policy has format {stored.format}; this version knows {FORMAT}")
    problems: list[str] = []
    rules = _records("rules", stored.rules, RuleRecord, lambda record: record.rule(), problems)
    allow = _records("allow", stored.allow, ListRecord, _check_entry, problems)
    deny = _records("deny", stored.deny, ListRecord, _check_entry, problems)
    return ParsedPolicy(Policy(rules, allow, deny), problems)


def write(policy: Policy) -> bytes:
    """Return a document to be stored. Raises `PolicyError` for one that cannot be, `PolicyTooLargeError`."""
    _check(policy)
    records = {"rules": policy.rules, "allow": policy.allow, "deny": policy.deny}
    document = msgspec.json.encode({"format": FORMAT, **records})
    if len(document) > DOCUMENT_BYTES_MAX:
        raise PolicyTooLargeError(f"the policy is {len(document)} bytes, more than {DOCUMENT_BYTES_MAX}")
    return document


# --- changes ---


def set_rule(policy: Policy, record: RuleRecord) -> Policy:
    """Add a rule, or replace the one of its name."""
    kept = [rule for rule in policy.rules if rule.name != record.name]
    return msgspec.structs.replace(policy, rules=(*kept, record))


def remove_rule(policy: Policy, name: str) -> Policy | None:
    """Remove a rule; None where there is none."""
    kept = tuple(rule for rule in policy.rules if rule.name != name)
    return None if len(kept) == len(policy.rules) else msgspec.structs.replace(policy, rules=kept)


def set_entry(policy: Policy, kind: Literal["allow", "deny"], record: ListRecord) -> Policy:
    """Add a line to one list, in place of what either says of the same target."""
    without = remove_entry(policy, record.target) or policy
    if kind == "allow":
        return msgspec.structs.replace(without, allow=(*without.allow, record))
    return msgspec.structs.replace(without, deny=(*without.deny, record))


def remove_entry(policy: Policy, target: tuple[str, str, str]) -> Policy | None:
    """Remove what either list says of a target; None where neither says anything."""
    allow = tuple(record for record in policy.allow if record.target != target)
    deny = tuple(record for record in policy.deny if record.target != target)
    if len(allow) == len(policy.allow) and len(deny) == len(policy.deny):
        return None
    return msgspec.structs.replace(policy, allow=allow, deny=deny)


def without_ended(policy: Policy, now_ms: int) -> Policy:
    """Return the document without the lines that have ended."""
    allow = tuple(record for record in policy.allow if not 0 < record.until <= now_ms)
    deny = tuple(record for record in policy.deny if not 0 < record.until <= now_ms)
    return msgspec.structs.replace(policy, allow=allow, deny=deny)


# --- what follows from it ---


def merge_rules(base: Iterable[Rule], policy: Policy) -> list[Rule]:
    """Return the rules in force: those of the settings, each replaced by the document's of its name, and the rest."""
    rules = {rule.name: rule for rule in base}
    rules.update((record.name, record.rule()) for record in policy.rules)
    return [*rules.values()]


def lists_of(policy: Policy, now_ms: Callable[[], int]) -> AccessLists:
    """Return the lists in force."""
    entries = [ListEntry("allow", r.key, r.network, r.rule, r.until) for r in policy.allow]
    entries += [ListEntry("deny", r.key, r.network, r.rule, r.until) for r in policy.deny]
    return AccessLists(entries, now_ms)


def _check(policy: Policy) -> None:
    if len(policy.rules) > RULES_MAX:
        raise PolicyTooLargeError(f"rules: there are {len(policy.rules)}, more than {RULES_MAX}")
    entries = len(policy.allow) + len(policy.deny)
    if entries > ENTRIES_MAX:
        raise PolicyTooLargeError(f"allow and deny: there are {entries} entries, more than {ENTRIES_MAX}")
    names: set[str] = set()
    for n, rule in enumerate(policy.rules):
        if rule.name in names:
            raise PolicyError(f"rules[{n}]: {rule.name!r} names an earlier rule already")
        if rule.name in NOT_STORED:
            raise PolicyError(f"rules[{n}]: {rule.name!r} is a limit that only the settings have")
        names.add(rule.name)
        _at(f"rules[{n}]", rule.rule)
    targets: set[tuple[str, str, str]] = set()
    for kind, records in (("allow", policy.allow), ("deny", policy.deny)):
        for n, record in enumerate(records):
            _at(f"{kind}[{n}]", partial(_check_entry, record))
            if record.target in targets:
                raise PolicyError(f"{kind}[{n}]: an earlier entry is for the same target and rule")
            targets.add(record.target)


def _at(place: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ValueError as exc:
        raise PolicyError(f"{place}: {exc}") from None


def _check_entry(record: ListRecord) -> None:
    check_target(record.key, record.network)
    if record.network and not is_network(record.network):
        raise ValueError(f"{record.network!r} is no IP address and no network such as 10.0.0.0/8")


def _records(
    place: str,
    raws: Sequence[msgspec.Raw],
    kind: type[Any],
    check: Callable[[Any], object],
    problems: list[str],
) -> tuple[Any, ...]:
    understood = []
    for n, raw in enumerate(raws):
        try:
            record = msgspec.json.decode(raw, type=kind)
            check(record)
        except (ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors
            problems.append(f"{place}[{n}]: {exc}")
        else:
            understood.append(record)
    return tuple(understood)
