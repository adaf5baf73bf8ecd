"""The calls of `/v1/throttle/`: limits for backends, and what operators change while nodes run."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, Literal

import anyio
import anyio.to_thread
import msgspec
from msgspec import UNSET, UnsetType

from presence_server.api import schema
from presence_server.api import throttle_schema as bodies
from presence_server.api.dependencies import ApiDependencies
from presence_server.api.etag import if_match
from presence_server.api.gateway import KEY_CHARS_MAX, KEY_HEADER, answer_proxy, check
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.throttle import policy as policies
from presence_server.throttle.decision import Decision
from presence_server.throttle.dryrun import DryRun, play
from presence_server.throttle.policy import (
    ListRecord,
    NewerPolicyError,
    Policy,
    PolicyError,
    PolicyTooLargeError,
    RuleRecord,
)
from presence_server.throttle.policy_follower import Edit, PolicyConflictError
from presence_server.throttle.rule import Rule
from presence_server.throttle.talkers import merge_reports, of_rule

ROUTES: Final = ApiRoutes()
CHANGE_PROBLEMS: Final = (409, 413, 422)


class ThrottleCalls:
    """The limiter's calls, and those of the policy."""

    def __init__(self, node: ApiDependencies) -> None:
        self._node = node
        self._dry_runs = anyio.Lock()

    # --- counting ---

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/hit",
        "Count something, if its rules admit it",
        {200: bodies.DecisionAnswer, 429: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.HitRequest,
        quiet=True,
        rate_limited=True,
    )
    async def hit(self, asked: CheckedRequest) -> Reply:
        body: bodies.HitRequest = asked.body
        names = _names(body)
        decision = await _limited(lambda: self._node.limiter.hit(names, body.key, body.cost))
        answer = _decision(decision, decision.rule if isinstance(names, list) else UNSET)
        return Reply(200 if decision.allowed else 429, answer, decision.headers())

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/peek",
        "Say what a hit would do, and count nothing",
        {200: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.LookRequest,
        quiet=True,
    )
    async def peek(self, asked: CheckedRequest) -> Reply:
        body: bodies.LookRequest = asked.body
        looked = _limited(lambda: self._node.limiter.peek(body.rule, body.key, body.cost))
        return Reply(200, _decision(await looked))

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/refund",
        "Give back what was counted, never more",
        {200: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.LookRequest,
        quiet=True,
    )
    async def refund(self, asked: CheckedRequest) -> Reply:
        body: bodies.LookRequest = asked.body
        looked = _limited(lambda: self._node.limiter.refund(body.rule, body.key, body.cost))
        return Reply(200, _decision(await looked))

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/charge",
        "Count what has been used, up to the limit",
        {200: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.LookRequest,
        quiet=True,
    )
    async def charge(self, asked: CheckedRequest) -> Reply:
        body: bodies.LookRequest = asked.body
        looked = _limited(lambda: self._node.limiter.charge(body.rule, body.key, body.cost))
        return Reply(200, _decision(await looked))

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/reset",
        "Forget what was counted, and a block",
        {200: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.ResetRequest,
    )
    async def reset(self, asked: CheckedRequest) -> Reply:
        body: bodies.ResetRequest = asked.body
        return Reply(200, _decision(await _limited(lambda: self._node.limiter.reset(body.rule, body.key))))

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/block",
        "Refuse a key for a while",
        {200: bodies.DecisionAnswer},
        problems=(404, 413, 422),
        body=bodies.BlockRequest,
    )
    async def block(self, asked: CheckedRequest) -> Reply:
        body: bodies.BlockRequest = asked.body
        looked = _limited(lambda: self._node.limiter.block(body.rule, body.key, body.ms))
        return Reply(200, _decision(await looked))

    # --- watching ---

    @ROUTES.add_route(
        "GET",
        "/v1/throttle/top",
        "List the keys that are hit, or refused, most",
        {200: bodies.TopAnswer},
        query=bodies.TopQuery,
        quiet=True,
    )
    async def top(self, asked: CheckedRequest) -> Reply:
        query: bodies.TopQuery = asked.query
        talkers, now_s = self._node.limiter.talkers, monotonic()
        if query.scope == "node":
            report, nodes = talkers.report(query.by, now_s, query.rule, query.limit), 1
        else:
            published = await self._node.talkers_board.others(
                [each.node for each in await self._node.registry.nodes()]
            )
            reports = [each.hits if query.by == "hits" else each.refused for each in published]
            if query.rule:
                reports = [of_rule(report, query.rule) for report in reports]
            reports.append(talkers.report(query.by, now_s, query.rule))
            report, nodes = merge_reports(reports, query.limit), len(reports)
        return Reply(200, bodies.TopAnswer(report.lines, report.floor, report.over_ms, nodes))

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/dryrun",
        "Play a proposed rule over this node's recent decisions",
        {200: DryRun},
        problems=(409, 413, 422),
        body=bodies.DryRunRequest,
    )
    async def dryrun(self, asked: CheckedRequest) -> Reply:
        body: bodies.DryRunRequest = asked.body
        log = self._node.limiter.log
        if log is None:
            raise ProblemError(409, "this node keeps no decisions: throttle.decision_log is 0", "no_log")
        try:
            rule = Rule("proposed", body.limit, body.algorithm, body.block_ms, tz=body.tz)
        except ValueError as exc:
            raise ProblemError(422, str(exc)) from None
        # One at a time, and not in the event loop: it computes for seconds.
        async with self._dry_runs:
            return Reply(200, await anyio.to_thread.run_sync(play, log.copy(), body.rule, rule, body.top))

    # --- gateways ---

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/check",
        "Charge what a gateway describes, all of it or nothing",
        {200: bodies.CheckAnswer, 429: bodies.CheckAnswer},
        problems=(404, 413, 422),
        body=bodies.CheckRequest,
        quiet=True,
        depth=5,
        rate_limited=True,
    )
    async def check(self, asked: CheckedRequest) -> Reply:
        return await check(self._node.limiter, asked.body)

    @ROUTES.add_route(
        "GET",
        "/v1/throttle/auth",
        "Answer a proxy with a status: 204, or the one of a refusal",
        {204: None},
        problems=(404, 422, 429),
        query=bodies.AuthQuery,
        key_header=KEY_HEADER,
        quiet=True,
        rate_limited=True,
    )
    async def auth(self, asked: CheckedRequest) -> Reply:
        query: bodies.AuthQuery = asked.query
        key = asked.headers.get(KEY_HEADER.lower(), "")
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise ProblemError(400, f"{KEY_HEADER} must have 1 to {KEY_CHARS_MAX} characters, not {len(key)}")
        decision = await _limited(lambda: self._node.limiter.hit(query.rule, key, query.cost))
        return answer_proxy(decision, query.refusal)

    # --- the policy ---

    @ROUTES.add_route(
        "GET",
        "/v1/throttle/policy",
        "Read the rules and lists that were changed at run time",
        {200: bodies.PolicyAnswer},
        etag=True,
        quiet=True,
    )
    async def policy(self, asked: CheckedRequest) -> Reply:
        del asked
        follower = self._node.policy
        await follower.look_for_change()
        policy, version = follower.policy, follower.version
        records = (list(policy.rules), list(policy.allow), list(policy.deny))
        return Reply(200, bodies.PolicyAnswer(version, *records, follower.problem), _etag(version))

    @ROUTES.add_route(
        "PUT",
        "/v1/throttle/policy",
        "Replace the policy that is at the version named",
        {200: schema.VersionAnswer},
        problems=(*CHANGE_PROBLEMS, 412, 428),
        body=bodies.PolicyRequest,
        if_match=True,
        etag=True,
        depth=3,
    )
    async def change_policy(self, asked: CheckedRequest) -> Reply:
        body: bodies.PolicyRequest = asked.body
        expected = if_match(asked.headers.get("if-match"))
        policy = Policy(tuple(body.rules), tuple(body.allow), tuple(body.deny))
        return await self._change(lambda _: policy, expected)

    @ROUTES.add_route(
        "GET",
        "/v1/throttle/rules",
        "List the rules in force on this node",
        {200: bodies.RulesAnswer},
        quiet=True,
    )
    async def rules(self, asked: CheckedRequest) -> Reply:
        del asked
        stored = {rule.name for rule in self._node.policy.policy.rules}
        rules = [
            bodies.RuleInForce(
                rule.name,
                rule.limit,
                rule.algorithm,
                rule.block_ms,
                rule.shadow,
                rule.tz,
                "policy" if rule.name in stored else "settings",
            )
            for rule in self._node.limiter.rules.values()
        ]
        return Reply(200, bodies.RulesAnswer(self._node.policy.version, rules))

    @ROUTES.add_route(
        "PUT",
        "/v1/throttle/rules/{rule}",
        "Add a rule to the policy, or replace it",
        {200: schema.VersionAnswer},
        problems=CHANGE_PROBLEMS,
        body=bodies.RuleRequest,
        etag=True,
    )
    async def set_rule(self, asked: CheckedRequest) -> Reply:
        body: bodies.RuleRequest = asked.body
        record = RuleRecord(asked.path["rule"], **msgspec.structs.asdict(body))
        return await self._change(lambda policy: policies.set_rule(policy, record))

    @ROUTES.add_route(
        "DELETE",
        "/v1/throttle/rules/{rule}",
        "Remove a rule from the policy; one of the settings holds again",
        {200: schema.VersionAnswer},
        problems=(404, *CHANGE_PROBLEMS),
        etag=True,
    )
    async def remove_rule(self, asked: CheckedRequest) -> Reply:
        name = asked.path["rule"]
        return await self._change(
            lambda policy: policies.remove_rule(policy, name), missing=f"the policy has no rule {name!r}"
        )

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/allow",
        "Admit a key or a network uncounted",
        {200: schema.VersionAnswer},
        problems=CHANGE_PROBLEMS,
        body=bodies.ListRequest,
        etag=True,
    )
    async def allow(self, asked: CheckedRequest) -> Reply:
        return await self._list("allow", asked.body)

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/deny",
        "Refuse a key or a network",
        {200: schema.VersionAnswer},
        problems=CHANGE_PROBLEMS,
        body=bodies.ListRequest,
        etag=True,
    )
    async def deny(self, asked: CheckedRequest) -> Reply:
        return await self._list("deny", asked.body)

    @ROUTES.add_route(
        "POST",
        "/v1/throttle/unlist",
        "Take a key or a network off the lists",
        {200: schema.VersionAnswer},
        problems=(404, *CHANGE_PROBLEMS),
        body=bodies.UnlistRequest,
        etag=True,
    )
    async def unlist(self, asked: CheckedRequest) -> Reply:
        body: bodies.UnlistRequest = asked.body
        target = ListRecord(body.key, body.network, body.rule).target
        return await self._change(
            lambda policy: policies.remove_entry(policy, target), missing="neither list has such an entry"
        )

    async def _list(self, kind: Literal["allow", "deny"], body: bodies.ListRequest) -> Reply:
        until = self._node.clock.wall_ms() + body.ttl_ms if body.ttl_ms else 0
        record = ListRecord(body.key, body.network, body.rule, until, body.note)
        return await self._change(lambda policy: policies.set_entry(policy, kind, record))

    async def _change(self, edit: Edit, expected: int | None = None, missing: str = "") -> Reply:
        """Change the policy and answer with its new version; `missing` is what 404 says where nothing is changed."""
        changes = True

        def noted(policy: Policy) -> Policy | None:
            nonlocal changes
            edited = edit(policy)
            changes = edited is not None
            return edited

        try:
            version = await self._node.policy.change_policy(noted, expected)
        except PolicyConflictError as exc:
            status = 409 if expected is None else 412
            detail = f"the policy is at version {exc.version} now; nothing was changed"
            raise ProblemError(status, detail, "conflict", _etag(exc.version), exc.version) from None
        except NewerPolicyError as exc:
            raise ProblemError(409, str(exc), "newer_policy") from None
        except PolicyTooLargeError as exc:
            raise ProblemError(413, str(exc), "too_large") from None
        except PolicyError as exc:
            raise ProblemError(422, f"the policy: {exc}") from None
        if not changes:
            raise ProblemError(404, missing)
        return Reply(200, schema.VersionAnswer(version), _etag(version))


async def _limited(decide: Callable[[], Awaitable[Decision]]) -> Decision:
    try:
        return await decide()
    except LookupError as exc:
        raise ProblemError(404, str(exc.args[0])) from None
    except ValueError as exc:
        raise ProblemError(422, str(exc)) from None


def _names(body: bodies.HitRequest) -> str | list[str]:
    """Return the rules that a hit is of."""
    if isinstance(body.rule, UnsetType) == isinstance(body.rules, UnsetType):
        raise ProblemError(422, "in the body: a hit is of one rule or of several: give rule or rules")
    if not isinstance(body.rule, UnsetType):
        return body.rule
    assert not isinstance(body.rules, UnsetType)  # noqa: S101 - for the type checker
    return list(dict.fromkeys(body.rules))


def _decision(decision: Decision, rule: str | UnsetType = UNSET) -> bodies.DecisionAnswer:
    return bodies.DecisionAnswer(
        decision.allowed,
        decision.limit,
        max(decision.remaining, 0),
        decision.retry_after_ms,
        decision.reset_after_ms,
        decision.source,
        rule,
    )


def _etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


THROTTLE_ROUTES: Final = ROUTES.routes
