"""Mutate one module: `python -m mutation MODULE`. Each survivor is shown with its line and its diff.

The exit status says whether at least 90 % of the mutants were killed.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mutation import choice, lua, python, trial
from mutation.mutant import Mutant
from mutation.trial import Running, Verdict

ROOT: Final = Path(__file__).parent.parent
BAR: Final = 0.9
SLOWER: Final = 4
"""A run may take that many times what the tests take without a mutant, on a machine that has other work."""
SPARE_S: Final = 5


@dataclass
class Worker:
    """A copy of the project, and what runs in it."""

    copy: Path
    mutant: Mutant | None = None
    running: Running | None = None


@dataclass
class Work:
    """One module, its tests and the mutants that are tried."""

    module: str
    tests: list[str]
    source: str
    mutants: list[Mutant]
    left_out: int


def main() -> int:
    """Do what the command line says."""
    options = _options()
    try:
        work = _work(options)
    except (LookupError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # leave no copies behind
    print(f"{work.module}: {len(work.mutants)} mutants, tests: {' '.join(work.tests)}", flush=True)
    trial.import_packages()
    with ExitStack() as stack:
        workers = [Worker(stack.enter_context(_copy())) for _ in range(options.jobs)]
        try:
            deadline_s = _tests_pass(workers[0], work)
        except RuntimeError as exc:
            print(exc, file=sys.stderr)
            return 2
        began_s = time.monotonic()
        verdicts = _tried(work, workers, deadline_s, began_s + 60 * options.minutes)
    return _report(work, verdicts, time.monotonic() - began_s)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("module", help="a file of presence_server/, .py or .lua")
    parser.add_argument(
        "--most", type=int, default=120, help="how many mutants, drawn where there are more (120)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which are drawn (1)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument(
        "--minutes", type=float, default=20, help="after how long to begin no more of them (20)"
    )
    parser.add_argument("--lines", help="only those of some lines, as 120-180")
    parser.add_argument("--tests", nargs="+", help="other tests than those that mutation/tests.toml names")
    return parser.parse_args()


def _work(options: argparse.Namespace) -> Work:
    module = Path(options.module).resolve().relative_to(ROOT).as_posix()
    tests = options.tests or choice.tests_of(module, ROOT)
    source = (ROOT / module).read_text()
    mutants = (lua if module.endswith(".lua") else python).mutants_of(source)
    changes = {mutant: mutant.changed_lines(source) for mutant in mutants}
    equivalents = {(each.was, each.becomes) for each in choice.equivalents_of(module)}
    for was, becomes in sorted(equivalents - {change[1:] for change in changes.values()}):
        print(f"mutation/equivalent.toml, {module}: out of date, no mutant makes {was!r} {becomes!r}")
    counted = [mutant for mutant in mutants if changes[mutant][1:] not in equivalents]
    left_out = len(mutants) - len(counted)
    if options.lines:
        first, _, last = options.lines.partition("-")
        counted = [mutant for mutant in counted if int(first) <= changes[mutant][0] <= int(last or first)]
    if len(counted) > options.most:
        counted = sorted(random.Random(options.seed).sample(counted, options.most))  # noqa: S311 - a sample
    return Work(module, tests, source, counted, left_out)


@contextmanager
def _copy() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
        trial.copy_project(ROOT, Path(folder))
        yield Path(folder)


def _tests_pass(worker: Worker, work: Work) -> float:
    """Run the tests as they are. Return how long they may take with a mutant. Raises `RuntimeError` where they fail."""
    running = trial.start(worker.copy, work.tests)
    while (verdict := trial.ended(running, 600)) is None:
        time.sleep(trial.POLL_S)
    if verdict is not Verdict.SURVIVED:
        raise RuntimeError(f"{running.output.read_text()}\nwithout a mutant: {verdict.value}")
    return SLOWER * running.lasts_s + SPARE_S


def _tried(work: Work, workers: list[Worker], deadline_s: float, end_s: float) -> dict[Mutant, Verdict]:
    """Try mutants, one in each copy at a time; `deadline_s` is that of each, after `end_s` none is begun."""
    verdicts: dict[Mutant, Verdict] = {}
    waiting = iter(random.Random(0).sample(work.mutants, len(work.mutants)))  # noqa: S311 - so that a part is a sample
    try:
        while True:
            for worker in workers:
                verdict = None if worker.running is None else trial.ended(worker.running, deadline_s)
                if verdict is not None and worker.mutant is not None:
                    verdicts[worker.mutant], worker.running = verdict, None
                    _show(work, worker.mutant, verdict)
                if worker.running is None and time.monotonic() < end_s:
                    worker.mutant = next(waiting, None)
                    if worker.mutant is not None:
                        (worker.copy / work.module).write_text(worker.mutant.applied_to(work.source))
                        worker.running = trial.start(worker.copy, work.tests)
            if all(worker.running is None for worker in workers):
                return verdicts
            time.sleep(trial.POLL_S)
    finally:
        for worker in workers:
            if worker.running is not None:
                trial.stop(worker.running)


def _show(work: Work, mutant: Mutant, verdict: Verdict) -> None:
    if verdict is Verdict.SURVIVED:
        line, _, _ = mutant.changed_lines(work.source)
        print(f"\n{work.module}:{line}\n{mutant.diff(Path(work.module), work.source)}", flush=True)


def _report(work: Work, verdicts: dict[Mutant, Verdict], took_s: float) -> int:
    counts = Counter(verdicts.values())
    tried, survived = len(verdicts), counts[Verdict.SURVIVED]
    if tried == 0:
        print("no mutants")
        return 2
    killed = tried - survived
    how = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    print(f"\n{how}; {work.left_out} equivalent left out; {took_s:.0f} s")
    if tried < len(work.mutants):
        print(f"out of time: {len(work.mutants) - tried} not tried")
    print(f"| {work.module} | {tried} | {killed} | {100 * killed / tried:.1f} % |")
    return 0 if killed >= BAR * tried else 1


if __name__ == "__main__":
    sys.exit(main())
