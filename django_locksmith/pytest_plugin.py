"""The pytest plugin of django_locksmith: the fixture `locksmith_memory`.

    pytest_plugins = ["django_locksmith.pytest_plugin"]  # in conftest.py

It is not loaded by itself: pytest would do so in every run, and bring Django and redis-py with it, where no test may
want them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .testing import LocksInMemory


@pytest.fixture
def locksmith_memory() -> Iterator[LocksInMemory]:
    """Locks in memory, all of them, for this test; in the end none may be left.

    It has `busy(*keys)`, `free(*keys)`, `lose_now(lease_or_key)`, `pass_time(seconds)`, `autojump`, `time_passed`,
    `assert_locked(key)`, `assert_not_locked(key)` and `assert_no_locks_left()`, all of `django_locksmith.testing`.
    """
    from .testing import override_locks  # not before Django has its settings

    with override_locks() as locks:
        yield locks
        locks.assert_no_locks_left()
