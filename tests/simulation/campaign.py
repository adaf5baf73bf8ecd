"""Plays many seeds on all cores, and says what broke, with the shortest trace that still does.

python -m tests.simulation.campaign --seeds 2000
python -m tests.simulation.campaign --seed 17 --only 3,5,40
python -m tests.simulation.campaign --seeds 2000 --defect 7
python -m tests.simulation.campaign --failed
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.simulation.defects import DEFECTS
from tests.simulation.drawing import THEMED_FROM, draw_plan, theme_of
from tests.simulation.plan import Plan, describe
from tests.simulation.play import Outcome, play
from tests.simulation.shrink import shrink

SHRINK_S = 60.0
FAILED = Path(__file__).parent / "failed_seeds.txt"


class Result(NamedTuple):
    """What a seed came to, small enough to go from process to process."""

    seed: int
    broken: list[tuple[str, str]]

    @property
    def names(self) -> list[str]:
        """Return the invariants that broke, each once."""
        return list(dict.fromkeys(name for name, _ in self.broken))


def play_seed(task: tuple[int, str]) -> Result:
    """Play one seed, with a defect put back where one is named ("": none); then what breaks without it does not count.

    With a defect only the busy part and the quiet one after it are played.
    """
    seed, number = task
    plan = draw_plan(seed)
    if not number:
        return Result(seed, play(plan).broken)
    defect = DEFECTS[number]
    with defect.among():
        with defect.put_back():
            broken = play(plan, until_empty=False).broken
        if any(name == "no_exception" for name, _ in broken):
            raise AssertionError(f"seed {seed}: what is put back does not fit the code any more: {broken}")
        anyway = play(plan, until_empty=False).names if broken else []
    return Result(seed, [(name, what) for name, what in broken if name not in anyway])


def play_seeds(seeds: Iterable[int], defect: str = "", jobs: int | None = None) -> Iterator[Result]:
    """Play seeds on all cores, or on as many as there are to be `jobs`; results come as they are done."""
    tasks = [(seed, defect) for seed in seeds]
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:  # in this process: another one would import all of it anew
        yield from map(play_seed, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(play_seed, tasks)


def failed_seeds() -> dict[int, str]:
    """Return the seeds that have failed and are played by the tests, with what they broke."""
    lines = [line for line in FAILED.read_text().splitlines() if line and not line.startswith("#")]
    return {int(number): what for number, _, what in (line.partition(" ") for line in lines)}


def explain(plan: Plan, invariant: str, within_s: float = SHRINK_S) -> str:
    """Return what a failing seed's report says: what was injected, the shortest trace, how to play it again."""
    kept = shrink(plan, invariant, within_s)
    short = plan.only(kept)
    outcome = play(short)
    return "\n".join(
        (
            f"seed {plan.seed} breaks {invariant}",
            "injected:",
            *(f"  {describe(step)}" for step in plan.disasters),
            f"shortest trace found ({len(kept)} of {len(plan.steps)} steps):",
            *(f"  {line}" for line in outcome.trace),
            *(f"  {name}: {what}" for name, what in outcome.broken if name == invariant),
            f"play it again: make simulate SEED={plan.seed} ONLY={','.join(map(str, kept))}",
        )
    )


@contextmanager
def _with_defect(number: str) -> Iterator[None]:
    """Have a defect, in the world that it needs; "": none."""
    with ExitStack() as stack:
        if number:
            stack.enter_context(DEFECTS[number].among())
            stack.enter_context(DEFECTS[number].put_back())
        yield


def _many(seeds: Sequence[int], defect: str, *, shrinks: int, jobs: int | None, stop: bool) -> int:
    began_s = time.monotonic()
    broken: Counter[str] = Counter()
    first: dict[str, int] = {}
    done = 0
    for result in play_seeds(seeds, defect, jobs):
        done += 1
        for name in result.names:
            broken[name] += 1
            first.setdefault(name, result.seed)
        if result.broken:
            theme = theme_of(result.seed)
            print(
                f"seed {result.seed}{f' ({theme})' if theme else ''}: {', '.join(result.names)}", flush=True
            )
            if stop:
                break
    took_s = time.monotonic() - began_s
    print(
        f"{done} runs in {took_s:.0f} s: {done / took_s * 60:.0f} a minute; broken: {dict(broken) or 'nothing'}"
    )
    for name, seed in list(first.items())[:shrinks]:
        with _with_defect(defect):
            print(explain(draw_plan(seed), name))
    return 1 if broken else 0


def _one(seed: int, only: str, defect: str) -> int:
    plan = draw_plan(seed)
    with _with_defect(defect):
        if only:
            plan = plan.only([int(i) for i in only.split(",")])
        outcome: Outcome = play(plan)
        print("\n".join(outcome.trace))
        for name, what in outcome.broken:
            print(f"{name}: {what}")
        if outcome.names and not only:
            print(explain(plan, outcome.names[0]))
    return 1 if outcome.broken else 0


def main(arguments: Sequence[str]) -> int:
    """Play what the command line says; return 1 where something broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to play")
    parser.add_argument("--start", type=int, default=THEMED_FROM, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one alone, and print its trace")
    parser.add_argument("--only", default="", help="the steps of its plan to play, by number")
    parser.add_argument(
        "--defect",
        default="",
        choices=["", *DEFECTS],
        help="put this defect of tests/simulation/defects.py back",
    )
    parser.add_argument("--shrinks", type=int, default=3, help="how many broken promises are explained")
    parser.add_argument("--jobs", type=int, help="processes; left out: one a core")
    parser.add_argument("--theme", help="play only the seeds that are drawn around this theme")
    parser.add_argument("--failed", action="store_true", help="play the seeds of failed_seeds.txt")
    parser.add_argument(
        "--stop", action="store_true", help="end with the first seed that fails; with a defect always"
    )
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return _one(given.seed, given.only, given.defect)
    drawn = sorted(failed_seeds()) if given.failed else range(given.start, given.start + given.seeds)
    seeds = [seed for seed in drawn if given.theme is None or theme_of(seed) == given.theme]
    stop = given.stop or bool(given.defect)
    return _many(seeds, given.defect, shrinks=given.shrinks, jobs=given.jobs, stop=stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
