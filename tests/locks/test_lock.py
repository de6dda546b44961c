"""A lock and its leases in the hands of a user: arguments, names, owners, errors, and other clients of the pattern."""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
import sys
import threading
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from django.test import override_settings

from django_locksmith import (
    Holder,
    LockBusy,
    LockLost,
    LockReentered,
    Locksmith,
    LocksmithError,
    LockUnavailable,
    locksmith,
)
from django_locksmith.tokens import HANDED_OVER
from tests.helpers.callers import in_thread
from tests.helpers.servers import is_left, poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django_locksmith import Lease, Lock
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

NAN, INF = float("nan"), float("inf")


def got(lease: Lease | None) -> Lease:
    """The lease, which must be there."""
    assert lease is not None
    return lease


# ---- arguments


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("timeout", {"timeout": bad}) for bad in (0, -1, NAN, INF, 0.0001, timedelta(0), True, None, "5", [5])),
        *(("blocking", {"blocking": bad}) for bad in (1, 0, None, "no", [])),
        *(("blocking_timeout", {"blocking_timeout": bad}) for bad in (-1, NAN, INF, timedelta(-1), True, "5", [5])),
        ("blocking_timeout", {"blocking": False, "blocking_timeout": 5}),
        ("blocking_timeout", {"blocking": False, "blocking_timeout": None}),
        *(("renew", {"renew": bad}) for bad in (1, None, "yes", [])),
        *(("max_hold", {"renew": True, "max_hold": bad}) for bad in (0, -1, NAN, INF, True, "5", [5])),
        ("max_hold", {"max_hold": 300}),
        ("max_hold", {"renew": True, "timeout": 30, "max_hold": 29}),
        *(("on_busy", {"on_busy": bad}) for bad in ("wait", None, 0, [])),
        *(("on_lost", {"on_lost": bad}) for bad in ("skip", None, 0, [])),
        *(("label", {"label": bad}) for bad in (None, 7, b"me", [])),
    ],
)
def test_bad_arguments(name: str, given: dict[str, Any]) -> None:
    """An argument that makes no sense is refused at the call, by an error that begins with its name."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name} "):
        locksmith("a", **given)


@pytest.mark.parametrize("key", [None, 7, b"bytes", ["a"]])
def test_bad_keys(key: Any) -> None:
    """A key that is no text is refused, not turned into one."""
    with pytest.raises(TypeError, match=r"write @locksmith\(\) with parentheses"):
        locksmith(lambda: 1)  # type: ignore[call-overload]  # that is the point
    with pytest.raises(TypeError, match="a lock's key is a str"):
        locksmith(key)


@pytest.mark.parametrize("word", ["<queue>", "<baton>", "<index>", "<flight>", "<news>", "<pause>"])
@pytest.mark.parametrize("rest", ["", "a"])
def test_reserved_keys(valkey: Deployment, word: str, rest: str) -> None:
    """A key that could be mistaken for what belongs to a lock is refused, in each way a key is given."""
    with pytest.raises(ValueError, match="reserved"):
        locksmith(word + rest)
    with pytest.raises(ValueError, match="reserved"):
        locksmith.info(word + rest)
    with pytest.raises(ValueError, match="reserved"):
        locksmith.clear(word + rest)
    with pytest.raises(ValueError, match="reserved"):
        locksmith("{key}")(lambda key: None)(word + rest)
    assert locksmith(f"a{word}").key == f"a{word}"


def test_callback_must_be_callable(valkey: Deployment) -> None:
    """A second argument that cannot be called is refused before the lock is taken."""
    with pytest.raises(TypeError, match=r"^callback "):
        locksmith("a", 5)  # type: ignore[call-overload]
    assert valkey.keys() == set()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("blocking_timeout", {"blocking_timeout": bad}) for bad in (-1, NAN, INF, True, "5")),
        ("blocking_timeout", {"blocking": False, "blocking_timeout": 5}),
        *(("blocking", {"blocking": bad}) for bad in (0, 1, "no")),
        *(("token", {"token": bad}) for bad in ("", b"bytes", 7, HANDED_OVER)),
    ],
)
def test_bad_arguments_of_acquire(valkey: Deployment, caller: Caller, name: str, given: dict[str, Any]) -> None:
    """An attempt with an argument that makes no sense is refused by its name, and Redis is not asked."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name} "):
        caller.acquire(locksmith("a"), **given)
    assert valkey.keys() == set()


