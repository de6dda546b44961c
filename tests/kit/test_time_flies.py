"""Rate limits in tests: time that the test makes pass, instead of a sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import RetryLater, locksmith
from django_locksmith.testing import LocksInMemory, override_locks
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.callers import Caller


@pytest.fixture
def locks() -> Iterator[LocksInMemory]:
    """In memory."""
    with override_locks() as locks:
        yield locks


def waiting(caller: Caller) -> int:
    """How many places are booked for later."""
    return sum(each.waiting for each in caller.rate_limits(locksmith))


def test_time_passes(caller: Caller, locks: LocksInMemory) -> None:
    """What was used up is there again when its window is over, and not a second before."""
    limit = locksmith.rate_limit("api", "2/1h")
    for _ in range(2):
        caller.take(limit)
    locks.pass_time(3590)
    with pytest.raises(RetryLater) as refused:
        caller.take(limit, blocking=False)
    assert refused.value.seconds < 11
    locks.pass_time(10.1)
    caller.take(limit, blocking=False)
    assert locks.time_passed == pytest.approx(3600.1)


def test_sleepers_wake(caller: Caller, locks: LocksInMemory) -> None:
    """Whoever sleeps wakes when his place has come by then, in order, and nobody else does."""
    limit = locksmith.rate_limit("api", "1/1h")
    caller.take(limit)
    asked = []
    for number in range(1, 4):
        asked.append(caller.start_take(limit, blocking_timeout=None))
        poll(lambda number=number: waiting(caller) == number)  # type: ignore[misc]
    for number in range(1, 4):
        locks.pass_time(3601)
        poll(lambda: sum(each.done() for each in asked) >= number)  # noqa: B023  # called at once
        assert [each.done() for each in asked] == [each < number for each in range(3)]
    assert waiting(caller) == 0


def test_pauses_pass(caller: Caller, locks: LocksInMemory) -> None:
    """A pause that an API asked for is over, too."""
    limit = locksmith.rate_limit("api", "50/s")
    caller.api_says(limit, "pause", 900)
    with pytest.raises(RetryLater):
        caller.take(limit, blocking=False)
    locks.pass_time(901)
    caller.take(limit, blocking=False)
    (seen,) = caller.rate_limits(locksmith)
    assert seen.paused_for == 0


def test_autojump(caller: Caller) -> None:
    """Nobody sleeps: the time passes instead, as much as the rate says; and who would not wait is refused as ever."""
    with override_locks(autojump=True) as locks:
        limit = locksmith.rate_limit("api", "15/15m")
        bookings = [caller.take(limit, blocking_timeout=None) for _ in range(46)]
        assert locks.time_passed == pytest.approx(3 * 900, abs=5)
        assert all(each.waited < 60 for each in bookings)
        locks.autojump = False
        for _ in range(14):
            caller.take(limit)
        with pytest.raises(RetryLater):
            caller.take(limit, blocking_timeout=60)


def test_autojump_passes_a_pause(caller: Caller) -> None:
    """A pause is waited for in no time, by several at once; each moves the time once."""
    with override_locks(autojump=True) as locks:
        limit = locksmith.rate_limit("api", "2/1h")
        caller.api_says(limit, "pause", 600)
        for each in [caller.start_take(limit, blocking_timeout=None) for _ in range(6)]:
            each.result(60)
        assert locks.time_passed == pytest.approx(600 + 2 * 3600, abs=5)


def test_values_behind_a_limit(caller: Caller) -> None:
    """`get_or_set` gets its values as fast as the test wants."""
    with override_locks(autojump=True) as locks:
        limit = locksmith.rate_limit("api", "1/1m")
        assert [caller.get(locksmith, f"flies:{n}", n, 60, rate_limit=limit) for n in range(3)] == [0, 1, 2]
        assert locks.time_passed == pytest.approx(2 * 60, abs=5)


def test_limits_of_all_services(caller: Caller, locks: LocksInMemory) -> None:
    """Time passes for every service's limits, and each test begins anew."""
    other = type(locksmith)(prefix="other:").rate_limit("api", "1/1h")
    caller.take(other)
    locks.pass_time(3601)
    caller.take(other, blocking=False)
    with override_locks() as inner:
        assert inner.time_passed == 0
        caller.take(other, blocking=False)


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), ("1h", TypeError), (None, TypeError)])
def test_what_is_no_time(locks: LocksInMemory, wrong: Any, error: type[Exception]) -> None:
    """What is no time is refused by its name."""
    with pytest.raises(error, match="seconds"):
        locks.pass_time(wrong)


def test_what_is_no_switch(locks: LocksInMemory) -> None:
    """`autojump` is true or false."""
    with pytest.raises(TypeError, match="autojump"):
        override_locks(autojump=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="autojump"):
        locks.autojump = "yes"  # type: ignore[assignment]
