"""Whose a lease is: handed over, left behind by a task that failed, taken amid other code, or of a tenant."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import linecache
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from django_locksmith import LockBusy, LockReentered, Locksmith, locksmith
from django_locksmith.api.taken import Taken
from django_locksmith.redis.errands import Errand
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django_locksmith import Lock
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

# ---- handed over


def test_wait_for_a_lease_that_was_handed_over(valkey: Deployment) -> None:
    """What acquire() returned may be given back by another thread: its taker may wait for that."""
    lease = locksmith("a").acquire()
    assert lease is not None
    released = threading.Event()
    waiting = in_thread(lambda: (released.wait(10), lease.release()))
    waiter = locksmith("a", blocking_timeout=20)
    released.set()
    following = waiter.acquire()
    assert following is not None
    assert waiting.result(10)
    following.release()


def test_dispatcher(valkey: Deployment) -> None:
    """A task may take a lock for each job it begins, and wait until the job before has given it back."""

    async def scenario() -> list[bool]:
        async def job(lease: Any) -> bool:
            await asyncio.sleep(0)
            released: bool = await lease.arelease()
            return released

        jobs = []
        for _ in range(3):
            lease = await locksmith("a", blocking_timeout=20).atake()
            jobs.append(asyncio.create_task(job(lease)))
        return await asyncio.gather(*jobs)

    assert asyncio.run(scenario()) == [True, True, True]


def test_wait_that_nobody_could_end(valkey: Deployment) -> None:
    """Who waited for a lease of its own, which nobody gave back, hears that in the end."""
    lease = locksmith("a").acquire()
    assert lease is not None
    with pytest.raises(LockReentered):
        locksmith("a", blocking_timeout=0.05).take()
    with lease, pytest.raises(LockReentered):
        locksmith("a").take()  # the block gives it back: at once
    with pytest.raises(LockBusy) as caught, locksmith("a"):
        in_thread(locksmith("a", blocking_timeout=0.05).take).result(10)
    assert not isinstance(caught.value, LockReentered)


# ---- left behind


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("module_level", [False, True])
def test_lease_of_a_task_that_failed(valkey: Deployment, module_level: bool) -> None:
    """A renewed lease that a failed task or an ended thread left behind ends, also if the Lock object lives on."""
    service = Locksmith(timeout=0.6, renew=True)
    locks = [service("task"), service("thread")]

    async def work() -> None:
        lease = await (locks[0] if module_level else service("task")).aacquire()
        raise ValueError(lease)

    async def scenario() -> None:
        with pytest.raises(ValueError, match="Lease"):
            await asyncio.create_task(work())

    def thread() -> None:
        (locks[1] if module_level else service("thread")).acquire()

    with no_collector():
        asyncio.run(scenario())
        in_thread(thread).result(10)
        poll(lambda: not valkey.left_behind())


# ---- in the middle of other code


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_signal_handlers_may_take_locks(valkey: Deployment) -> None:
    """A handler that takes and gives back a lock, wherever it interrupts the code that does so, hangs nothing."""
    service = Locksmith(timeout=20, blocking_timeout=5)
    counts = {"handler": 0, "main": 0}
    inside: list[bool] = []

    def handler(*args: object) -> None:
        if not inside:
            inside.append(True)
            with service("handler"):
                counts["handler"] += 1
            inside.clear()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        until = time.monotonic() + 60
        while counts["handler"] < 500 and time.monotonic() < until:
            with service("main"):
                counts["main"] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert counts["handler"] >= 500
    assert counts["main"] > 0


class Stop(BaseException):
    """As Ctrl-C, or a time limit."""


def interrupted_at(number: int) -> Any:
    """A trace function that raises at the so-many-eth line, or beginning of a function, of the package."""
    left = number

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal left
        file = frame.f_code.co_filename
        if f"{os.sep}django_locksmith{os.sep}" not in file or event not in ("call", "line"):
            return None if event == "call" else trace
        if linecache.getline(file, frame.f_lineno).lstrip().startswith(("with ", "async with ")):
            return trace  # behind a block, Python lets no signal in before what closes it
        left -= 1
        if left == 0:
            sys.settrace(None)
            raise Stop
        return trace

    return trace


def ends(how: str, service: Locksmith, shared: Lock) -> None:
    """A block that holds the lock, traced from its end on."""
    if how in ("with lock", "with a lock that lives on"):
        with service("a") if how == "with lock" else shared:
            sys.settrace(ends.trace)  # type: ignore[attr-defined]  # set below
    elif how == "with lease":
        with service("a").take():
            sys.settrace(ends.trace)  # type: ignore[attr-defined]  # set below
    else:
        service("a", lambda release: sys.settrace(ends.trace))  # type: ignore[attr-defined]  # set below


# Python warns of a coroutine that was interrupted before its first line.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["with lock", "with a lock that lives on", "with lease", "callback"])
def test_interrupt_at_the_end_of_a_block(valkey: Deployment, how: str) -> None:
    """Wherever Ctrl-C comes at the end of a block, the lock is given back, at once or soon after."""
    before = sys.gettrace()
    service = Locksmith(timeout=60)
    shared = service("a")
    with shared:
        pass
    # Nothing can be done at once before the first line that could; and nobody drops a lock that lives on.
    number, stopped = 3 if how == "with a lock that lives on" else 0, True
    try:
        while stopped:
            number += 1
            ends.trace = interrupted_at(number)  # type: ignore[attr-defined]  # a function has room for it
            try:
                ends(how, service, shared)
                stopped = False
            except Stop:
                pass
            finally:
                sys.settrace(None)
            if how == "with a lock that lives on":
                assert not valkey.left_behind()
            poll(lambda: not valkey.left_behind())
    finally:
        sys.settrace(before)
    assert not shared._taken
    assert number > 50


def test_interrupt_behind_the_end_of_a_block(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt behind the last step gives nothing back that another thread has taken meanwhile."""
    shared = Locksmith(timeout=60)("a")
    other: list[Any] = []

    def exit_and_stop(taken: Taken, lease: Any) -> None:
        taken.remove(lease)
        other.append(in_thread(shared.__enter__).result(10))
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Taken, "exit", exit_and_stop)
        with pytest.raises(Stop), shared:
            pass
    assert other[0].held
    assert shared.locked()
    other[0].release()


