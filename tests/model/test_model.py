"""The model of the lock's protocol, looked through in every state; `python -m tests.model` does more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .settings import CASES, MUTANTS, Case, Mutant
from .spin import look_through

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", [case for case in CASES if case.is_quick], ids=lambda case: case.name)
def test_every_state(case: Case) -> None:
    """Whatever is lost, late or doubled, whoever dies: never do two believe; and everybody is served in the end."""
    verdict = look_through("lock.pml", case.settings, served=case.served)
    assert verdict.complete
    assert not verdict.refuted, verdict.said


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.define)
def test_fault_is_refuted(mutant: Mutant) -> None:
    """The model finds what it is to find."""
    settings = {**mutant.case.settings, mutant.define: None}
    assert look_through("lock.pml", settings, served=mutant.case.served, thorough=False).refuted


def test_traces_are_behaviours_of_the_model() -> None:
    """What our processes do with the scripts, call by call, is what the model says of them."""
    command = [sys.executable, "-m", "tests.model", "--traces", "40"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "all as in the model" in ran.stdout