@pytest.mark.parametrize("seconds", [0, -1, NAN, INF, True, "5", timedelta(0)])
def test_bad_extensions(valkey: Deployment, caller: Caller, seconds: Any) -> None:
    """A lease cannot be extended by what is no time, and keeps what it has."""
    since = time.monotonic()
    lease = got(caller.acquire(locksmith("a", timeout=30)))
    with pytest.raises((TypeError, ValueError), match=r"^additional_time "):
        caller.extend(lease, seconds)
    assert is_left(lease.remaining, 30, since)


def test_seconds_may_be_timedelta(valkey: Deployment) -> None:
    """Wherever seconds are wanted, a timedelta will do."""
    lock = locksmith("a", timeout=timedelta(minutes=1), blocking_timeout=timedelta(seconds=2))
    assert (lock.timeout, lock.blocking_timeout) == (60, 2)
    since = time.monotonic()
    with lock as lease:
        lease.extend(timedelta(hours=1))
        assert is_left(lease.remaining, 3660, since)
        assert in_thread(lambda: lock.acquire(blocking_timeout=timedelta(milliseconds=1))).result(10) is None


def test_waiting_may_be_turned_on_again(valkey: Deployment) -> None:
    """A lock that does not wait does so where acquire says blocking=True, for as long as the settings say."""
    lease = got(locksmith("a").acquire())
    waiter = in_thread(lambda: locksmith("a", blocking=False).acquire(blocking=True))
    poll(lambda: got_info("a").waiters == 1)
    lease.release()
    assert waiter.result(10).release()


def got_info(key: str) -> Any:
    """The lock as it is seen, which must be held."""
    info = locksmith.info(key)
    assert info is not None
    return info


# ---- keys and tokens


def test_no_key(valkey: Deployment, caller: Caller) -> None:
    """Without a key it is the lock on the empty text, whose key in Redis is the prefix alone."""
    lease = got(caller.acquire(locksmith()))
    assert (locksmith().key, lease.key, locksmith().name) == ("", "", "__locksmith:")
    with valkey.server.client() as client:
        assert client.get("__locksmith:") == lease.token
    assert caller.acquire(locksmith(""), blocking=False) is None


def test_key_in_redis(valkey: Deployment, caller: Caller) -> None:
    """In Redis a lock is plainly its prefix and key, with the token as value and an expiry not before the lease's."""
    lease = got(caller.acquire(locksmith("report:42", timeout=20)))
    with valkey.server.client() as client:
        assert client.get("__locksmith:report:42") == lease.token
        assert lease.remaining * 1000 <= client.pttl("__locksmith:report:42") <= 20_000


@pytest.mark.parametrize("label", ["nightly import", ""])
def test_token_tells_the_holder(valkey: Deployment, label: str) -> None:
    """A token tells people who holds the lock: host, process, thread, since when, and a label or the program's name."""
    before = time.time()
    thread = threading.Thread(target=lambda: leases.append(locksmith("a", label=label).acquire()), name="a|b")
    leases: list[Lease | None] = []
    thread.start()
    thread.join(10)
    holder = got_info("a").holder
    assert (holder.token, holder.host, holder.pid) == (got(leases[0]).token, platform.node(), os.getpid())
    assert holder.thread == "a/b"
    assert before - 0.001 <= holder.since <= time.time()
    assert holder.label == label or holder.label.startswith(Path(sys.argv[0]).name)
    assert str(holder) == f"{platform.node()}:{os.getpid()}:a/b ({holder.label})"


def test_tokens_differ(valkey: Deployment) -> None:
    """No two holdings have the same token."""
    tokens = set()
    for _ in range(20):
        with locksmith("a") as lease:
            tokens.add(lease.token)
    assert len(tokens) == 20


def test_own_token(valkey: Deployment, caller: Caller) -> None:
    """A token that the caller brings stands in Redis as it is, and the lease works by it."""
    lease = got(caller.acquire(locksmith("a"), token="my own"))
    with valkey.server.client() as client:
        assert client.get("__locksmith:a") == lease.token == "my own"
    assert caller.info(locksmith, "a").holder == Holder("my own")  # type: ignore[union-attr]
    caller.extend(lease, 60)
    assert caller.release(lease)
    assert caller.info(locksmith, "a") is None


