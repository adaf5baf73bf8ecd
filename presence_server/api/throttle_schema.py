"""The bodies that the calls of `/v1/throttle/` take and return; see `schema` for the rest."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from presence_server.api.schema import YEAR_MS, RequestBody, RuleName, ThrottleKey
from presence_server.rates import CountingAlgorithm
from presence_server.throttle.decision import Source
from presence_server.throttle.policy import ListKey, ListRecord, ListRule, NetworkText, RuleRecord, TimeZone
from presence_server.throttle.talkers import PUBLISHED_MAX, Line

COST_MAX: Final = 10_000_000
RULES_OF_A_HIT_MAX: Final = 16
Cost = Annotated[int, Meta(ge=1, le=COST_MAX)]


# --- counting ---


class LookRequest(RequestBody, frozen=True):
    """A rule's key, and the cost to look at, to give back or to charge."""

    rule: RuleName
    key: ThrottleKey
    cost: Cost = 1


class HitRequest(RequestBody, frozen=True):
    """A hit of a key: under one `rule`, or under several `rules`, all of which are charged or none."""

    key: ThrottleKey
    rule: RuleName | UnsetType = UNSET
    rules: Annotated[list[RuleName], Meta(min_length=1, max_length=RULES_OF_A_HIT_MAX)] | UnsetType = UNSET
    cost: Cost = 1


class ResetRequest(RequestBody, frozen=True):
    """A rule's key whose count is forgotten."""

    rule: RuleName
    key: ThrottleKey


class BlockRequest(RequestBody, frozen=True):
    """A rule's key that is refused for `ms`."""

    rule: RuleName
    key: ThrottleKey
    ms: Annotated[int, Meta(ge=1, le=YEAR_MS)]


class DecisionAnswer(Struct, frozen=True):
    """Whether it may happen. `source` says who decided; `rule`, of a hit of several, is the one that did."""

    allowed: bool
    limit: int
    remaining: int
    retry_after_ms: int
    reset_after_ms: int
    source: Source
    rule: str | UnsetType = UNSET


# --- the policy ---


class PolicyAnswer(Struct, frozen=True):
    """The rules and lists that were changed at run time, and their version; 0: none ever were.

    `problem` says what of the stored policy this node does not understand, and goes without.
    """

    version: int
    rules: list[RuleRecord]
    allow: list[ListRecord]
    deny: list[ListRecord]
    problem: str


class PolicyRequest(RequestBody, frozen=True):
    """All rules and lists that are to hold beside the settings."""

    rules: list[RuleRecord] = field(default_factory=list)
    allow: list[ListRecord] = field(default_factory=list)
    deny: list[ListRecord] = field(default_factory=list)


class RuleInForce(Struct, frozen=True):
    """A rule, and where it comes from: the settings, or the policy, which goes before them."""

    name: str
    limit: str
    algorithm: str
    block_ms: int
    shadow: bool
    tz: str
    origin: Literal["settings", "policy"]


class RulesAnswer(Struct, frozen=True):
    """The rules in force on this node, and the policy's version there."""

    version: int
    rules: list[RuleInForce]


class RuleRequest(RequestBody, frozen=True):
    """A rule of the policy, without its name."""

    limit: Annotated[
        str, Meta(max_length=100, description="The rate that it allows for one key, such as 60/60s")
    ]
    algorithm: CountingAlgorithm = "fixed"
    block_ms: Annotated[int, Meta(ge=0, le=YEAR_MS)] = 0
    shadow: bool = False
    tz: TimeZone = "UTC"


class ListRequest(RequestBody, frozen=True):
    """A new entry: a `key` or a `network`, under one `rule` or all, for `ttl_ms`; 0: until it is removed."""

    key: ListKey = ""
    network: NetworkText = ""
    rule: ListRule = ""
    ttl_ms: Annotated[int, Meta(ge=0, le=YEAR_MS)] = 0
    note: Annotated[str, Meta(max_length=200)] = ""


class UnlistRequest(RequestBody, frozen=True):
    """The entry to take off both lists."""

    key: ListKey = ""
    network: NetworkText = ""
    rule: ListRule = ""


# --- watching ---


class TopQuery(RequestBody, frozen=True):
    """The keys to list: by hits or refusals, of one rule or of all, on this node or on all."""

    rule: Annotated[str, Meta(max_length=64)] = ""
    by: Literal["hits", "refused"] = "hits"
    limit: Annotated[int, Meta(ge=1, le=PUBLISHED_MAX)] = 10
    scope: Literal["node", "all"] = "node"


class TopAnswer(Struct, frozen=True):
    """The keys that were counted most on `nodes` nodes over the last `over_ms`.

    Each was counted `count` times at most and `count - error` at least; a key that is not listed, `floor` at most.
    """

    top: list[Line]
    floor: int
    over_ms: int
    nodes: int


class DryRunRequest(RequestBody, frozen=True):
    """A proposed rule, and the name of the `rule` whose decisions it is played over."""

    rule: RuleName
    limit: Annotated[str, Meta(max_length=100, description="The rate that it would allow, such as 60/60s")]
    algorithm: CountingAlgorithm = "fixed"
    block_ms: Annotated[int, Meta(ge=0, le=YEAR_MS)] = 0
    tz: TimeZone = "UTC"
    top: Annotated[int, Meta(ge=0, le=100)] = 10


# --- gateways ---


class DescriptorEntry(RequestBody, frozen=True):
    """One part of a descriptor, such as `remote_address` and an address."""

    key: Annotated[str, Meta(min_length=1, max_length=64)]
    value: Annotated[str, Meta(max_length=512)] = ""


class Descriptor(RequestBody, frozen=True):
    """One thing to count: by a rule's name and a key, or by entries, from which both are made."""

    rule: Annotated[str, Meta(max_length=64)] = ""
    key: Annotated[str, Meta(max_length=512)] = ""
    cost: Annotated[int, Meta(ge=0, le=COST_MAX)] = 0
    entries: Annotated[list[DescriptorEntry], Meta(max_length=8)] = field(default_factory=list)


class CheckRequest(RequestBody, frozen=True):
    """Envoy's RateLimitRequest; `hits_addend` is the cost of descriptors without one, 0: 1."""

    descriptors: Annotated[list[Descriptor], Meta(min_length=1, max_length=16)]
    domain: Annotated[str, Meta(max_length=64)] = ""
    hits_addend: Annotated[int, Meta(ge=0, le=COST_MAX)] = 0


class CurrentLimit(Struct, frozen=True, rename="camel"):
    """The rule that was asked, as Envoy names limits; `unit` is UNKNOWN for windows that it has no name for."""

    name: str
    requests_per_unit: int
    unit: Literal["UNKNOWN", "SECOND", "MINUTE", "HOUR", "DAY", "WEEK"]


class DescriptorStatus(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result for one descriptor; without `currentLimit`: there is no rule for it."""

    code: Literal["OK", "OVER_LIMIT"]
    limit_remaining: int | UnsetType = UNSET
    duration_until_reset: str | UnsetType = UNSET
    current_limit: CurrentLimit | UnsetType = UNSET


class CheckAnswer(Struct, frozen=True, rename="camel"):
    """Envoy's RateLimitResponse."""

    overall_code: Literal["OK", "OVER_LIMIT"]
    statuses: list[DescriptorStatus]


class AuthQuery(RequestBody, frozen=True):
    """A hit of `cost` under `rule`; `refusal` is the status that refuses it."""

    rule: RuleName
    cost: Cost = 1
    refusal: Literal["429", "403"] = "429"
