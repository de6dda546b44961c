"""Locks and database transactions: `release="commit"`, and the warning where a lock is free before the COMMIT."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase

from django_locksmith import LockBusy, LockLost, LockReentered, locksmith, signals
from django_locksmith.api import said_once
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
def _nothing_is_left(valkey: Deployment) -> Iterator[None]:
    """Whatever a promise does: in the end no lock is held, and Django's connections are as they were."""
    yield
    assert not valkey.left_behind()
    for each in connections.all():
        assert not vars(each).keys() & {"set_autocommit", "close", "savepoint_commit", "locksmith_ending"}


def is_free(key: str) -> bool:
    """Could another process take it?"""

    def try_it() -> bool:
        found = locksmith(key).acquire(blocking=False)
        return bool(found and found.release())

    return in_thread(try_it).result(10)


class Rolled(Exception):
    """Rolls a block back."""


def committed() -> None:
    with transaction.atomic(), locksmith("a", release="commit"):
        Group.objects.create(name="written")
    assert Group.objects.filter(name="written").exists()


def rolled_back() -> None:
    with pytest.raises(Rolled), transaction.atomic(), locksmith("a", release="commit"):
        raise Rolled


def rolled_back_after_the_block() -> None:
    with pytest.raises(Rolled):
        roll_back_after_the_block()


@transaction.atomic
def roll_back_after_the_block() -> None:
    with locksmith("a", release="commit"):
        pass
    assert not is_free("a")
    raise Rolled


def rolled_back_by_hand() -> None:
    with transaction.atomic(), locksmith("a", release="commit"):
        transaction.set_rollback(True)


def refused_by_the_commit() -> None:
    with pytest.raises(IntegrityError), transaction.atomic(), locksmith("a", release="commit"):
        User.groups.through.objects.create(user_id=1, group_id=1)  # checked at the end of the transaction


def closed() -> None:
    with pytest.raises(Rolled):
        close_and_fail()


@transaction.atomic(using="other")
def close_and_fail() -> None:
    with locksmith("a", release="commit"):
        Group.objects.using("other").create(name="not to be written")
        connections["other"].close()
        raise Rolled


def closed_after_the_block() -> None:
    with pytest.raises(Rolled):
        close_after_the_block()


@transaction.atomic(using="other")
def close_after_the_block() -> None:
    with locksmith("a", release="commit"):
        Group.objects.using("other").create(name="not to be written")
    assert not is_free("a")
    connections["other"].close()
    raise Rolled


@pytest.mark.parametrize(
    "end",
    [
        committed,
        rolled_back,
        rolled_back_after_the_block,
        rolled_back_by_hand,
        refused_by_the_commit,
        closed,
        closed_after_the_block,
    ],
    ids=lambda end: end.__name__,
)
def test_every_end_releases(end: Callable[[], None]) -> None:
    """However a transaction ends, the lock that was released inside of it is free then."""
    end()
    assert is_free("a")


def test_held_until_the_outermost_commit() -> None:
    """Released inside of a transaction, a lock stays held until the outermost block is committed."""
    with transaction.atomic():
        with transaction.atomic():
            with locksmith("a", release="commit") as held:
                pass
            assert held.waits_for_commit
        with pytest.raises(Rolled), transaction.atomic():
            raise Rolled
        assert held.held
        assert not is_free("a")
    assert not held.held
    assert is_free("a")


def test_every_way_to_release(valkey: Deployment) -> None:
    """A decorated function, a callback, and an explicit release wait for the commit in the same way."""

    @locksmith("a", release="commit")
    def decorated() -> None:
        """Nothing."""

    with transaction.atomic():
        decorated()
        locksmith("b", lambda release: release(), release="commit")
        held = locksmith("c", release="commit").take()
        assert held.release()
        assert not held.release()
        assert [is_free(key) for key in "abc"] == [False] * 3
    assert [is_free(key) for key in "abc"] == [True] * 3


def test_held_in_the_hooks_of_the_commit() -> None:
    """What `on_commit` calls still has the lock."""
    seen: list[bool] = []
    with transaction.atomic(), locksmith("a", release="commit"):
        transaction.on_commit(lambda: seen.append(is_free("a")))
    assert seen == [False]
    assert is_free("a")


def test_hook_that_fails() -> None:
    """A failing `on_commit` hook does not keep the lock."""

    def fail() -> None:
        raise Rolled

    with pytest.raises(Rolled), transaction.atomic(), locksmith("a", release="commit"):
        transaction.on_commit(fail)
    assert is_free("a")


def test_the_right_database() -> None:
    """It is the transactions that are open which are waited for, whichever databases they are on, and all of them."""
    with transaction.atomic(using="other"):
        with locksmith("a", release="commit"):
            pass
        assert not is_free("a")
    assert is_free("a")
    with transaction.atomic():
        with transaction.atomic(using="other"), locksmith("a", release="commit"):
            pass
        assert not is_free("a")
    assert is_free("a")


