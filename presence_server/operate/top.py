"""`presence-server top`: all nodes at a glance in a terminal, from the overview of any of them.

Exit codes: 0, it was told to end, or one frame was printed; 1, with `--once`: no node was reached, it has refused, or
the frame could not be written; 2, a wrong command line, or Rich, of the extra `top`, is not installed.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Final

from presence_server.api.overview_schema import OverviewAnswer
from presence_server.operate.api_client import ApiClient, CallError, read_key
from presence_server.operate.output import DONE, FAILED, USAGE_ERROR, report_problem, write_out

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM: Final = "presence-server top"
MISSING: Final = (
    "this needs Rich: install the extra, as in: pip install 'presence-server[top]' "
    "(in the project's folder: pip install '.[top]')"
)
EVERY_S: Final = 1.0
ANSWER_S: Final = 5.0
PATH: Final = "/v1/overview?rooms=10&throttled=10&history=true"
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PIPED_WIDTH: Final = 120
"""Columns where there is no terminal to have any."""


def run(arguments: argparse.Namespace) -> int:
    """Show frames until told to end, or one; give the exit code."""
    if find_spec("rich") is None:
        return report_problem(PROGRAM, MISSING, USAGE_ERROR)
    from rich.console import Console  # noqa: PLC0415 - an extra

    try:
        client = ApiClient(arguments.api, read_key(arguments.key_file), timeout_s=ANSWER_S)
    except (OSError, ValueError) as exc:
        return report_problem(PROGRAM, exc, USAGE_ERROR)
    console = Console(highlight=False, emoji=False, markup=False)
    if arguments.once or not console.is_terminal:
        return _once(client, console)
    with _ended_by_signals():
        _follow(client, console)
    return DONE


def _once(client: ApiClient, console: "Console") -> int:
    from presence_server.operate.top_frame import render  # noqa: PLC0415 - needs an extra

    try:
        overview = client.call(OverviewAnswer, "GET", PATH)
    except CallError as exc:
        return report_problem(PROGRAM, exc, FAILED)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return write_out(PROGRAM, lambda: console.print(render(overview, console.width)))


def _follow(client: ApiClient, console: "Console") -> None:
    """Show a frame each second, for ever; without an answer, the last frame and the reason."""
    from rich.console import Group  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415 - an extra

    from presence_server.operate.top_frame import render, styled  # noqa: PLC0415 - needs an extra

    overview: OverviewAnswer | None = None
    answered_s: float | None = None
    live = Live(console=console, screen=True, auto_refresh=False)
    try:
        live.start()
        while True:
            began_s = time.monotonic()
            problem = ""
            try:
                overview = client.call(OverviewAnswer, "GET", PATH)
                answered_s = time.monotonic()
            except CallError as exc:
                problem = f"{exc}; {_last_answer(answered_s)}, trying again"
            problems = [styled(problem, "bold red")] if problem else []
            frames = [] if overview is None else [render(overview, console.width)]
            live.update(Group(*problems, *frames), refresh=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began_s)))
    finally:
        live.stop()


def _last_answer(answered_s: float | None) -> str:
    from presence_server.operate.top_frame import format_duration  # noqa: PLC0415 - needs an extra

    if answered_s is None:
        return "no answer yet"
    return f"last answer {format_duration((time.monotonic() - answered_s) * 1_000)} ago"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block at the first signal that ends programs; later ones do not keep it from restoring the terminal."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    except OSError:
        # The terminal has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
