"""For the tests of projects that take locks: in memory, busy, or lost; and rate limits whose time flies.

    from django_locksmith.testing import assert_not_locked, lose_now, override_locks

    @override_locks(busy=["report:42"])
    def test_a_report_that_somebody_else_writes(self): ...

The locks are not imitated: fakeredis runs the same scripts (`pip install 'django-redis-locksmith[testing]'`). It keeps
no order among those who wait; where a test is about that, let it run a real server. docs/testing.md has more.

`lose_now` and the asserts work with any Redis. They are for threads and tasks alike: where the locks are in memory
there is nothing to await, and a real Redis blocks the event loop of a test for one request.
"""

from __future__ import annotations

from .held import assert_locked, assert_no_locks_left, assert_not_locked, lose_now
from .override import LocksInMemory, override_locks

__all__ = [
    "LocksInMemory",
    "assert_locked",
    "assert_no_locks_left",
    "assert_not_locked",
    "lose_now",
    "override_locks",
]
