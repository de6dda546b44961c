"""Code that waits for what a block around it holds, in whichever world; and what the end of a process gives back."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from django_locksmith import LockBusy, LockReentered, locksmith
from django_locksmith.api import said_once
from tests.helpers import ROOT
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.usefixtures("valkey")


def sync_helper() -> str:
    with locksmith("a", blocking_timeout=30):
        return "got it"


async def async_helper() -> str:
    async with locksmith("a", blocking_timeout=30):
        return "got it"


def from_a_block(call: Callable[[], Any]) -> None:
    with locksmith("a"):
        call()


def from_an_async_block(call: Callable[[], Awaitable[Any]]) -> None:
    async def block() -> None:
        async with locksmith("a"):
            await call()

    asyncio.run(block())


async def gathered() -> None:
    await asyncio.gather(async_helper())


async def through_all_worlds() -> None:
    await sync_to_async(lambda: async_to_sync(async_helper)())()


CHAINS: dict[str, Callable[[], None]] = {
    "sync - sync": lambda: from_a_block(sync_helper),
    "sync - async": lambda: from_a_block(lambda: async_to_sync(async_helper)()),
    "sync - asyncio.run": lambda: from_a_block(lambda: asyncio.run(async_helper())),
    "async - async": lambda: from_an_async_block(async_helper),
    "async - sync": lambda: from_an_async_block(lambda: sync_to_async(sync_helper)()),
    "async - thread": lambda: from_an_async_block(lambda: asyncio.to_thread(sync_helper)),
    "async - task": lambda: from_an_async_block(gathered),
    "async - wait_for": lambda: from_an_async_block(lambda: asyncio.wait_for(async_helper(), 60)),
    "async - sync - async": lambda: from_an_async_block(through_all_worlds),
    "decorator - sync": lambda: locksmith("a")(lambda: sync_helper())(),
    "lease as a block": lambda: from_a_lease(sync_helper),
}


def from_a_lease(call: Callable[[], Any]) -> None:
    with locksmith("a").take():
        call()


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_waits_for_itself(chain: Callable[[], None]) -> None:
    """Code that runs within a block, and wants what that holds, hears at once that it would wait for itself."""
    with pytest.raises(LockReentered) as caught:
        chain()
    assert "would be waited for within itself" in caught.value.details
    assert locksmith.info("a") is None


def test_after_the_block() -> None:
    """When the block is over, the same code may take the lock; after an inner block the outer one still counts."""
    with locksmith("a"):
        with locksmith("b"):
            pass
        with pytest.raises(LockReentered):
            sync_helper()
    assert sync_helper() == "got it"


def test_two_tasks_of_one_thread() -> None:
    """Blocks that two tasks enter in Django's one thread for synchronous code are not each other's."""

    async def consumer(lock: Any, entered: asyncio.Event | None, leave: asyncio.Event) -> None:
        await sync_to_async(lock.__enter__)()
        if entered is not None:
            entered.set()
        await leave.wait()
        await sync_to_async(lock.__exit__)(None, None, None)

    async def scenario() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(consumer(locksmith("a"), entered, leave))
        await entered.wait()
        with pytest.raises(LockBusy) as caught:
            await sync_to_async(locksmith("a", blocking_timeout=0.05).__enter__)()
        assert not isinstance(caught.value, LockReentered)
        leave.set()
        await first

    asyncio.run(scenario())


def test_thread_pool() -> None:
    """Threads of a pool have a context of their own: that they wait for their caller shows at the end of the wait."""
    with locksmith("a"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(LockBusy) as caught:
            pool.submit(locksmith("a", blocking_timeout=0.05).take).result()
        assert not isinstance(caught.value, LockReentered)


def test_task_that_outlives_the_block() -> None:
    """A task that may wait for the end of the block is started in a context of its own."""

    async def scenario() -> str:
        async with locksmith("a"):
            async with locksmith("b"):
                context = contextvars.Context()
                later: asyncio.Task[str] = context.run(asyncio.get_running_loop().create_task, async_helper())
                inherits = asyncio.create_task(async_helper())
                with pytest.raises(LockReentered):
                    await inherits
            poll_again = asyncio.get_running_loop().run_in_executor(None, poll, waits)
            await poll_again
        return await later

    def waits() -> bool:
        info = locksmith.info("a")
        return info is not None and info.waiters == 1

    assert asyncio.run(scenario()) == "got it"


def test_detached() -> None:
    """After `detach`, whoever took it waits for the lock as anybody else, also within the block."""
    with locksmith("a") as lease:
        lease.detach()
        waiting = contextvars.copy_context()
        released = in_thread(lambda: waiting.run(sync_helper))
        poll(lambda: (info := locksmith.info("a")) and info.waiters == 1)
        assert lease.release()
        assert released.result(10) == "got it"


# ---- in an event loop


ASKS: dict[str, Callable[[], Any]] = {
    "with": lambda: locksmith("a").__enter__(),
    "acquire": lambda: locksmith("a").acquire(),
    "acquire without waiting": lambda: locksmith("a", blocking=False).acquire(),
    "take": lambda: locksmith("a").take(),
    "decorator": lambda: locksmith("a")(lambda: 1)(),
    "callback": lambda: locksmith("a", lambda release: 1),
    "get_or_set": lambda: locksmith.get_or_set("a", 1),
    "single_flight": lambda: locksmith.single_flight("a", 60)(lambda: 1)(),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=list(ASKS))
def test_sync_in_async(ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In an event loop, which it would stop, synchronous waiting is refused, or allowed, as by Django's ORM."""

    async def ask_in_loop() -> Any:
        return ask()

    monkeypatch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)
    with pytest.raises(SynchronousOnlyOperation, match="would stop the event loop that it is called in; use "):
        asyncio.run(ask_in_loop())
    assert locksmith.info("a") is None
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    taken = asyncio.run(ask_in_loop())
    if hasattr(taken, "release"):
        taken.release()


