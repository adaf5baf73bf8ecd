"""`presence-server throttle …`: what operators change and ask while nodes run.

Exit codes: 0, done; 1, the server was not reached or has refused, or the answer could not be written, and standard
error says why; 2, a wrong command line.
"""

import argparse
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from presence_server.api.schema import NodesAnswer, VersionAnswer
from presence_server.api.throttle_schema import (
    DecisionAnswer,
    PolicyAnswer,
    RuleInForce,
    RulesAnswer,
    TopAnswer,
)
from presence_server.operate.api_client import ApiClient, CallError, read_key
from presence_server.operate.output import (
    FAILED,
    USAGE_ERROR,
    printable,
    printable_json,
    report_problem,
    write_out,
)
from presence_server.rates import parse_duration
from presence_server.throttle.dryrun import DryRun
from presence_server.throttle.policy import ListRecord

PROGRAM: Final = "presence-server throttle"
Done = tuple[Any, list[str]]
"""The answer to a call, and the lines that are printed for it."""


def run(arguments: argparse.Namespace) -> int:
    """Run one command and give its exit code."""
    try:
        client = ApiClient(arguments.api, read_key(arguments.key_file))
        answer, lines = ACTIONS[arguments.action](client, arguments)
    except CallError as exc:
        return report_problem(PROGRAM, exc, FAILED)
    except (OSError, ValueError) as exc:
        return report_problem(PROGRAM, exc, USAGE_ERROR)
    if arguments.json:
        return write_out(PROGRAM, lambda: print(printable_json(msgspec.to_builtins(answer))))
    return write_out(PROGRAM, lambda: print("\n".join(map(printable, lines))))


# --- the commands ---


def _show(client: ApiClient, arguments: argparse.Namespace) -> Done:
    del arguments
    policy = client.call(PolicyAnswer, "GET", "/v1/throttle/policy")
    rules = client.call(RulesAnswer, "GET", "/v1/throttle/rules").rules
    nodes = client.call(NodesAnswer, "GET", "/v1/nodes").nodes
    lines = [f"policy version {policy.version}"]
    lines += [f"not understood by this node: {policy.problem}"] if policy.problem else []
    lines += [f"node {node.node} goes by version {node.policy}" for node in nodes]
    lines += map(_rule_line, rules)
    lines += [_list_line("allow", entry) for entry in policy.allow]
    lines += [_list_line("deny", entry) for entry in policy.deny]
    return {"policy": policy, "rules": rules, "nodes": nodes}, lines


def _rule_line(rule: RuleInForce) -> str:
    marks = (
        rule.algorithm,
        f"block {rule.block_ms} ms" if rule.block_ms else "",
        rule.tz if rule.tz != "UTC" else "",
        "shadow" if rule.shadow else "",
        f"from the {rule.origin}",
    )
    return f"rule {rule.name} {rule.limit} {', '.join(filter(None, marks))}"


def _list_line(kind: str, entry: ListRecord) -> str:
    target = f"key {entry.key}" if entry.key else f"network {entry.network}"
    rule = f" under {entry.rule}" if entry.rule else ""
    until = f" until {entry.until}" if entry.until else ""
    note = f" ({entry.note})" if entry.note else ""
    return f"{kind} {target}{rule}{until}{note}"


def _changed(answer: VersionAnswer) -> Done:
    return answer, [f"policy version {answer.version}"]


def _rule(arguments: argparse.Namespace) -> dict[str, Any]:
    body = {"limit": arguments.limit, "algorithm": arguments.algorithm, "tz": arguments.tz}
    return body | {"block_ms": _ms(arguments.block) if arguments.block else 0}


def _set_rule(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body = _rule(arguments) | {"shadow": arguments.shadow}
    return _changed(client.call(VersionAnswer, "PUT", _rule_path(arguments.name), body))


def _remove_rule(client: ApiClient, arguments: argparse.Namespace) -> Done:
    return _changed(client.call(VersionAnswer, "DELETE", _rule_path(arguments.name)))


def _rule_path(name: str) -> str:
    return f"/v1/throttle/rules/{quote(name, safe='')}"


def _target(arguments: argparse.Namespace) -> dict[str, Any]:
    kind = "key" if arguments.key is not None else "network"
    return {kind: getattr(arguments, kind), "rule": arguments.rule}


def _list(client: ApiClient, arguments: argparse.Namespace) -> Done:
    ttl_ms = _ms(arguments.duration) if arguments.duration else 0
    body = _target(arguments) | {"ttl_ms": ttl_ms, "note": arguments.note}
    return _changed(client.call(VersionAnswer, "POST", f"/v1/throttle/{arguments.action}", body))


def _unlist(client: ApiClient, arguments: argparse.Namespace) -> Done:
    return _changed(client.call(VersionAnswer, "POST", "/v1/throttle/unlist", _target(arguments)))


def _decide(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body: dict[str, Any] = {"rule": arguments.rule, "key": arguments.key}
    if arguments.action == "block":
        body["ms"] = _ms(arguments.duration)
    decision = client.call(DecisionAnswer, "POST", f"/v1/throttle/{arguments.action}", body)
    state = "admitted" if decision.allowed else f"refused for {decision.retry_after_ms / 1_000:.1f} s"
    return decision, [f"{state}, {decision.remaining} of {decision.limit} left ({decision.source})"]


def _top(client: ApiClient, arguments: argparse.Namespace) -> Done:
    query = {"by": arguments.by, "limit": arguments.limit, "scope": arguments.scope, "rule": arguments.rule}
    answer = client.call(TopAnswer, "GET", f"/v1/throttle/top?{urlencode(query)}")
    lines = [f"{arguments.by} on {answer.nodes} node(s) in {answer.over_ms / 1_000:.0f} s"]
    for line in answer.top:
        error = f" (at least {line.count - line.error})" if line.error else ""
        lines.append(f"{line.count}{error} {line.rule} {line.key}")
    return answer, lines


def _dry_run(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body = _rule(arguments) | {"rule": arguments.name}
    answer = client.call(DryRun, "POST", "/v1/throttle/dryrun", body)
    lines = [
        f"{answer.refused} of {answer.played} hits in {answer.over_ms / 1_000:.0f} s would have been refused "
        f"({answer.was_refused} were), of {answer.keys_refused} of {answer.keys} keys"
    ]
    lines += [f"{each.refused} of {each.hits} {each.key}" for each in answer.top]
    return answer, lines


def _ms(text: str) -> int:
    return int(parse_duration(text) * 1_000)


ACTIONS: Final[Mapping[str, Callable[[ApiClient, argparse.Namespace], Done]]] = MappingProxyType(
    {
        "show": _show,
        "set-rule": _set_rule,
        "dry-run": _dry_run,
        "remove-rule": _remove_rule,
        "allow": _list,
        "deny": _list,
        "remove": _unlist,
        "block": _decide,
        "reset": _decide,
        "peek": _decide,
        "top": _top,
    }
)
"""The commands, as the command line names them."""
