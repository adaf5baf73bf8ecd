"""What the calls of `/v1/throttle/` are sent and what they answer; see `schema` for the rest."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from presence_server.api.schema import YEAR_MS, Request, RuleName, ThrottleKey
from presence_server.throttle.decision import Source
from presence_server.throttle.policy import ListKey, ListRecord, NetworkText, RuleRecord

COST_MAX: Final = 10_000_000
RULES_OF_A_HIT_MAX: Final = 16
StoredRule = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}(?!\n)$", description="The name of a rule of the policy")
]
ListRule = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,64}(?!\n)$", description="One rule, or empty: every rule")
]
Cost = Annotated[int, Meta(ge=1, le=COST_MAX)]


# --- counting ---


class LookRequest(Request, frozen=True):
    """What to look at, or to give back."""

    rule: RuleName
    key: ThrottleKey
    cost: Cost = 1


class HitRequest(Request, frozen=True):
    """What to count: under one `rule`, or under several `rules`, all of which are charged or none."""

    key: ThrottleKey
    rule: RuleName | UnsetType = UNSET
    rules: Annotated[list[RuleName], Meta(min_length=1, max_length=RULES_OF_A_HIT_MAX)] | UnsetType = UNSET
    cost: Cost = 1


class ResetRequest(Request, frozen=True):
    """Whom to forget."""

    rule: RuleName
    key: ThrottleKey


class BlockRequest(Request, frozen=True):
    """Whom to block, and for how long."""

    rule: RuleName
    key: ThrottleKey
    ms: Annotated[int, Meta(ge=1, le=YEAR_MS)]


class DecisionAnswer(Struct, frozen=True):
    """Whether it may happen. `source` says who decided; `rule` is the one of several that did."""

    allowed: bool
    limit: int
    remaining: int
    retry_after_ms: int
    reset_after_ms: int
    source: Source
    rule: str


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


class PolicyRequest(Request, frozen=True):
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
    origin: Literal["settings", "policy"]


class RulesAnswer(Struct, frozen=True):
    """The rules in force on this node, and the policy's version there."""

    version: int
    rules: list[RuleInForce]


class RuleRequest(Request, frozen=True):
    """What a rule is to be."""

    limit: Annotated[
        str, Meta(max_length=100, description="The rate that it allows for one key, such as 60/60s")
    ]
    algorithm: Literal["fixed", "sliding", "counter", "bucket"] = "fixed"
    block_ms: Annotated[int, Meta(ge=0, le=YEAR_MS)] = 0
    shadow: bool = False


class ListRequest(Request, frozen=True):
    """Whom to list: a `key` or a `network`, under one `rule` or all, for `ttl_ms`; 0: until it is removed."""

    key: ListKey = ""
    network: NetworkText = ""
    rule: ListRule = ""
    ttl_ms: Annotated[int, Meta(ge=0, le=YEAR_MS)] = 0
    note: Annotated[str, Meta(max_length=200)] = ""


class UnlistRequest(Request, frozen=True):
    """Whom to take off both lists."""

    key: ListKey = ""
    network: NetworkText = ""
    rule: ListRule = ""
