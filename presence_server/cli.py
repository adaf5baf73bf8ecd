"""The command line: `serve`, `init`, `check-config`, `token`, `throttle`, `top`, `--version`."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from presence_server import __version__
from presence_server.clock import SystemClock
from presence_server.config import Settings, load, warnings
from presence_server.config.globs import compile_glob
from presence_server.config.setting_keys import FLAGS, KEYS, SHORT_FLAGS, SettingKey, nearest, shown_default
from presence_server.config.settings import ACTIONS, SECTIONS
from presence_server.config.starter import starter_file
from presence_server.errors import ConfigError
from presence_server.operate import command_line
from presence_server.operate.output import write_out
from presence_server.rates import parse_duration

PROGRAM: Final = "presence-server"
USAGE_ERROR: Final = 2
STARTER: Final = "presence.toml"
SERVE_USAGE: Final = (
    f"{PROGRAM} serve [--config FILE] [--host H] [--port P] [--api-host H] [--api-port P]\n"
    "                             [--redis-url URL] [--workers N] [--SECTION.KEY VALUE ...]"
)
LAYERS: Final = (
    "Settings come from flags, then PRESENCE_SECTION__KEY variables, then the file, then the defaults. "
    "Lists: texts with commas between, or a JSON array. Booleans: true or false. Lists of tables, "
    "[[rooms]] and [[throttle.rules]], are in the file only."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; 2 is a wrong command line or wrong settings."""
    parser = _parser()
    arguments, extra = parser.parse_known_args(argv)
    wrong = _unknown(extra, FLAGS if arguments.command == "serve" else ())
    if arguments.command == "check-config":
        return _check_config(arguments.file, wrong)
    if arguments.command == "token":
        return _token(arguments, wrong)
    if arguments.command == "init":
        return _fail(wrong) if wrong else _init(arguments.file)
    if arguments.command in {"throttle", "top"}:
        return _fail(wrong) if wrong else _operate(arguments)
    return _serve(arguments, wrong)


def _serve(arguments: argparse.Namespace, wrong: list[str]) -> int:
    flags = {name: text for name, text in vars(arguments).items() if name in FLAGS}
    settings = _load(arguments.config, flags, wrong)
    if settings is None:
        return USAGE_ERROR
    # These cost most of the start, and check-config needs neither.
    import structlog  # noqa: PLC0415 - see above

    from presence_server import logs  # noqa: PLC0415 - see above
    from presence_server.config.cores import worker_count  # noqa: PLC0415 - see above
    from presence_server.config.open_files import raise_open_files  # noqa: PLC0415 - see above

    if worker_count(settings.server) > 1:
        from presence_server.workers.supervisor import run  # noqa: PLC0415 - see above
    else:
        from presence_server.server import run  # noqa: PLC0415 - see above

    logs.configure(level=settings.log.level, form=settings.log.format)
    log = structlog.get_logger(__name__)
    for text in warnings(settings):
        log.warning(text)
    raise_open_files(settings.server.max_connections + settings.limits.pending)
    return run(settings, lambda: load(arguments.config, os.environ, flags))


def _check_config(file: str, wrong: list[str]) -> int:
    settings = _load(file, {}, wrong)
    if settings is None:
        return USAGE_ERROR
    for text in warnings(settings):
        print(f"{PROGRAM}: warning: {text}", file=sys.stderr)
    return write_out(PROGRAM, lambda: print(f"{file}: ok"))


def _init(file: str) -> int:
    """Write a file with every setting, commented out; one that is there stays as it is."""
    try:
        with Path(file).open("x", encoding="utf-8") as written:
            written.write(starter_file())
    except FileExistsError:
        return _fail([f"init: {file} is there already, and stays as it is; name another file"])
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        return _fail([f"init: cannot write {file}: {getattr(exc, 'strerror', None) or exc}"])
    said = f"{file}: written; start with: {PROGRAM} serve --config {file}"
    return write_out(PROGRAM, lambda: print(said))


