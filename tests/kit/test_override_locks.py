"""Locks in memory: what `override_locks` promises to the tests of others, in each of its forms."""

from __future__ import annotations

import asyncio
import sys
import threading
import unittest
from typing import TYPE_CHECKING, Any

import pytest
from django.core import checks
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase, override_settings

from django_locksmith import Locksmith, locksmith
from django_locksmith.checks import check_settings
from django_locksmith.testing import (
    LocksInMemory,
    assert_locked,
    override_locks,
)
from tests.helpers import ROOT
from tests.helpers.servers import poll
from tests.kit.holding import acquire, succeeds_in_a_forked_child

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


DOCS = ROOT / "docs" / "testing.md"


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

    def renewing() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "locksmith-renewal"}

    before = renewing()
    for _ in range(3):
        with override_locks():
            assert caller.release(acquire(caller, "a", renew=True))
            assert caller.get(locksmith, "a", caller.populate(lambda: 1), 300) == 1
            assert renewing() - before
            cache.clear()
    poll(lambda: not renewing() - before)


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
            assert await asyncio.to_thread(locksmith("a").acquire, blocking=False) is None
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
