"""What a decision costs, by algorithm: the store's CPU, and that of a process that counts alone."""

import asyncio
import time
from typing import Any, Final

from redis import Redis

from bench import report
from bench.store import store
from presence_server.redis_io.keys import Keys
from presence_server.throttle import Limiter, Rule
from presence_server.throttle.batch import DecisionBatch
from presence_server.throttle.flight_calls import script_call_of
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import ALGORITHMS

KEYS: Final = 100
CALLS: Final = 100
HITS: Final = 5_000
LIMITS: Final = {"admitted": "10000/1h", "refused": "1/1h"}
IN_PROCESS_US: Final = 2
WHAT = f"""\
{CALLS} calls a round of the limiter's script with {KEYS} keys each, a hit of cost 1 for every key: the CPU time of the
store (Valkey on a unix socket) for one of them. Once where all are admitted, once where all are refused. Then {HITS:,}
awaited hits a round of {KEYS} keys in this process without a store: its own CPU time for one."""


def measure(rounds: int) -> report.Result:
    """Run it."""
    found: dict[str, list[float]] = {}
    keys = Keys("ps")
    with store() as shared, Redis.from_url(shared.url) as client:
        for number in range(rounds + 1):
            for algorithm in ALGORITHMS:
                for what, limit in LIMITS.items():
                    client.flushall()
                    rule = Rule("r", limit, algorithm)
                    batch = DecisionBatch(0, 0)
                    for n in range(KEYS):
                        batch.add_hit(keys.throttle(rule.place, f"key-{n}"), row_of(rule), print)
                    call = script_call_of([batch], keys.purge_channel(), "node")
                    run: Any = client.execute_command
                    run(*call.by_text())
                    before = shared.cpu_ns()
                    for _ in range(CALLS):
                        run(*call.command)
                    us = (shared.cpu_ns() - before) / 1_000 / CALLS / KEYS
                    if number:
                        found.setdefault(f"{algorithm}, {what}: the store", []).append(us)
                    us = asyncio.run(_alone(rule, 1 if what == "admitted" else 2))
                    if number:
                        found.setdefault(f"{algorithm}, {what}: in process", []).append(us)
    figures = [report.per_round(name, "µs of CPU", values) for name, values in found.items()]
    in_process = [name for name in found if name.endswith("admitted: in process")]
    targets = [report.Target(figure=name, bound="at most", limit=IN_PROCESS_US) for name in in_process]
    return report.Result(name="algorithms", what=WHAT, figures=figures, targets=targets)


async def _alone(rule: Rule, first: int) -> float:
    """Return what an awaited hit costs where each key has been hit so often before."""
    names = [f"key-{n}" for n in range(KEYS)]
    async with Limiter([rule]) as limiter:
        for name in names * first:
            await limiter.hit("r", name)
        before = time.process_time_ns()
        for _ in range(HITS // KEYS):
            for name in names:
                await limiter.hit("r", name)
        return (time.process_time_ns() - before) / 1_000 / HITS