def _token(arguments: argparse.Namespace, wrong: list[str]) -> int:
    """Print a token that a server with these settings accepts."""
    from presence_server.auth.identity import IdentityError, checked_info, checked_user  # noqa: PLC0415 - as above
    from presence_server.auth.tokens import issue  # noqa: PLC0415 - as above

    settings = _load(arguments.config, {}, wrong)
    if settings is None:
        return USAGE_ERROR
    if settings.auth.mode != "jwt":
        mode = settings.auth.mode
        return _fail([f'token: auth.mode is "{mode}" in {arguments.config}; tokens are for "jwt"'])
    try:
        ttl = parse_duration(arguments.ttl)
        info = msgspec.json.decode(arguments.info, type=dict)
        checked_info(info, settings.limits.info_bytes)
        claims: dict[str, object] = {"info": info} if info else {}
        if arguments.room:
            claims["rooms"] = [{"pattern": pattern, "allow": list(ACTIONS)} for pattern in arguments.room]
            for pattern in arguments.room:
                compile_glob(pattern)
        user = checked_user(arguments.user)
        token = issue(settings.auth, user, ttl, SystemClock().wall_ms() / 1_000, claims)
    except msgspec.MsgspecError as exc:
        return _fail([f"token: --info: {exc}"])
    except (ValueError, IdentityError) as exc:
        return _fail([f"token: {exc}"])
    return write_out(PROGRAM, lambda: print(token))


def _operate(arguments: argparse.Namespace) -> int:
    """Run a command that asks a node."""
    if arguments.command == "top":
        from presence_server.operate.top import run  # noqa: PLC0415 - as above
    else:
        from presence_server.operate.throttle import run  # noqa: PLC0415 - as above
    return run(arguments)


def _load(file: str | None, flags: dict[str, str], wrong: list[str]) -> Settings | None:
    """Load the settings, or report every problem together with those of the command line."""
    try:
        settings = load(file, os.environ, flags)
    except ConfigError as exc:
        _fail([*wrong, *exc.problems])
        return None
    if wrong:
        _fail(wrong)
        return None
    return settings


def _fail(problems: Sequence[str]) -> int:
    for problem in problems:
        print(f"{PROGRAM}: {problem}", file=sys.stderr)
    return USAGE_ERROR


def _unknown(extra: Sequence[str], flags: Sequence[str] | dict[str, SettingKey]) -> list[str]:
    """Say what is wrong with arguments that no parser knew; the text after an unknown flag is its value."""
    problems = []
    value_may_follow = False
    for argument in extra:
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            value_may_follow = not equals
            near = f"; the nearest valid name is {nearest(name, [*flags, '--config'])}" if flags else ""
            problems.append(f"flag {name}: unknown flag{near}")
        elif value_may_follow:
            value_may_follow = False
        else:
            problems.append(f"unexpected argument {argument!r}")
    return problems


@cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, allow_abbrev=False, description="Real-time presence for live apps."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve", allow_abbrev=False, usage=SERVE_USAGE, help="run a node", description=LAYERS
    )
    serve.add_argument("--config", metavar="FILE", help="TOML file with settings")
    short = serve.add_argument_group("short names")
    for flag, path in SHORT_FLAGS.items():
        short.add_argument(
            flag, dest=flag, default=argparse.SUPPRESS, metavar="VALUE", help=f"the same as {KEYS[path].flag}"
        )
    for section in SECTIONS:
        group = serve.add_argument_group(f"[{section}]")
        for key in KEYS.values():
            if key.section == section and not key.file_only:
                group.add_argument(
                    key.flag,
                    dest=key.flag,
                    default=argparse.SUPPRESS,
                    metavar="VALUE",
                    help=f"{key.meaning} (default: {shown_default(key)})".replace("`", "").replace("%", "%%"),
                )
    init = commands.add_parser("init", allow_abbrev=False, help="write a file with every setting")
    init.add_argument("file", metavar="FILE", nargs="?", default=STARTER, help=f"(default: {STARTER})")
    check = commands.add_parser("check-config", allow_abbrev=False, help="check a file and the environment")
    check.add_argument("file", metavar="FILE", help="TOML file with settings")
    token = commands.add_parser("token", allow_abbrev=False, help='make a token for auth.mode = "jwt"')
    token.add_argument("--user", required=True, metavar="U", help="who its bearer is")
    token.add_argument(
        "--room",
        action="append",
        default=[],
        metavar="PATTERN",
        help="rooms that it is for, with every action; may be given several times (default: what rooms allow)",
    )
    token.add_argument(
        "--ttl", default="1h", metavar="TIME", help="how long it is good: 30s, 5m, 1h (default: 1h)"
    )
    token.add_argument(
        "--info", default="{}", metavar="JSON", help="what others see of its bearer (default: {})"
    )
    token.add_argument("--config", required=True, metavar="FILE", help="TOML file with auth.secret")
    command_line.add_throttle(commands)
    command_line.add_top(commands)
    return parser
