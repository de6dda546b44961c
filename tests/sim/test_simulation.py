"""Whole processes of ours, their network and their Redis, played in virtual time; `python -m tests.sim` plays more."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.play import Failed, play
from tests.sim.terms import Terms

IN_ONE = 25
"""Schedules in one test."""


def play_all(first: int, many: int) -> int:
    """How often somebody got what he wanted."""
    return sum(play(Terms.of(seed)).grants for seed in range(first, first + many))


def test_a_few_schedules() -> None:
    """Whatever befalls processes, network and server, no promise is broken."""
    assert play_all(1, 12)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(101, 401, IN_ONE))
def test_schedules(first: int) -> None:
    """The same, three hundred times."""
    assert play_all(first, IN_ONE)


def test_a_seed_plays_the_same_again() -> None:
    """A failure can be looked at: the seed decides what happens, to the last step."""
    for seed in (3, 7):
        assert [play(Terms.of(seed)).facts for _ in range(2)] == [play(Terms.of(seed)).facts] * 2


@pytest.mark.parametrize("name", ["taken though it is held", "the deadline is not looked at", "N + 1 slots"])
def test_faults_are_found(name: str) -> None:
    """It does find what it is to find; `python -m tests.sim --mutants` has it find all of them."""
    (mutant,) = (each for each in MUTANTS if each.name == name)
    with mutant.install(), pytest.raises(Failed, match="play it again"):
        play_all(1, 12)
