"""The clock of leases: the monotonic one, which goes on while the machine is suspended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django_locksmith import clock, locksmith

if TYPE_CHECKING:
    import pytest

    from tests.helpers.deployments import Deployment


class Machine:
    """Its three clocks."""

    def __init__(self) -> None:
        self.monotonic, self.wall, self.boot = 100.0, 1.8e9, 500.0
        self.looks = 0

    def clock(self, *, boots: bool = True) -> clock.Clock:
        return clock.Clock(lambda: self.monotonic, lambda: self.wall, self._boot if boots else None)

    def _boot(self) -> float:
        self.looks += 1
        return self.boot

    def runs(self, seconds: float) -> None:
        self.monotonic += seconds
        self.sleeps(seconds)

    def sleeps(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def test_suspended() -> None:
    """While the machine sleeps, the clock goes on; while it runs, the costly clock is not asked."""
    machine = Machine()
    ours = machine.clock()
    looks = machine.looks
    for _ in range(100):
        machine.runs(1)
        assert ours.now() == machine.monotonic
    assert machine.looks == looks
    machine.sleeps(30)
    assert ours.now() == machine.monotonic + 30
    machine.runs(5)
    machine.sleeps(3600)
    assert ours.now() == machine.monotonic + 3630


def test_wall_clock_that_is_set() -> None:
    """Setting the wall clock, forward or back, changes nothing."""
    machine = Machine()
    ours = machine.clock()
    for step in (86400, -86400, 0.2, -7):
        machine.wall += step
        machine.runs(1)
        assert ours.now() == machine.monotonic


def test_system_without_such_a_clock() -> None:
    """Where no clock goes on, the monotonic one is all there is."""
    machine = Machine()
    ours = machine.clock(boots=False)
    machine.sleeps(30)
    assert ours.now() == machine.monotonic


def test_it_is_the_monotonic_clock() -> None:
    """On a machine that was never suspended since we began, both say the same."""
    before = time.monotonic()
    assert clock._clock.suspended > 0 or before <= clock.now() <= time.monotonic()


def test_lease_of_a_suspended_machine(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that wakes from a sleep longer than its lease does not believe in it any more."""
    with locksmith("a", timeout=60, on_lost="log") as lease:
        assert lease.held
        monkeypatch.setattr(clock._clock, "suspended", clock._clock.suspended + 61)
        assert not lease.held
        assert lease.lost
        assert lease.remaining == 0