def test_prefixes_keep_services_apart(valkey: Deployment, caller: Caller) -> None:
    """Services with different prefixes never meet; those with the same prefix do."""
    one, same, other = Locksmith(), Locksmith(), Locksmith(prefix="other:")
    caller.acquire(one("a", label="one"))
    lease = got(caller.acquire(other("a", label="other"), blocking=False))
    assert caller.acquire(same("a"), blocking=False) is None
    assert [caller.info(service, "a").holder.label for service in (one, same, other)] == ["one", "one", "other"]  # type: ignore[union-attr]
    assert [len(caller.locks(service)) for service in (one, same, other)] == [1, 1, 1]
    caller.clear(one, pattern="*")
    assert lease.held
    assert caller.info(other, "a") is not None


# ---- redis-py's words


@pytest.fixture(params=["sync", "async"])
def say(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Any]]:
    """Says a word of redis-py's to a lock: the method itself, or its async twin."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # both are said in a task

    async def say(lock: Lock, word: str, *arguments: Any, **named: Any) -> Any:
        if request.param == "sync":
            return getattr(lock, word)(*arguments, **named)
        return await getattr(lock, f"a{word}")(*arguments, **named)

    return say


def test_words_of_redis_py(valkey: Deployment, say: Any) -> None:
    """A lock understands the words of redis-py's lock, which act on what this thread or task holds."""

    async def scenario() -> None:
        lock = locksmith("a", timeout=10)
        assert (lock.name, lock.timeout) == ("__locksmith:a", 10)
        assert (await say(lock, "locked"), await say(lock, "owned")) == (False, False)
        since = time.monotonic()
        lease = await say(lock, "acquire")
        assert lease
        assert (await say(lock, "locked"), await say(lock, "owned")) == (True, True)
        assert await say(lock, "extend", 20) is True
        assert is_left(lease.remaining, 30, since)
        since = time.monotonic()
        assert await say(lock, "extend", 20, replace_ttl=True) is True
        assert is_left(lease.remaining, 20, since)
        since = time.monotonic()
        assert await say(lock, "reacquire") is True
        assert is_left(lease.remaining, 10, since)
        assert await say(lock, "release") is None
        assert (await say(lock, "locked"), await say(lock, "owned")) == (False, False)

    asyncio.run(scenario())


@pytest.mark.parametrize("word", ["release", "extend", "reacquire"])
@pytest.mark.parametrize("cleared", [False, True])
def test_words_without_a_lease(valkey: Deployment, say: Any, word: str, cleared: bool) -> None:
    """Where this thread or task holds nothing, or not any more, the words that need a lease raise LockLost."""

    async def scenario() -> None:
        lock = locksmith("a")
        if cleared:
            lease = await say(lock, "acquire")
            assert await locksmith.aclear("a")
            assert not await say(lock, "owned")
            assert lease.held  # it has not heard of it
        with pytest.raises(LockLost):
            await say(lock, word, *([5] if word == "extend" else []))

    asyncio.run(scenario())


def test_words_do_not_act_on_others(valkey: Deployment) -> None:
    """What one thread holds, another can neither release nor extend by the lock: it holds nothing itself."""
    lock = locksmith("a")
    lease = got(lock.acquire())
    assert in_thread(lock.owned).result(10) is False
    assert in_thread(lock.locked).result(10) is True
    for word in (lock.release, lock.reacquire, lambda: lock.extend(5)):
        with pytest.raises(LockLost, match="has taken nothing through this Lock object"):
            in_thread(word).result(10)
    assert lock.owned()
    assert lease.release()


# ---- leases


@pytest.mark.parametrize("ending", [None, KeyError("mine")])
def test_lease_is_a_context_manager(valkey: Deployment, ending: KeyError | None) -> None:
    """A lease is true, and released at the end of its block, whether or not the block raises."""

    async def in_task() -> None:
        async with got(await locksmith("a").aacquire()) as lease:
            assert lease
            assert await locksmith("a").alocked()
            if ending:
                raise ending

    def in_thread() -> None:
        with got(locksmith("a").acquire()) as lease:
            assert lease
            assert locksmith("a").locked()
            if ending:
                raise ending

    for run in (in_thread, lambda: asyncio.run(in_task())):
        with pytest.raises(KeyError, match="mine") if ending else nullcontext():
            run()
        assert not locksmith("a").locked()