def test_errand_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, the one who asks does it; the next one tries again."""

    def cannot(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    errand = Errand("errand", lambda: threading.current_thread().name)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        assert errand.result(1) == threading.current_thread().name
    assert errand.result(10) == "errand"


# ---- tenants

TENANT: contextvars.ContextVar[Any] = contextvars.ContextVar("tenant", default="a")


@contextmanager
def tenant(name: Any) -> Iterator[None]:
    before = TENANT.set(name)
    yield
    TENANT.reset(before)


def test_prefix_of_a_tenant(valkey: Deployment) -> None:
    """A function as PREFIX is asked each time: tenants share no locks and no lists, also in one thread."""
    service = Locksmith(prefix=lambda: f"{TENANT.get()}:")
    lock = service("k", blocking_timeout=5)
    with lock:
        assert lock.name == "a:k"
        with tenant("b"), lock:
            assert lock.name == "b:k"
            assert {"a:k", "b:k"} <= valkey.keys()
            assert [info.key for info in service.locks()] == ["k"]
            assert service("other").acquire()
            assert len(service.locks()) == 2
        assert [info.key for info in service.locks()] == ["k"]
        with pytest.raises(LockReentered):
            lock.take()


def test_sweep_is_of_the_tenant(valkey: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """What is looked for in the background are the tenant's locks that are over, though it knows no tenant there."""
    monkeypatch.setattr("django_locksmith.redis.lock_store._SWEEP_EVERY", 1)
    nobody: contextvars.ContextVar[str] = contextvars.ContextVar("nobody")
    service = Locksmith(prefix=lambda: f"{nobody.get()}:", timeout=0.05)
    nobody.set("t")
    assert service("lapses").acquire()
    with valkey.server.client() as client:
        poll(lambda: not client.exists("t:lapses"))
        with service("calm", timeout=60):
            poll(lambda: client.zscore("t:<index>", "t:lapses") is None)
    assert "failed unexpectedly" not in caplog.text


def test_renewal_is_of_the_tenant(valkey: Deployment) -> None:
    """What happens in the background to a lock goes by the name that it was taken by."""
    service = Locksmith(prefix=lambda: f"{TENANT.get()}:", timeout=6, renew=True)
    with tenant("b"):
        lease = service("k").take()
    first = lease.deadline
    poll(lambda: lease.deadline > first + 0.5)
    assert lease.release()
    assert not valkey.left_behind()


@pytest.mark.parametrize(("made", "said"), [(None, "must be a str"), (7, "must be a str"), ("x" * 300, "must have at")])
def test_prefix_that_is_none(valkey: Deployment, made: Any, said: str) -> None:
    """What a function makes that cannot be a prefix is an error that names the setting."""
    with tenant(made), pytest.raises(ImproperlyConfigured, match=rf"LOCKSMITH\['PREFIX'\]\(\) {said}"):
        Locksmith(prefix=TENANT.get)("a").acquire()


def test_no_prefix(deployment: Deployment, caller: Caller) -> None:
    """Without a prefix a lock has its plain name, as redis-py's; list and clear see our locks alone."""
    service = Locksmith(prefix="")
    for number in range(20):
        for server in deployment.servers:
            with server.client() as client, suppress(redis.exceptions.ResponseError):  # it is another node's
                client.set(f"cached:{number}", "value")
    lease = caller.acquire(service("report"))
    assert lease is not None
    assert "report" in deployment.keys()  # noqa: SIM118  # no dict
    assert [info.key for info in caller.locks(service)] == ["report"]
    assert [info.key for info in caller.clear(service, pattern="*")] == ["report"]
    assert any(key.startswith("cached:") for key in deployment.keys())  # noqa: SIM118  # no dict
