"""The calls of `/v1/throttle/` that change the policy: rules and lists, while nodes run."""

from typing import Final, Literal

from msgspec.structs import asdict

from presence_server.api import schema
from presence_server.api import throttle_schema as bodies
from presence_server.api.call_base import CallBase
from presence_server.api.etag import if_match
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.throttle import policy as policies
from presence_server.throttle.policy import (
    ListRecord,
    NewerPolicyError,
    Policy,
    PolicyError,
    PolicyTooLargeError,
    RuleRecord,
)
from presence_server.throttle.policy_follower import Edit, PolicyConflictError

ROUTES: Final = ApiRoutes()
CHANGE_PROBLEMS: Final = (409, 413, 422)


class PolicyCalls(CallBase):
    """The calls about the policy."""

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
        record = RuleRecord(asked.path["rule"], **asdict(body))
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


def _etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


POLICY_ROUTES: Final = ROUTES.routes
