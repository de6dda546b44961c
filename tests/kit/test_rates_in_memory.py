"""Rate limits in memory, as the tests of others have them: with `memory://`, and within `override_locks`."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from django.test import override_settings

from django_locksmith import RetryLater, locksmith
from django_locksmith.testing import override_locks
from tests.rates.test_rate_limits import quick

if TYPE_CHECKING:
    from tests.helpers.callers import Caller


def test_places(caller: Caller) -> None:
    """Places are booked in order of arrival, so far apart as the rate says, and a pause is heard by who sleeps."""
    with override_settings(LOCKSMITH={"REDIS": f"memory://rates of {caller.name}"}):
        limit = quick(1, 4)
        first = caller.take(limit)
        asked = [caller.start_take(limit) for _ in range(2)]
        caller.api_says(limit, "pause", 5)
        times = [first.at or 0.0, *sorted(each.result(30).at or 0.0 for each in asked)]
        assert all(later - sooner >= 4 for sooner, later in pairwise(times))
        assert times[1] - times[0] >= 5
        (found,) = caller.rate_limits(locksmith)
        assert (found.name, found.waiting, found.windows[-1].used) == ("api", 0, 3)


def test_each_block_begins_anew(caller: Caller) -> None:
    """Within `override_locks` no limit of another test is in force."""
    for _ in range(2):
        with override_locks():
            limit = locksmith.rate_limit("api", "1/30s")
            caller.take(limit)
            with pytest.raises(RetryLater):
                caller.take(limit, blocking=False)


def test_values_that_share_a_limit(caller: Caller) -> None:
    """Values of single flight keep to it, too."""
    with override_locks():
        limit = quick(1, 0.4)
        begun = time.monotonic()
        for key in ("memory:a", "memory:b"):
            caller.get(locksmith, key, 1, 60, rate_limit=limit)
        assert time.monotonic() - begun >= 0.4
