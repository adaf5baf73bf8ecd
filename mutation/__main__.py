"""Mutate a module, or several with the same tests: `python -m mutation MODULE`. Each survivor is shown with its diff.

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


Case = tuple[str, Mutant]
"""A file and one of its mutants."""


@dataclass
class Worker:
    """A copy of the project, and what runs in it."""

    copy: Path
    case: Case | None = None
    running: Running | None = None


@dataclass
class Work:
    """Modules or a folder of scripts, their tests and the mutants that are tried."""

    name: str
    tests: list[str]
    sources: dict[str, str]
    cases: list[Case]
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
    print(f"{work.name}: {len(work.cases)} mutants, tests: {' '.join(work.tests)}", flush=True)
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
    parser.add_argument(
        "modules", nargs="+", help="files of presence_server/, .py or .lua, or a folder of scripts"
    )
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
    paths = [Path(module).resolve() for module in options.modules]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    tests = {name: options.tests or choice.tests_of(name, ROOT) for name in names}
    if any(tests[name] != tests[names[0]] for name in names):
        raise LookupError(f"{' '.join(names)}: they have different tests; mutate them one by one")
    files = [file for path in paths for file in (sorted(path.glob("*.lua")) if path.is_dir() else [path])]
    sources = {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}
    cases: list[Case] = []
    left_out = 0
    for module, source in sources.items():
        counted, equivalent = _counted(module, source, options.lines)
        cases += [(module, mutant) for mutant in counted]
        left_out += equivalent
    if len(cases) > options.most:
        cases = sorted(random.Random(options.seed).sample(cases, options.most))  # noqa: S311 - a sample
    return Work(" ".join(names), tests[names[0]], sources, cases, left_out)


def _counted(module: str, source: str, lines: str | None) -> tuple[list[Mutant], int]:
    """Return the mutants of a file, and how many more are equivalent to it."""
    mutants = (lua if module.endswith(".lua") else python).mutants_of(source)
    changes = {mutant: mutant.changed_lines(source) for mutant in mutants}
    equivalents = {(each.was, each.becomes) for each in choice.equivalents_of(module)}
    for was, becomes in sorted(equivalents - {change[1:] for change in changes.values()}):
        print(f"mutation/equivalent.toml, {module}: out of date, no mutant makes {was!r} {becomes!r}")
    counted = [mutant for mutant in mutants if changes[mutant][1:] not in equivalents]
    left_out = len(mutants) - len(counted)
    if lines:
        first, _, last = lines.partition("-")
        counted = [mutant for mutant in counted if int(first) <= changes[mutant][0] <= int(last or first)]
    return counted, left_out


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


def _tried(work: Work, workers: list[Worker], deadline_s: float, end_s: float) -> dict[Case, Verdict]:
    """Try mutants, one in each copy at a time; `deadline_s` is that of each, after `end_s` none is begun."""
    verdicts: dict[Case, Verdict] = {}
    waiting = iter(random.Random(0).sample(work.cases, len(work.cases)))  # noqa: S311 - so that a part is a sample
    try:
        while True:
            for worker in workers:
                verdict = None if worker.running is None else trial.ended(worker.running, deadline_s)
                if verdict is not None and worker.case is not None:
                    verdicts[worker.case], worker.running = verdict, None
                    _show(work, worker.case, verdict)
                if worker.running is None and time.monotonic() < end_s:
                    _change(worker, work, next(waiting, None))
                    if worker.case is not None:
                        worker.running = trial.start(worker.copy, work.tests)
            if all(worker.running is None for worker in workers):
                return verdicts
            time.sleep(trial.POLL_S)
    finally:
        for worker in workers:
            if worker.running is not None:
                trial.stop(worker.running)


def _change(worker: Worker, work: Work, case: Case | None) -> None:
    """Undo the last change of a copy, and make the next."""
    if worker.case is not None:
        module, _ = worker.case
        (worker.copy / module).write_text(work.sources[module])
    worker.case = case
    if case is not None:
        module, mutant = case
        (worker.copy / module).write_text(mutant.applied_to(work.sources[module]))


def _show(work: Work, case: Case, verdict: Verdict) -> None:
    if verdict is Verdict.SURVIVED:
        module, mutant = case
        source = work.sources[module]
        line, _, _ = mutant.changed_lines(source)
        print(f"\n{module}:{line}\n{mutant.diff(Path(module), source)}", flush=True)


def _report(work: Work, verdicts: dict[Case, Verdict], took_s: float) -> int:
    counts = Counter(verdicts.values())
    tried, survived = len(verdicts), counts[Verdict.SURVIVED]
    if tried == 0:
        print("no mutants")
        return 2
    killed = tried - survived
    how = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    print(f"\n{how}; {work.left_out} equivalent left out; {took_s:.0f} s")
    if tried < len(work.cases):
        print(f"out of time: {len(work.cases) - tried} not tried")
    print(f"| {work.name} | {tried} | {killed} | {100 * killed / tried:.1f} % |")
    return 0 if killed >= BAR * tried else 1


if __name__ == "__main__":
    sys.exit(main())
