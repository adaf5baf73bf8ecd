"""The calls of `/v1/throttle/` that ask the limiter: limits for backends and gateways, and what operators look at."""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

import anyio
import anyio.to_thread
from msgspec import UNSET, UnsetType

from presence_server.api import throttle_schema as bodies
from presence_server.api.call_base import CallBase
from presence_server.api.dependencies import ApiDependencies
from presence_server.api.gateway import KEY_CHARS_MAX, KEY_HEADER, answer_proxy, check
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.throttle.decision import Decision
from presence_server.throttle.dryrun import DryRun, play
from presence_server.throttle.rule import Rule
from presence_server.throttle.talkers import merge_reports, of_rule

ROUTES: Final = ApiRoutes()


class ThrottleCalls(CallBase):
    """The calls about the limiter."""

    def __init__(self, node: ApiDependencies) -> None:
        super().__init__(node)
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


THROTTLE_ROUTES: Final = ROUTES.routes
