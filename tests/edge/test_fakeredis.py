"""The lock in a user's own tests: over a django-redis alias whose pool uses fakeredis. Order of waiters is not kept."""

from __future__ import annotations

import time
from io import StringIO
from itertools import count
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import override_settings

from django_locksmith import LockBusy, LockLost, LockReentered, Locksmith, PopulateFailed, RetryLater, locksmith
from django_locksmith.checks import check_servers
from tests.helpers.origins import Origin
from tests.helpers.servers import is_left, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django_locksmith import Lease
    from tests.helpers.callers import Caller

_numbers = count(1)


@pytest.fixture(autouse=True)
def _fake() -> Iterator[None]:
    """Settings as a user writes them; each test has a server of its own, by its name."""
    connection = getattr(fakeredis, "FakeRedisConnection", fakeredis.FakeConnection)
    alias = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"redis://fake-{next(_numbers)}:6379/0",
        "OPTIONS": {"CONNECTION_POOL_KWARGS": {"connection_class": connection}},
    }
    with override_settings(CACHES={"default": alias}, LOCKSMITH={"REDIS": "default"}):
        yield


def acquire(caller: Caller, key: str, **options: Any) -> Lease:
    lease = caller.acquire(locksmith(key, **options))
    assert lease is not None
    return lease


def test_acquire_and_release(caller: Caller) -> None:
    """A lock is taken, seen, extended and given back; the cache itself works on beside it."""
    cache.set("a", 1)
    since = time.monotonic()
    lease = acquire(caller, "a", timeout=30, label="me")
    assert is_left(lease.remaining, 30, since)
    info = caller.info(locksmith, "a")
    assert info is not None
    assert info.holder is not None
    assert (info.holder.token, info.holder.label, info.fence) == (lease.token, "me", lease.fence)
    caller.extend(lease, 30)
    assert is_left(lease.remaining, 60, since)
    assert caller.release(lease) is True
    assert caller.info(locksmith, "a") is None
    assert acquire(caller, "a").fence > lease.fence
    assert cache.get("a") == 1


def test_busy(caller: Caller) -> None:
    """A held lock is busy, at once or at the end of the wait."""
    acquire(caller, "a")
    assert caller.acquire(locksmith("a"), blocking=False) is None
    assert caller.acquire(locksmith("a", blocking_timeout=0.05)) is None
    with pytest.raises(LockBusy):
        caller.within(locksmith("a", blocking=False), lambda lease: None)


def test_threads_and_tasks_meet(caller: Caller) -> None:
    """Threads and tasks see each other's locks."""
    acquire(caller, "a")
    assert locksmith("a").acquire(blocking=False) is None
    lease = locksmith("b").acquire()
    assert caller.acquire(locksmith("b"), blocking=False) is None
    assert lease


def test_hand_over(caller: Caller) -> None:
    """A release hands the lock to a waiter; in the end each of many has had it."""
    lease = acquire(caller, "a")
    waiter = caller.start_acquire(locksmith("a"))
    poll(lambda: (info := caller.info(locksmith, "a")) and info.waiters == 1)
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    assert following.held
    runs = [caller.start_within(locksmith("a"), lambda lease: lease.fence) for _ in range(6)]
    caller.release(following)
    assert len({run.result(20) for run in runs}) == 6
    assert caller.locks(locksmith) == []


def test_expiry(caller: Caller) -> None:
    """A lease that is not given back runs out, and whoever asks then gets the lock."""
    # Asks again and again: a thread that is blocked in fakeredis does nothing else until its wait is over.
    lease = acquire(caller, "a", timeout=0.1)
    following = poll(lambda: caller.acquire(locksmith("a"), blocking=False))
    assert not lease.held
    with pytest.raises(LockLost):
        caller.release(lease)
    assert following.held


def test_reentry() -> None:
    """A thread that would wait for itself is told so."""
    with locksmith("a"), pytest.raises(LockReentered):
        locksmith("a", blocking_timeout=1).acquire()


def test_renewal(caller: Caller) -> None:
    """A renewed lease outlives its time."""
    lease = acquire(caller, "a", timeout=5, renew=True)
    first = lease.deadline
    poll(lambda: lease.deadline > first + 5, within=30)
    assert lease.held
    assert caller.release(lease)


def test_list_and_clear(caller: Caller) -> None:
    """Locks are listed and cleared, from code and by the commands."""
    lease, _ = acquire(caller, "a"), acquire(caller, "b")
    assert [info.key for info in caller.locks(locksmith)] == ["a", "b"]
    assert [info.key for info in caller.clear(locksmith, "a")] == ["a"]
    with pytest.raises(LockLost):
        caller.release(lease)
    out = StringIO()
    call_command("locksmith_list", stdout=out)
    assert out.getvalue().splitlines()[1].startswith("b  ")
    call_command("locksmith_clear", "--all", "--yes", stdout=out)
    assert caller.locks(locksmith) == []


def test_single_flight(caller: Caller) -> None:
    """A value is computed once for all, by threads or tasks, in one process or several, and can be invalidated."""
    services = [Locksmith(), Locksmith()]
    origin = Origin({"n": 1}, {"n": 2}, held=True)
    default = caller.populate(origin)
    answers = [caller.start_get(services[0], "a", default)]
    origin.begun()
    answers += [caller.start_get(service, "a", default) for service in services * 2]
    poll(lambda: [caller.local_followers(service) for service in services] == [2, 1])
    origin.let_go(1)
    assert [answer.result(20) for answer in answers] == [{"n": 1}] * 5
    assert cache.get("a") == {"n": 1}
    caller.invalidate(services[1], "a")
    origin.let_all_go()
    assert caller.get(services[0], "a", default) == {"n": 2}
    assert origin.calls == 2


def test_single_flight_that_fails(caller: Caller) -> None:
    """Failures are shared, and an API is left alone."""
    services = [Locksmith(), Locksmith()]
    origin = Origin(KeyError("x"), RetryLater(60), held=True)
    default = caller.populate(origin)
    own = caller.start_get(services[0], "a", default)
    origin.begun()
    others = [caller.start_get(service, "a", default) for service in services]
    poll(
        lambda: (
            caller.local_followers(services[0]) == 1
            and services[1].runtime()
            and caller.context(services[1]).local_flights._flights
        )
    )
    origin.let_all_go()
    assert isinstance(own.exception(10), KeyError)
    assert isinstance(others[0].exception(10), PopulateFailed)
    with pytest.raises(RetryLater):
        caller.get(services[0], "b", default)
    with pytest.raises(RetryLater):
        caller.get(services[1], "b", default)
    # The one of the other process was told of the failure, or came so late that it asked the API itself.
    assert isinstance(others[1].exception(10), (PopulateFailed, RetryLater))


def test_system_checks() -> None:
    """The system checks that ask the server have nothing to say of it but that the cache is in the same database."""
    assert [message.id for message in check_servers()] == ["locksmith.W003"]
