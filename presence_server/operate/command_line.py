"""The command lines of `presence-server throttle` and `top`; what they run is imported when it runs."""

import argparse
from typing import TYPE_CHECKING, Any, Final, get_args

from presence_server.rates import CountingAlgorithm

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - has no public name

DEFAULT_API: Final = "http://127.0.0.1:8081"


def add_top(commands: "Commands") -> None:
    """Describe `top`."""
    meaning = "show all nodes at a glance in the terminal"
    parser = commands.add_parser(
        "top",
        allow_abbrev=False,
        help=meaning,
        description="Show all nodes at a glance, each second. Ctrl-C ends it.",
    )
    _add_api(parser)
    parser.add_argument(
        "--once", action="store_true", help="print one frame and end, as where the output is no terminal"
    )


def add_throttle(commands: "Commands") -> None:
    """Describe `throttle` and its actions."""
    throttle = commands.add_parser(
        "throttle", allow_abbrev=False, help="change limits and lists while nodes run, and see who is refused"
    )
    actions = throttle.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_action(
        actions, "show", "say which rules and lists are in force, and which version each node goes by"
    )
    _add_rules(actions)
    _add_lists(actions)
    _add_keys(actions)


def _add_api(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api",
        "--url",
        default=DEFAULT_API,
        metavar="URL",
        help=f"the internal port of any node (default: {DEFAULT_API})",
    )
    parser.add_argument("--key-file", metavar="FILE", help="file whose first line is api.key")


def _add_action(actions: "Commands", name: str, meaning: str) -> Any:
    parser = actions.add_parser(name, allow_abbrev=False, help=meaning, description=meaning)
    _add_api(parser)
    parser.add_argument("--json", action="store_true", help="print what the server answers")
    return parser


def _add_rules(actions: "Commands") -> None:
    for name, meaning in (
        ("set-rule", "add a rule to the policy, or replace it"),
        ("dry-run", "say whom a rule would have refused lately on this node"),
    ):
        parser = _add_action(actions, name, meaning)
        parser.add_argument("name", metavar="NAME", help="the rule")
        parser.add_argument("limit", metavar="LIMIT", help="such as 60/60s or '50/1s burst 100'")
        parser.add_argument("--algorithm", choices=get_args(CountingAlgorithm), default="fixed")
        parser.add_argument("--block", default="", metavar="TIME", help="block a key so long after a refusal")
        parser.add_argument(
            "--tz", default="UTC", metavar="ZONE", help="time zone of a quota such as 1000/day"
        )
        if name == "set-rule":
            parser.add_argument("--shadow", action="store_true", help="count, and refuse nothing")
    meaning = "remove a rule from the policy; one of the settings holds again"
    _add_action(actions, "remove-rule", meaning).add_argument("name", metavar="NAME", help="the rule")


def _add_lists(actions: "Commands") -> None:
    for name, meaning in (
        ("allow", "admit a key or a network uncounted"),
        ("deny", "refuse a key or a network"),
        ("remove", "take a key or a network off both lists"),
    ):
        parser = _add_action(actions, name, meaning)
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("--key", metavar="KEY", help="who is meant, as it is counted")
        target.add_argument("--network", metavar="NETWORK", help="10.0.0.0/8, or an address")
        parser.add_argument("--rule", default="", metavar="NAME", help="under this rule only")
        if name != "remove":
            parser.add_argument(
                "--for", dest="duration", default="", metavar="TIME", help="so long: 30s, 5m, 1h, 7d"
            )
            parser.add_argument("--note", default="", metavar="TEXT", help="why")


def _add_keys(actions: "Commands") -> None:
    for name, meaning in (
        ("block", "refuse a key under a rule for a while"),
        ("reset", "forget what was counted of a key, and a block"),
        ("peek", "say whether a key would be admitted"),
    ):
        parser = _add_action(actions, name, meaning)
        parser.add_argument("rule", metavar="RULE")
        parser.add_argument("key", metavar="KEY")
        if name == "block":
            parser.add_argument("duration", metavar="TIME", help="how long: 30s, 5m, 1h, 7d")
    parser = _add_action(actions, "top", "list the keys that are hit, or refused, most")
    parser.add_argument("--rule", default="", metavar="NAME", help="under this rule only")
    parser.add_argument("--by", choices=("hits", "refused"), default="hits")
    parser.add_argument("--limit", type=int, default=10, metavar="N")
    parser.add_argument(
        "--scope", choices=("node", "all"), default="all", help="of the node asked, or of all"
    )
