"""`presence-server throttle …`: what operators change and ask while nodes run, over the HTTP API.

Exit codes: 0 done; 1 the server was not reached or has refused, and standard error says why; 2 a wrong command line.
"""

import argparse
import http.client
import json
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote, urlencode, urlsplit

from presence_server.rates import CountingAlgorithm, parse_duration

PROGRAM: Final = "presence-server throttle"
DEFAULT_API: Final = "http://127.0.0.1:8081"
TIMEOUT_S: Final = 30
FAILED: Final = 1
USAGE_ERROR: Final = 2


class CallError(Exception):
    """A call that was not answered, or not with success; the text says why."""


class ApiClient:
    """Makes calls of the internal port at `url`. Raises `ValueError` for what is no http or https URL."""

    def __init__(self, url: str, key: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f'"{url}" is no http:// or https:// URL')
        self._url = url.rstrip("/")
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        host, port = parts.hostname, parts.port
        self._connect: Callable[[], http.client.HTTPConnection] = lambda: (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what a call is answered with. Raises `CallError`."""
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {})
        payload = None if body is None else json.dumps(body).encode()
        connection = self._connect()
        try:
            connection.request(method, self._path + path, payload, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as exc:
            raise CallError(f"{self._url} cannot be asked: {str(exc) or type(exc).__name__}") from None
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else None
        except ValueError:
            raise CallError(
                f"{self._url} is no presence-server: it answered {response.status}, no JSON"
            ) from None
        if response.status >= 400:
            detail = answer.get("detail", "") if isinstance(answer, dict) else ""
            raise CallError(f"{response.status}: {detail or response.reason}")
        return answer


Done = tuple[Any, list[str]]
"""The answer to a call, and the lines that are printed for it."""


def run(arguments: argparse.Namespace) -> int:
    """Run one command and give its exit code."""
    try:
        client = ApiClient(arguments.api, read_key(arguments.key_file))
        answer, lines = arguments.does(client, arguments)
    except CallError as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return FAILED
    except (OSError, ValueError) as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return USAGE_ERROR
    print(json.dumps(answer, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines))
    return 0


def read_key(file: str | None) -> str:
    """Return the first line of a file with `api.key`; "": there is no file. Raises `OSError` or `ValueError`."""
    return Path(file).read_text(encoding="utf-8").split("\n")[0].strip() if file else ""


# --- the commands ---


def _show(client: ApiClient, arguments: argparse.Namespace) -> Done:
    del arguments
    policy = client.call("GET", "/v1/throttle/policy")
    rules = client.call("GET", "/v1/throttle/rules")
    nodes = client.call("GET", "/v1/nodes")
    answer = {"policy": policy, "rules": rules["rules"], "nodes": nodes["nodes"]}
    lines = [f"policy version {policy['version']}"]
    lines += [f"not understood by this node: {policy['problem']}"] if policy["problem"] else []
    lines += [f"node {node['node']} goes by version {node['policy']}" for node in nodes["nodes"]]
    for rule in rules["rules"]:
        marks = [rule["algorithm"], f"block {rule['block_ms']} ms" if rule["block_ms"] else ""]
        marks += [
            rule["tz"] if rule["tz"] != "UTC" else "",
            "shadow" if rule["shadow"] else "",
            f"from the {rule['origin']}",
        ]
        lines.append(f"rule {rule['name']} {rule['limit']} {', '.join(filter(None, marks))}")
    for kind in ("allow", "deny"):
        for entry in policy[kind]:
            target = f"key {entry['key']}" if entry.get("key") else f"network {entry['network']}"
            rule = f" under {entry['rule']}" if entry.get("rule") else ""
            until = f" until {entry['until']}" if entry.get("until") else ""
            note = f" ({entry['note']})" if entry.get("note") else ""
            lines.append(f"{kind} {target}{rule}{until}{note}")
    return answer, lines


def _changed(answer: Any) -> Done:
    return answer, [f"policy version {answer['version']}"]


def _rule(arguments: argparse.Namespace) -> dict[str, Any]:
    body = {"limit": arguments.limit, "algorithm": arguments.algorithm, "tz": arguments.tz}
    return body | {"block_ms": _ms(arguments.block) if arguments.block else 0}


def _set_rule(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body = _rule(arguments) | {"shadow": arguments.shadow}
    return _changed(client.call("PUT", f"/v1/throttle/rules/{quote(arguments.name, safe='')}", body))


def _remove_rule(client: ApiClient, arguments: argparse.Namespace) -> Done:
    return _changed(client.call("DELETE", f"/v1/throttle/rules/{quote(arguments.name, safe='')}"))


def _target(arguments: argparse.Namespace) -> dict[str, Any]:
    kind = "key" if arguments.key is not None else "network"
    return {kind: getattr(arguments, kind), "rule": arguments.rule}


def _list(client: ApiClient, arguments: argparse.Namespace) -> Done:
    ttl_ms = _ms(arguments.duration) if arguments.duration else 0
    body = _target(arguments) | {"ttl_ms": ttl_ms, "note": arguments.note}
    return _changed(client.call("POST", f"/v1/throttle/{arguments.action}", body))


def _unlist(client: ApiClient, arguments: argparse.Namespace) -> Done:
    return _changed(client.call("POST", "/v1/throttle/unlist", _target(arguments)))


def _decided(answer: Any) -> Done:
    state = "admitted" if answer["allowed"] else f"refused for {answer['retry_after_ms'] / 1_000:.1f} s"
    return answer, [f"{state}, {answer['remaining']} of {answer['limit']} left ({answer['source']})"]


def _key(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body: dict[str, Any] = {"rule": arguments.rule, "key": arguments.key}
    if arguments.action == "block":
        body["ms"] = _ms(arguments.duration)
    return _decided(client.call("POST", f"/v1/throttle/{arguments.action}", body))


def _top(client: ApiClient, arguments: argparse.Namespace) -> Done:
    query = {"by": arguments.by, "limit": arguments.limit, "scope": arguments.scope, "rule": arguments.rule}
    answer = client.call("GET", f"/v1/throttle/top?{urlencode(query)}")
    lines = [f"{arguments.by} on {answer['nodes']} node(s) in {answer['over_ms'] / 1_000:.0f} s"]
    for line in answer["top"]:
        error = f" (at least {line['count'] - line['error']})" if line["error"] else ""
        lines.append(f"{line['count']}{error} {line['rule']} {line['key']}")
    return answer, lines


def _dry_run(client: ApiClient, arguments: argparse.Namespace) -> Done:
    body = _rule(arguments) | {"rule": arguments.name}
    answer = client.call("POST", "/v1/throttle/dryrun", body)
    lines = [
        f"{answer['refused']} of {answer['played']} hits in {answer['over_ms'] / 1_000:.0f} s would have been refused "
        f"({answer['was_refused']} were), of {answer['keys_refused']} of {answer['keys']} keys"
    ]
    lines += [f"{each['refused']} of {each['hits']} {each['key']}" for each in answer["top"]]
    return answer, lines


def _ms(text: str) -> int:
    return int(parse_duration(text) * 1_000)


# --- the command line ---


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the command."""
    throttle = commands.add_parser(
        "throttle", allow_abbrev=False, help="change limits and lists while nodes run, and see who is refused"
    )
    actions = throttle.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: Callable[[ApiClient, argparse.Namespace], Done], meaning: str) -> Any:
        parser = actions.add_parser(name, allow_abbrev=False, help=meaning, description=meaning)
        parser.add_argument(
            "--api",
            default=DEFAULT_API,
            metavar="URL",
            help=f"the internal port of any node (default: {DEFAULT_API})",
        )
        parser.add_argument("--key-file", metavar="FILE", help="file whose first line is api.key")
        parser.add_argument("--json", action="store_true", help="print what the server answers")
        parser.set_defaults(does=does)
        return parser

    action("show", _show, "say which rules and lists are in force, and which version each node goes by")
    for name, does, meaning in (
        ("set-rule", _set_rule, "add a rule to the policy, or replace it"),
        ("dry-run", _dry_run, "say whom a rule would have refused lately on this node"),
    ):
        parser = action(name, does, meaning)
        parser.add_argument("name", metavar="NAME", help="the rule")
        parser.add_argument("limit", metavar="LIMIT", help="such as 60/60s or '50/1s burst 100'")
        parser.add_argument("--algorithm", choices=get_args(CountingAlgorithm), default="fixed")
        parser.add_argument("--block", default="", metavar="TIME", help="block a key so long after a refusal")
        parser.add_argument(
            "--tz", default="UTC", metavar="ZONE", help="time zone of a quota such as 1000/day"
        )
        if name == "set-rule":
            parser.add_argument("--shadow", action="store_true", help="count, and refuse nothing")
    parser = action(
        "remove-rule", _remove_rule, "remove a rule from the policy; one of the settings holds again"
    )
    parser.add_argument("name", metavar="NAME", help="the rule")
    for name, does, meaning in (
        ("allow", _list, "admit a key or a network uncounted"),
        ("deny", _list, "refuse a key or a network"),
        ("remove", _unlist, "take a key or a network off both lists"),
    ):
        parser = action(name, does, meaning)
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("--key", metavar="KEY", help="who is meant, as it is counted")
        target.add_argument("--network", metavar="NETWORK", help="10.0.0.0/8, or an address")
        parser.add_argument("--rule", default="", metavar="NAME", help="under this rule only")
        if name != "remove":
            parser.add_argument(
                "--for", dest="duration", default="", metavar="TIME", help="so long: 30s, 5m, 1h, 7d"
            )
            parser.add_argument("--note", default="", metavar="TEXT", help="why")
    for name, meaning in (
        ("block", "refuse a key under a rule for a while"),
        ("reset", "forget what was counted of a key, and a block"),
        ("peek", "say whether a key would be admitted"),
    ):
        parser = action(name, _key, meaning)
        parser.add_argument("rule", metavar="RULE")
        parser.add_argument("key", metavar="KEY")
        if name == "block":
            parser.add_argument("duration", metavar="TIME", help="how long: 30s, 5m, 1h, 7d")
    parser = action("top", _top, "list the keys that are hit, or refused, most")
    parser.add_argument("--rule", default="", metavar="NAME", help="under this rule only")
    parser.add_argument("--by", choices=("hits", "refused"), default="hits")
    parser.add_argument("--limit", type=int, default=10, metavar="N")
    parser.add_argument(
        "--scope", choices=("node", "all"), default="all", help="of the node asked, or of all"
    )