def test_looking_at_a_lease_costs_no_request(valkey: Deployment) -> None:
    """Whether a lease is held, and for how long, is known without asking Redis."""
    lease = got(locksmith("a").acquire())
    with valkey.server.client() as client:
        client.ping()
        before = client.info("stats")["total_commands_processed"]
        for _ in range(100):
            lease.ensure_held()
            assert lease.held
            assert lease.remaining
            assert not lease.lost
        assert client.info("stats")["total_commands_processed"] - before == 1  # our own question


def test_over_and_lost(valkey: Deployment) -> None:
    """A lease that was given back is over, not lost; one that ran out is lost; neither is held."""
    with locksmith("a") as lease:
        pass
    assert (lease.held, lease.lost, lease.remaining) == (False, False, 0)
    with pytest.raises(LockLost, match="released before"):
        lease.ensure_held()
    short = got(locksmith("a", timeout=0.05).acquire())
    poll(lambda: not short.held)
    assert (short.lost, short.remaining) == (True, 0)
    with pytest.raises(LockLost, match="ran out"):
        short.ensure_held()


def test_lease_handed_to_another_thread(valkey: Deployment) -> None:
    """A lease may be released by another thread; the first may then take the lock again."""
    lease = got(locksmith("a").acquire())
    assert in_thread(lease.release).result(10) is True
    assert not lease.held
    with locksmith("a"):
        assert lease.release() is False


def test_lease_handed_to_another_task(valkey: Deployment) -> None:
    """A lease may be extended and released by another task; the first may then take the lock again."""

    async def scenario() -> None:
        lease = got(await locksmith("a").aacquire())
        await asyncio.create_task(lease.aextend(60))
        assert await asyncio.create_task(lease.arelease()) is True
        async with locksmith("a", blocking_timeout=1):
            pass

    asyncio.run(scenario())


def test_lease_handed_between_threads_and_tasks(valkey: Deployment) -> None:
    """A lease of a thread may be released by a task, and that of a task by a thread, even after its loop has ended."""
    assert asyncio.run(got(locksmith("a").acquire()).arelease()) is True
    lease = got(asyncio.run(locksmith("a").aacquire()))
    assert lease.release() is True
    assert locksmith.locks() == []


# ---- reentry


def test_reentry_of_a_thread(valkey: Deployment) -> None:
    """A thread that would wait for itself gets LockReentered at once, and keeps what it holds."""
    with locksmith("a") as lease:
        again = locksmith("a", blocking_timeout=1)
        with pytest.raises(LockReentered, match="held by the very code that would wait") as caught:
            again.acquire()
        assert caught.value.holder == got_info("a").holder
        with pytest.raises(LockReentered), again:
            pass
        with pytest.raises(LockReentered):
            locksmith("a", lambda release: None, blocking_timeout=1)
        with pytest.raises(LockReentered):
            locksmith("a", on_busy="skip", blocking_timeout=1)(lambda: None)()
        assert lease.held
        assert got_info("a").waiters == 0
    with again:
        pass