def test_several_locks() -> None:
    """Several locks of one transaction are all free after it, and a lock of the next waits for the next."""
    with transaction.atomic():
        for key in "ab":
            with locksmith(key, release="commit"):
                pass
    assert is_free("a")
    assert is_free("b")
    with transaction.atomic():
        with locksmith("a", release="commit"):
            pass
        assert not is_free("a")
    assert is_free("a")


def test_without_a_transaction() -> None:
    """Where no transaction is open, the lock is released at once; a transaction that began and ended inside is none."""
    with locksmith("a", release="commit"):
        with transaction.atomic():
            pass
        assert not is_free("a")
    assert is_free("a")


def test_another_thread_has_another_transaction() -> None:
    """The transaction of one thread keeps no lock of another."""

    def elsewhere() -> None:
        with locksmith("a", release="commit"):
            pass
        connections.close_all()

    with transaction.atomic():
        in_thread(elsewhere).result(10)
        assert is_free("a")


def test_taken_again_in_the_same_transaction() -> None:
    """Whoever asks again in the same transaction has the lock still, for as long as the transaction; others do not."""
    with transaction.atomic():
        with locksmith("a", release="commit") as first:
            pass
        with locksmith("a", release="commit") as again:
            assert again is first
        assert locksmith("a", release="commit").acquire(blocking=False) is first
        assert locksmith("a").acquire(blocking=False) is None
        with pytest.raises(LockReentered):
            locksmith("a").acquire()
        assert not is_free("a")
    assert is_free("a")


def test_nested_blocks() -> None:
    """A block within a block of the same lock is refused as ever: the inner one would end what the outer one needs."""
    with transaction.atomic(), locksmith("a", release="commit"), pytest.raises(LockReentered):
        locksmith("a", release="commit").take()


def test_lost_in_the_transaction() -> None:
    """Who lost the lock before the end of its block gets `LockLost` there, and the transaction is rolled back."""

    @transaction.atomic
    @locksmith("a", release="commit")
    def write() -> None:
        Group.objects.create(name="not to be written")
        locksmith.clear("a")
        held = locksmith.runtime().latest_lease("a")
        assert held is not None
        held.lose("a renewal found out")

    with pytest.raises(LockLost):
        write()
    assert not Group.objects.exists()


def test_lost_after_the_block(caplog: pytest.LogCaptureFixture) -> None:
    """A loss that shows only at the release is logged: what is committed stays, and nothing is raised."""
    with transaction.atomic():
        with locksmith("a", release="commit"):
            Group.objects.create(name="written")
        locksmith.clear("a")
    assert Group.objects.get().name == "written"
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'a' is not held" in said.getMessage()


def test_renewed_until_the_commit() -> None:
    """Renewal goes on until the transaction ends, and the signal `released` is sent then."""
    told: list[Any] = []

    def receive(**named: Any) -> None:
        told.append(named["lease"])

    signals.released.connect(receive)
    try:
        with transaction.atomic():
            with locksmith("a", timeout=2.5, renew=True, release="commit") as held:
                first = held.deadline
            poll(lambda: held.deadline > first + 2.5)
            assert held.held
            assert not told
        assert told == [held]
    finally:
        signals.released.disconnect(receive)


def test_warned_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is released inside of a transaction is warned of, once, with the way out; one that waits is not."""
    monkeypatch.setattr(said_once, "_said", set())
    with transaction.atomic():
        with locksmith("a", release="commit"):
            pass
        assert not caplog.records
        for key in "bcb":
            with locksmith(key, template="kind:{key}"):
                pass
            assert is_free(key)
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'kind:{key}'" in said.getMessage()
    assert "release='commit'" in said.getMessage()


def test_not_warned_outside(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock around a transaction is as it should be, and not warned of."""
    monkeypatch.setattr(said_once, "_said", set())
    with locksmith("a"), transaction.atomic():
        Group.objects.create(name="written")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_wrong_word() -> None:
    """`release` takes "now" and "commit"; anything else is told at once."""
    with pytest.raises(ValueError, match="release must be 'now' or 'commit', not 'later'"):
        locksmith("a", release="later")  # type: ignore[call-overload]  # that is the point


def test_busy_inside_of_a_transaction() -> None:
    """A lock that is busy inside of a transaction is so, and harms nothing."""
    other = in_thread(locksmith("a").take).result(10)
    with transaction.atomic(), pytest.raises(LockBusy):
        locksmith("a", release="commit", blocking=False).take()
    other.release()


class InTestCase(TestCase):
    """Within Django's `TestCase`, whose own transaction never commits."""

    def test_blocks_of_the_test_case_do_not_count(self) -> None:
        """Where only the test case's transaction is open, a lock is released at once, without a warning."""
        with self.assertNoLogs("django_locksmith", logging.WARNING), locksmith("a", release="commit"):
            pass
        assert is_free("a")

    def test_blocks_of_the_code_count(self) -> None:
        """The outermost block of the tested code stands for the transaction, be it committed or rolled back."""
        for error in (None, Rolled):
            try:
                with transaction.atomic():
                    with transaction.atomic(), locksmith("a", release="commit"):
                        pass
                    assert not is_free("a")
                    if error:
                        raise error
            except Rolled:
                pass
            assert is_free("a")
        assert connection.in_atomic_block
