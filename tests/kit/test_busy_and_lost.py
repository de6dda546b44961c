"""Locks that are busy because a test says so, leases that are lost, and the asserts about what is held."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from django_locksmith import LockBusy, LockLost, Locksmith, Skipped, locksmith, signals
from django_locksmith.testing import (
    assert_locked,
    assert_no_locks_left,
    assert_not_locked,
    lose_now,
    override_locks,
)
from tests.helpers import ROOT
from tests.helpers.servers import poll
from tests.kit.holding import acquire, succeeds_in_a_forked_child

if TYPE_CHECKING:
    from django_locksmith import Lease
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


DOCS = ROOT / "docs" / "testing.md"


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
        assert "override_locks" in caught.value.details
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
                await asyncio.Event().wait()
                went.append("never")
        except asyncio.CancelledError:
            went.append("cancelled")
        return went

    assert asyncio.run(scenario()) == ["lost", "cancelled"]


@pytest.mark.usefixtures("anywhere")
def test_lose_a_renewed_lease(caller: Caller) -> None:
    """A lease that is renewed can be lost, too, and stays so."""
    lease = acquire(caller, "a", renew=True, timeout=30)
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
