"""One seed is one run: the same trace to the byte, in another process with other hashes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SEEDS = (1, 4)
PLAY = """
import sys
from tests.simulation.drawing import draw_plan
from tests.simulation.play import play

for seed in map(int, sys.argv[1:]):
    print("\\n".join(play(draw_plan(seed)).trace))
"""


def trace(hash_seed: str) -> bytes:
    """Play some seeds in a process of their own, and return what happened."""
    command = [sys.executable, "-c", PLAY, *map(str, SEEDS)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True).stdout


@pytest.mark.early
def test_a_seed_gives_the_same_trace_in_another_process() -> None:
    first, second = trace("1"), trace("2")
    assert len(first) > 10_000
    assert first == second
