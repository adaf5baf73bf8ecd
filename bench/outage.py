"""What gets through while the limiter's store is away, by what `throttle.on_error` says."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

from bench import report
from bench.processes import PROJECT, server
from bench.store import store

NODES = 3
LIMIT = 30
ATTEMPTS = 1_500
SETTLED_S = 8
"""After this every node knows how many there are."""
CHOICES = ("open", "local", "share")
WHAT = f"""\
{ATTEMPTS:,} handshakes at once from one address to {NODES} nodes whose shared store has just been killed, at
throttle.connect = "{LIMIT}/1h" with nothing counted before: how many got in. `closed` lets nobody in."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    found: dict[str, list[float]] = {choice: [] for choice in CHOICES}
    for _ in range(rounds):
        for choice in CHOICES:
            found[choice].append(_admitted(choice))
    figures = [
        report.per_round(f"admitted with on_error = {name}", "handshakes", found[name]) for name in CHOICES
    ]
    most = {"open": ATTEMPTS, "local": NODES * LIMIT, "share": LIMIT}
    targets = [
        report.Target(figure=f"admitted with on_error = {name}", bound="at most", limit=most[name])
        for name in CHOICES
    ]
    return report.Result(name="outage", what=WHAT, figures=figures, targets=targets)


def _admitted(on_error: str) -> int:
    with ExitStack() as stack:
        shared = stack.enter_context(store())
        flags = [
            f"--redis.url={shared.url}",
            f"--throttle.connect={LIMIT}/1h",
            f"--throttle.on_error={on_error}",
        ]
        nodes = [stack.enter_context(server(*flags)) for _ in range(NODES)]
        time.sleep(SETTLED_S)
        os.kill(shared.pid, signal.SIGKILL)
        command = [
            sys.executable,
            "-m",
            "tests.support.flood",
            str(ATTEMPTS),
            *(str(node.port) for node in nodes),
        ]
        flood = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True, timeout=120)
        counts: dict[str, int] = json.loads(flood.stdout)
        return counts.get("101", 0)
