"""`acquire()` and `release()` of one Lock object, the lease dropped: how code for redis-py is written."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest
import redis
from django.core.cache import cache
from redis.exceptions import LockError, LockNotOwnedError

from django_locksmith import LockLost, Locksmith, locksmith
from django_locksmith.api import said_once
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment


@pytest.fixture(params=["sync", "async"])
def play(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a scenario, which is given `say(lock, word, ...)`, in one thread or in one task."""

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    def run(scenario: Any) -> None:
        async def say(lock: Any, word: str, *args: Any, **how: Any) -> Any:
            if request.param == "sync":
                return getattr(lock, word)(*args, **how)
            return await getattr(lock, f"a{word}")(*args, **how)

        asyncio.run(scenario(say))

    return run


def test_acquire_try_finally_release(deployment: Deployment, play: Any) -> None:
    """`if lock.acquire(): try: ... finally: lock.release()` gives the lock back, though nobody kept the lease."""

    async def scenario(say: Any) -> None:
        lock = locksmith("a", timeout=30)
        for _ in range(3):
            assert await say(lock, "acquire")
            gc.collect()
            try:
                assert await say(lock, "owned")
                assert await say(locksmith("a"), "locked")
                assert await say(lock, "extend", 10)
                assert await say(lock, "reacquire")
            finally:
                await say(lock, "release")
            assert not await say(lock, "locked")

    play(scenario)


def test_second_lock_object(valkey: Deployment, play: Any) -> None:
    """The words act on what was taken through this object: another Lock of the key neither owns nor releases it."""

    async def scenario(say: Any) -> None:
        mine, other = locksmith("a"), locksmith("a")
        assert await say(mine, "acquire")
        assert not await say(other, "acquire", blocking=False)
        assert not await say(other, "owned")
        for word, *more in (["release"], ["reacquire"], ["extend", 5]):
            with pytest.raises(LockError):
                await say(other, word, *more)
        assert await say(mine, "owned")
        await say(mine, "release")

    play(scenario)


def test_released_once(valkey: Deployment, play: Any) -> None:
    """A second release, or one before any acquire, is redis-py's LockError."""

    async def scenario(say: Any) -> None:
        lock = locksmith("a")
        with pytest.raises(LockError):
            await say(lock, "release")
        await say(lock, "acquire")
        await say(lock, "release")
        with pytest.raises(LockError):
            await say(lock, "release")

    play(scenario)


def test_lost_meanwhile(valkey: Deployment, play: Any) -> None:
    """Who lost the lock hears of it by LockNotOwnedError, and the next holder keeps it."""

    async def scenario(say: Any) -> None:
        lock = locksmith("a", timeout=30)
        await say(lock, "acquire")
        with valkey.server.client() as client:
            client.set("__locksmith:a", "another", px=30_000)
            assert not await say(lock, "owned")
            with pytest.raises(LockNotOwnedError):
                await say(lock, "extend", 5)
            with pytest.raises(LockNotOwnedError):
                await say(lock, "release")
            assert client.get("__locksmith:a") == "another"

    play(scenario)


def test_after_another_with_block(valkey: Deployment, play: Any) -> None:
    """An object may serve a block, and calls after it."""

    async def scenario(say: Any) -> None:
        lock = locksmith("a")
        async with lock:
            assert await lock.aowned()
        with lock:
            assert lock.owned()
        assert await say(lock, "acquire")
        await say(lock, "release")

    play(scenario)


def test_shared_by_threads(valkey: Deployment) -> None:
    """A Lock of a module, shared by threads: each gives back what it took, and not what another took."""
    lock = locksmith("a", blocking_timeout=20)

    def work() -> None:
        assert lock.acquire()
        try:
            assert lock.owned()
        finally:
            lock.release()

    for done in [in_thread(work) for _ in range(8)]:
        done.result(30)
    assert locksmith.locks() == []


def test_taken_and_never_given_back(valkey: Deployment) -> None:
    """An object that is used to take locks that simply run out, as throttles do, does not grow with them."""
    lock = locksmith("a", timeout=0.05)
    for _ in range(60):
        poll(lambda: lock.acquire(blocking=False))
    assert len(lock._taken._acquired) <= 16


def test_old_and_new_code_side_by_side(valkey: Deployment) -> None:
    """During a rolling change cache.lock and this package respect each other, whichever comes first."""
    new = Locksmith(prefix=":1:")("a", blocking=False)
    old = cache.lock("a", timeout=30)
    assert old.acquire(blocking=False)
    assert not new.acquire()
    old.release()
    assert new.acquire()
    assert not old.acquire(blocking=False)
    new.release()
    assert old.acquire(blocking=False)


def test_dropped_lease_is_told_once(
    valkey: Deployment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that nobody can release any more is told of, once for each lock; one that is over, is not."""
    monkeypatch.setattr(said_once, "_said", set())
    with caplog.at_level(logging.WARNING, "django_locksmith.lock"):
        for key in ("a", "a", "b"):
            assert locksmith(key, timeout=0.2).acquire(blocking_timeout=5)
            gc.collect()
        lease = locksmith("c").acquire()
        assert lease
        lease.release()
        del lease
        kept = locksmith("d")
        kept.acquire()
        gc.collect()
    assert [record.getMessage().split(" was ")[0] for record in caplog.records] == [
        "a lease of the lock 'a'",
        "a lease of the lock 'b'",
    ]
    kept.release()


def test_errors_are_of_both_families(valkey: Deployment) -> None:
    """What redis-py's users catch is raised, by its name and by ours."""
    with pytest.raises(redis.exceptions.LockError) as caught:
        locksmith("a").release()
    assert isinstance(caught.value, LockLost)