def test_release_in_async() -> None:
    """What is held is given back, in whichever world: a lock that stays would be worse than a loop that waits."""

    async def release(lease: Any) -> Any:
        return lease.release()

    assert asyncio.run(release(locksmith("a").take()))


# ---- the end of the process

PROGRAM = """
import signal, sys, time
import django
from django.conf import settings
settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": sys.argv[1]}},
    INSTALLED_APPS=["django_locksmith"],
)
django.setup()
from django_locksmith import locksmith
"""
ENDS = {
    "normal": "lease = locksmith('a').acquire()",
    "redis-py's words": "lock = locksmith('a'); lock.acquire()",
    "error": "lease = locksmith('a').acquire(); 1 / 0",
    "exit": "lease = locksmith('a').acquire(); sys.exit(3)",
    "signal": "signal.signal(signal.SIGTERM, lambda *_: sys.exit()); lease = locksmith('a').acquire(); "
    "print('taken', flush=True); time.sleep(60)",
}


def run(valkey: Deployment, code: str) -> None:
    command = [sys.executable, "-c", PROGRAM + code, valkey.server.url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        if "print" in code:
            assert process.stdout is not None
            assert process.stdout.readline() == "taken\n"
            process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.parametrize("code", ENDS.values(), ids=list(ENDS))
def test_process_ends(valkey: Deployment, code: str) -> None:
    """What a process has taken by a call is given back when it ends as usual, or by a signal that it makes its end."""
    run(valkey, code)
    assert locksmith.info("a") is None


def test_process_ends_and_has_handed_it_over(valkey: Deployment) -> None:
    """What it has handed over stays: that is somebody else's to give back."""
    run(valkey, "lease = locksmith('a', timeout=60).acquire(); lease.detach()")
    info = locksmith.info("a")
    assert info is not None
    locksmith.clear(info)


def test_process_ends_while_redis_is_down(own_server: Deployment) -> None:
    """Where Redis does not answer, the end of a process waits for one answer, not for one for each lock."""
    code = "leases = [locksmith(str(n)).acquire() for n in range(50)]; print('taken', flush=True); time.sleep(60)"
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit()); " + code
    command = [sys.executable, "-c", PROGRAM + code, f"{own_server.server.url}?socket_timeout=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        own_server.server.pause()
        try:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        finally:
            own_server.server.resume()


def test_dropped(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is dropped unreleased is a ResourceWarning, and a line in the log, once."""
    monkeypatch.setattr(said_once, "_said", set())
    lease = locksmith("dropped").acquire()
    assert lease is not None
    with pytest.warns(ResourceWarning, match="'dropped'.* was dropped without being released"):
        del lease
    assert "'dropped' was dropped without being released" in caplog.text
    locksmith.clear("dropped")
