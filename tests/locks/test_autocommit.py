"""`release="commit"` where autocommit is off, and code ends its transactions by hand."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections, transaction

from django_locksmith import locksmith
from tests.helpers import databases
from tests.helpers.callers import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def nothing_is_left(valkey: Deployment) -> Iterator[None]:
    """In the end no lock is held."""
    yield
    assert not valkey.left_behind()


def is_free(key: str) -> bool:
    """Could another process take it?"""

    def try_it() -> bool:
        found = locksmith(key).acquire(blocking=False)
        return bool(found and found.release())

    return in_thread(try_it).result(10)


@pytest.fixture
def by_hand(tmp_path: Path, django_db_blocker: Any) -> Iterator[str]:
    """A database whose transactions begin by themselves, for autocommit is off."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db"), "AUTOCOMMIT": False}
    with django_db_blocker.unblock(), databases.added("by_hand", database):
        with connections["by_hand"].cursor() as cursor:
            cursor.execute("create table t (n int)")
        transaction.commit("by_hand")
        yield "by_hand"


@pytest.mark.parametrize("end", [transaction.commit, transaction.rollback])
@pytest.mark.parametrize("atomic", [False, True])
def test_autocommit_is_off(by_hand: str, end: Callable[[str], None], atomic: bool) -> None:
    """Where code ends its transactions by hand, the release waits for that, whatever blocks there are in between."""
    block = transaction.atomic(by_hand) if atomic else nullcontext()
    with connections[by_hand].cursor() as cursor:
        cursor.execute("insert into t values (1)")  # before the block, or SQLite's savepoint would be all there is
        with block, locksmith("a", release="commit"):
            cursor.execute("insert into t values (2)")
    assert not is_free("a")
    end(by_hand)
    assert is_free("a")


def test_autocommit_is_off_and_nothing_was_done(by_hand: str) -> None:
    """Where no statement has begun a transaction, the lock is released at once."""
    connections[by_hand].ensure_connection()
    with locksmith("a", release="commit"):
        pass
    assert is_free("a")


def test_closed_before_the_commit(by_hand: str) -> None:
    """A connection that is closed has rolled back."""
    with locksmith("a", release="commit"), connections[by_hand].cursor() as cursor:
        cursor.execute("insert into t values (1)")
    assert not is_free("a")
    connections[by_hand].close()
    assert is_free("a")