def test_reentry_of_a_task(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that would wait for itself gets LockReentered at once, also through synchronous code within it."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def scenario() -> None:
        async with locksmith("a") as lease:
            again = locksmith("a", blocking_timeout=1)
            with pytest.raises(LockReentered):
                await again.aacquire()
            with pytest.raises(LockReentered):
                async with again:
                    pass
            with pytest.raises(LockReentered):
                again.acquire()
            assert lease.held

    asyncio.run(scenario())


def test_not_reentry(valkey: Deployment) -> None:
    """Busy is busy for one who does not wait, and for another thread."""

    async def scenario() -> None:
        lock = locksmith("a")
        async with lock:
            assert await lock.aacquire(blocking=False) is None
            assert await asyncio.to_thread(lock.acquire, blocking=False) is None
            assert await asyncio.create_task(lock.aacquire(blocking=False)) is None

    asyncio.run(scenario())
    with locksmith("a"):
        assert locksmith("a").acquire(blocking=False) is None
        assert in_thread(lambda: locksmith("a").acquire(blocking_timeout=0.05)).result(10) is None


def test_what_is_lost_is_not_reentered(valkey: Deployment) -> None:
    """A thread whose lease has run out may take the lock again."""
    short = got(locksmith("a", timeout=0.05).acquire())
    poll(lambda: not short.held)
    assert got(locksmith("a").acquire()).fence > short.fence


# ---- errors


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (LockBusy, [LocksmithError, redis.exceptions.LockError, redis.RedisError]),
        (LockReentered, [LockBusy]),
        (LockLost, [LocksmithError, redis.exceptions.LockNotOwnedError, redis.exceptions.LockError]),
        (LockUnavailable, [LocksmithError]),
    ],
)
def test_errors_are_redis_pys(error: type[Exception], bases: list[type[Exception]]) -> None:
    """Code that catches redis-py's lock errors catches ours; busy, lost and unavailable are not one another."""
    assert all(issubclass(error, base) for base in bases)
    outcomes = [LockBusy, LockLost, LockUnavailable]
    assert [issubclass(error, outcome) for outcome in outcomes].count(True) == 1


def test_errors_are_caught_as_redis_pys(valkey: Deployment) -> None:
    """A busy lock and a lost one are caught by what caught them when the lock was redis-py's."""
    lease = got(locksmith("a").acquire())
    with pytest.raises(redis.exceptions.LockError), locksmith("a", blocking=False):
        pass
    assert locksmith.clear("a")
    with pytest.raises(redis.exceptions.LockNotOwnedError):
        lease.release()


@pytest.mark.parametrize(
    "error",
    [
        LockBusy("a", Holder("t", "host", 7, "main", 1.5, "me"), 12.5),
        LockBusy("a"),
        LockReentered("a", None, 3.0),
        LockLost("a", "it was cleared"),
        LockUnavailable("Redis gave no answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error: LocksmithError) -> None:
    """An error that crosses a process boundary, as a task's result does, arrives as it was."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


# ---- other clients of SET NX PX


def test_redis_pys_lock_is_respected(valkey: Deployment, caller: Caller) -> None:
    """A lock that redis-py's own Lock holds is busy for ours, and free once that is released."""
    with valkey.server.client() as client:
        theirs = client.lock("__locksmith:a", timeout=30)
        assert theirs.acquire()
        with pytest.raises(LockBusy) as caught:
            caller.within(locksmith("a", blocking=False), lambda lease: None)
        assert "held by an unknown client" in caught.value.details
        assert caught.value.holder == Holder(theirs.local.token.decode())
        assert caught.value.retry_after is not None
        assert 25 < caught.value.retry_after <= 30
        waiter = caller.start_acquire(locksmith("a"))
        poll(lambda: got_info("a").waiters == 1)
        theirs.release()
        assert got(waiter.result(10)).held


def test_redis_pys_lock_respects_ours(valkey: Deployment, caller: Caller) -> None:
    """A lock that we hold is busy for redis-py's own Lock, and free once we release it."""
    with valkey.server.client() as client:
        theirs = client.lock("__locksmith:a", timeout=30)
        lease = got(caller.acquire(locksmith("a")))
        assert theirs.acquire(blocking=False) is False
        assert lease.held
        caller.release(lease)
        assert theirs.acquire(blocking=False) is True


def test_lock_of_other_software(valkey: Deployment, caller: Caller) -> None:
    """A lock that other software set is shown as far as it can be known, even where ours had run out before."""
    got(caller.acquire(locksmith("a", timeout=0.05)))
    poll(lambda: caller.info(locksmith, "a") is None)
    with valkey.server.client() as client:
        client.set("__locksmith:a", "theirs", nx=True)
    info = caller.info(locksmith, "a")
    assert info is not None
    assert info.holder == Holder("theirs")
    assert (info.remaining, info.held_for, info.fence, info.waiters) == (None, None, None, 0)


def test_settings_overridden_within_a_block(valkey: Deployment) -> None:
    """A block gives back the lock it took, though settings were overridden and put back in the middle of it."""
    with locksmith("a"), override_settings(LOCKSMITH={"REDIS": "default", "PREFIX": "other:"}), locksmith("a"):
        assert valkey.left_behind() == {"__locksmith:a", "other:a"}
    assert not valkey.left_behind()
