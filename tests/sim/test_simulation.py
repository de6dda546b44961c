"""Whole processes of ours, their network and their Redis, played in virtual time; `python -m tests.sim` plays more.

Each test plays in a process of its own: processes that are killed in a play leave tasks and connections behind, and
Python would complain of them in other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_ONE = 25
"""Schedules in one test."""


def played(*arguments: object, hash_seed: int = 0) -> subprocess.CompletedProcess[str]:
    """`python -m tests.sim` with these arguments, at its end."""
    command = [sys.executable, "-m", "tests.sim", *map(str, arguments)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


def all_is_well(first: int, many: int) -> None:
    """So many schedules break no promise."""
    outcome = played("--first", first, "--schedules", many)
    assert outcome.returncode == 0, outcome.stdout[-5000:] + outcome.stderr[-5000:]
    assert f"{many} schedules, " in outcome.stdout
    assert outcome.stdout.endswith("no promise was broken\n")


def test_a_few_schedules() -> None:
    """Whatever befalls processes, network and server, no promise is broken."""
    all_is_well(1, 12)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(101, 401, IN_ONE))
def test_schedules(first: int) -> None:
    """The same, three hundred times."""
    all_is_well(first, IN_ONE)


def test_a_seed_plays_the_same_again() -> None:
    """A failure can be looked at: the seed decides what happens, to the last step, in each process."""
    for seed in (3, 7):
        first, second = (steps_of(played("--seed", seed, hash_seed=hash_seed).stdout) for hash_seed in (0, 1))
        assert len(first) > 100
        assert first == second


def steps_of(trace: str) -> list[str]:
    """Of each line, when it was, of whom, and the command; for tokens and process ids are new each time."""
    return [" ".join(line.split()[:3]) for line in trace.splitlines()]


@pytest.mark.parametrize("name", ["taken though it is held", "the deadline is not looked at", "N + 1 slots"])
def test_faults_are_found(name: str) -> None:
    """It does find what it is to find; `python -m tests.sim --mutants` has it find all of them."""
    outcome = played("--mutants", "--only", name, "--schedules", 12)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 of 1 found" in outcome.stdout


def test_failure_says_how_to_see_it_again() -> None:
    """A broken promise ends the process with 1, the seed, and the command that plays it again."""
    outcome = played("--mutants", "--only", "N + 1 slots", "--show", "--schedules", 12)
    assert outcome.returncode == 1
    assert "play it again: python -m tests.sim --seed " in outcome.stderr
