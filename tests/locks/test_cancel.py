"""Whoever gives up, in whatever moment, leaves nothing behind: cancelled tasks, interrupted threads."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest
from django.test import override_settings

from django_locksmith import LockBusy, Locksmith, locksmith
from django_locksmith.redis.lua import ACQUIRE
from tests.helpers.deployments import alias
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment


def nothing_left(where: Deployment) -> None:
    """Neither a lock, nor a waiter, nor a baton; and the index knows of no lock."""
    poll(lambda: not where.left_behind())
    with where.server.client() as client:
        assert client.zrange("__locksmith:<index>", 0, -1) in ([], [""])  # the last fence


async def cancelled_after(steps: int, task: asyncio.Task[Any]) -> bool:
    """Let the loop turn so many times, then cancel the task; was it still running?"""
    for _ in range(steps):
        await asyncio.sleep(0)
    was_running = task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        lease = await task
        if lease is not None:
            await lease.arelease()
    return was_running


def test_cancelled_at_every_await_of_a_free_lock(valkey: Deployment) -> None:
    """An acquire of a free lock, cancelled at every step the loop takes for it, leaves nothing behind."""

    async def enumerate_steps() -> int:
        service = Locksmith()
        steps = 0
        while await cancelled_after(steps, asyncio.ensure_future(service("a").aacquire())):
            assert await service.ainfo("a") is None
            steps += 1
        return steps

    # Cold, with the connection to be made, and warm.
    assert asyncio.run(enumerate_steps()) > 3
    nothing_left(valkey)


def test_cancelled_twice(valkey: Deployment) -> None:
    """A cancelled call ends when nothing of it is under way any more, however often it is cancelled meanwhile."""

    async def twice() -> None:
        with proxy_to(valkey.server.port) as proxy:
            service = Locksmith(redis=proxy.url)
            async with service("warm"):
                pass
            proxy.keep_back(lambda request: ACQUIRE.digest in request)
            task = asyncio.ensure_future(service("a").aacquire())
            await asyncio.to_thread(poll, lambda: proxy.kept_back)
            for _ in range(3):
                task.cancel()
                await asyncio.wait({task}, timeout=0.05)
                assert not task.done()
            proxy.deliver()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await locksmith.ainfo("a") is None

    asyncio.run(twice())
    nothing_left(valkey)


def test_cancelled_at_every_await_of_a_hand_over(valkey: Deployment) -> None:
    """A waiter cancelled at every step of its wait and of its grant blocks nobody: the next waiter gets the lock."""

    async def enumerate_steps() -> int:
        service, others = Locksmith(), Locksmith()
        for steps in range(400):
            holder = await others("a").aacquire()
            assert holder is not None
            waiter = asyncio.ensure_future(service("a").aacquire())
            for _ in range(steps // 2):
                await asyncio.sleep(0)
            release = asyncio.ensure_future(holder.arelease())
            was_running = await cancelled_after(steps - steps // 2, waiter)
            await release
            with stopwatch() as took:
                following = await others("a", blocking_timeout=30).aacquire()
                assert following is not None
                assert took() < 0.5, f"cancelled after {steps} steps, the waiter blocks the lock"
            await following.arelease()
            if not was_running:
                return steps
        return 400

    # Three requests, a wait and a reply: how many turns of the loop they take depends on redis-py.
    assert asyncio.run(enumerate_steps()) > 5
    nothing_left(valkey)


def test_two_thousand_cancelled_at_random(valkey: Deployment) -> None:
    """Of 2,000 acquires cancelled at random moments, contended and not, none leaves a lock or a waiter behind."""

    async def storm() -> tuple[int, int]:
        chance = random.Random(2000)
        services = [Locksmith() for _ in range(4)]
        cancelled = granted = 0

        async def one(service: Locksmith) -> None:
            nonlocal cancelled, granted
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(service(f"key {chance.randrange(3)}").aacquire())
            # However slow the machine is, some must be granted: the longer none is, the later it cancels.
            loop.call_later(chance.uniform(0, 0.004 if granted else 0.004 + cancelled / 10_000), task.cancel)
            try:
                lease = await task
            except asyncio.CancelledError:
                cancelled += 1
            else:
                granted += 1
                assert lease is not None
                await lease.arelease()

        async def many(service: Locksmith) -> None:
            while cancelled < 2000:
                await asyncio.gather(*(one(service) for _ in range(5)))

        await asyncio.gather(*(many(service) for service in services))
        return cancelled, granted

    cancelled, granted = asyncio.run(storm())
    assert cancelled >= 2000
    assert granted > 0
    nothing_left(valkey)


def test_cancelled_release_gives_back(valkey: Deployment) -> None:
    """A release that is cancelled, at whatever step, has given the lock back all the same."""

    async def enumerate_steps() -> int:
        service = Locksmith()
        for steps in range(100):
            lease = await service("a").aacquire()
            assert lease is not None
            task = asyncio.ensure_future(lease.arelease())
            for _ in range(steps):
                await asyncio.sleep(0)
            was_running = task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if steps:  # before its first step it has not begun, and the lease is still held
                assert await service.ainfo("a") is None
            else:
                await lease.arelease()
            if not was_running:
                return steps
        return 100

    assert 1 < asyncio.run(enumerate_steps()) < 100
    nothing_left(valkey)


def test_cancelled_block(valkey: Deployment) -> None:
    """A task cancelled inside its block releases the lock on its way out."""

    async def run() -> None:
        service = Locksmith()
        inside = asyncio.Event()

        async def hold() -> None:
            async with service("a"):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(hold())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await service.ainfo("a") is None

    asyncio.run(run())
    nothing_left(valkey)


class Interrupted(BaseException):
    """What the signal raises, as Ctrl-C and Celery's soft time limit do."""


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Arm: raise `Interrupted` in the main thread, so many seconds from now."""

    def ring(number: int, frame: Any) -> None:
        while frame is not None:
            code = frame.f_code
            if code.co_name == "__del__" or code.co_filename.endswith(("_weakrefset.py", "weakref.py")):
                # Python would swallow it there, and nobody would be interrupted: a moment later.
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                return
            frame = frame.f_back
        raise Interrupted

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[return-value]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def interruptible(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """An alias without hiredis: interrupted some hundred times while it connects, that can crash the interpreter."""
    monkeypatch.setattr("redis.connection.HIREDIS_AVAILABLE", False)
    # redis-py reads it from a file as it connects, which an interruption would leave open, and Python complain of it.
    for module in ("redis.utils", "redis.connection"):
        monkeypatch.setattr(f"{module}.get_lib_version", lambda: "0", raising=False)
    cache = alias(f"{valkey.server.url}?client_name=interruptible", PARSER_CLASS="redis._parsers._RESP2Parser")
    with override_settings(CACHES={"default": valkey.cache, "interruptible": cache}):
        yield valkey


# redis-py reads a file when it connects, and an interruption may leave that to the garbage collector; or a coroutine,
# of which Python says that it was never awaited.
left_to_the_collector = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore:coroutine:RuntimeWarning"
)


@pytest.mark.slow
@left_to_the_collector
@pytest.mark.parametrize("contended", [False, True])
def test_five_hundred_interrupted_by_a_signal(
    interruptible: Deployment, alarm: Callable[[float], None], contended: bool
) -> None:
    """Of 500 acquires interrupted by a signal at random moments, none leaves a lock or a waiter behind."""
    chance = random.Random(500)
    other = Locksmith()
    service = Locksmith(redis="interruptible")
    interrupted = 0
    longest = 0.003 if contended else 0.0004
    with service("warm"):
        pass
    while interrupted < 500:
        holder: Lease | None = other("a").acquire() if contended else None
        try:
            try:
                alarm(chance.uniform(0.00001, longest))
                with service("a", blocking_timeout=0.002 if contended else 5):
                    alarm(0)
            except LockBusy:
                assert contended
            alarm(0)
        except (Interrupted, UnboundLocalError):  # the latter is what redis-py 5.0 makes of it in a constructor
            interrupted += 1
        if holder is not None:
            holder.release()
        assert service.info("a") is None, f"left behind after {interrupted} interruptions"
    nothing_left(interruptible)


@left_to_the_collector
def test_interrupted_waiter_gives_up_its_seat(interruptible: Deployment, alarm: Callable[[float], None]) -> None:
    """A thread interrupted while it waits blocks no other thread of its process."""
    service = Locksmith(redis="interruptible")
    holder = Locksmith()("a").acquire()
    assert holder is not None

    def wait_for_the_alarm() -> None:
        alarm(0.005)
        try:
            service("a").acquire()
        finally:
            alarm(0)  # whatever it was: pytest is not to be interrupted as it says so

    for _ in range(50):
        with pytest.raises(Interrupted):
            wait_for_the_alarm()
    holder.release()
    with stopwatch() as took:
        lease = service("a", blocking_timeout=30).acquire()
        assert lease is not None
        assert took() < 1
    lease.release()
    nothing_left(interruptible)
