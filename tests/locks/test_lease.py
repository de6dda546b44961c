"""A lease over its life: renewed, lost, told in time, handed to a forked child."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import threading
import time
import weakref
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from django.test import override_settings

from django_locksmith import LockLost, Locksmith, clock, locksmith
from django_locksmith.api.lease_state import LeaseState
from tests.helpers.callers import in_thread
from tests.helpers.deployments import Deployment, alias
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, stopwatch, watching_the_machine

if TYPE_CHECKING:
    from django_locksmith import Lease
    from tests.helpers.callers import Caller


def test_renewed_while_its_holder_lives(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """A renewed lease outlives its own timeout many times, and nobody else gets the lock."""
    lease = caller.acquire(service("a", timeout=3, renew=True))
    assert lease is not None
    first = lease.deadline
    poll(lambda: lease.deadline > first + 6, within=30)
    assert lease.held
    assert caller.acquire(Locksmith()("a"), blocking=False) is None
    caller.release(lease)


@pytest.fixture
def _no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One grant in 1,024 has a thread look for locks that are over."""
    monkeypatch.setattr("django_locksmith.redis.lock_store._SWEEP_EVERY", 10**18)


@pytest.mark.usefixtures("_no_sweeps")
def test_many_leases_one_thread(valkey: Deployment, service: Locksmith) -> None:
    """Any number of renewed leases, of threads and tasks, take one thread for renewal and one connection."""
    before = set(threading.enumerate())
    leases = [service(f"key {number}", timeout=5, renew=True).acquire() for number in range(200)]

    async def hold() -> None:
        async with service("a task's", timeout=5, renew=True) as lease:
            assert len(set(threading.enumerate()) - before) <= 2  # renewal, and the watch over deadlines
            first = lease.deadline
            while lease.deadline == first:  # noqa: ASYNC110  # a renewal sets no event
                await asyncio.sleep(0)

    asyncio.run(hold())
    first = [lease.deadline for lease in leases if lease]
    poll(lambda: all(lease.deadline > deadline for lease, deadline in zip(leases, first, strict=True) if lease))
    assert all(lease.held for lease in leases if lease)
    for lease in leases:
        assert lease is not None
        lease.release()


def test_max_hold_ends_renewal(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """Renewal ends so that the lock is free max_hold after its grant, whatever its holder does."""
    lost = threading.Event()
    with stopwatch() as took:
        lease = caller.acquire(service("a", timeout=4, renew=True, max_hold=6, on_lost=lambda lease: lost.set()))
        assert lease is not None
        following = caller.acquire(Locksmith()("a"))
        assert took() < 6 + 0.5
    assert following is not None
    assert following.fence - lease.fence > 5_400_000  # a fence is the server's time, in µs
    assert lost.wait(5)
    with pytest.raises(LockLost):
        caller.release(lease)
    caller.release(following)


def test_dropped_lease_is_not_renewed(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """A renewed lease that is dropped without a release ends by itself, instead of holding the lock for ever."""
    lease = caller.acquire(service("a", timeout=5, renew=True))
    assert lease is not None
    reference, deadline = weakref.ref(lease), lease.deadline
    poll(lambda: (it := reference()) and it.deadline > deadline)
    del lease
    gc.collect()
    following = caller.acquire(Locksmith()("a", blocking_timeout=20))
    assert following is not None
    caller.release(following)


def test_loss_found_by_renewal(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """When Redis has lost the lock, its holder is told by the next renewal, long before the lease would have ended."""
    told: list[Lease] = []
    lease = caller.acquire(service("a", timeout=6, renew=True, on_lost=told.append))
    assert lease is not None
    with stopwatch() as took:
        valkey.flush()
        poll(lambda: told)
        assert took() < 3
    assert told == [lease]
    assert not lease.held
    with pytest.raises(LockLost, match="when it was to be renewed"):
        lease.ensure_held()


def test_unknown_is_not_lost(own_server: Deployment, service: Locksmith, caller: Caller, caplog: Any) -> None:
    """A server that keeps silent for a part of the lease does not end it: renewal goes on when it answers again."""
    told: list[Any] = []
    lease = caller.acquire(service("a", timeout=6, renew=True, on_lost=told.append))
    assert lease is not None
    first = lease.deadline
    own_server.server.pause()
    poll(lambda: "no answer to the renewal of 1 of 1 locks" in caplog.text)
    assert lease.held
    assert lease.deadline == first
    own_server.server.resume()
    poll(lambda: lease.deadline > first)
    poll(lambda: time.monotonic() > first)
    assert lease.held
    assert not told
    caller.release(lease)


def test_on_lost_of_a_task_runs_in_its_loop(valkey: Deployment) -> None:
    """on_lost of a lease that a task took is called in the task's event loop, where it may cancel the task."""

    async def run() -> bool:
        service = Locksmith()
        task = asyncio.current_task()
        assert task is not None
        ran_in: list[bool] = []

        def stop(lease: Lease) -> None:
            ran_in.append(asyncio.get_running_loop() is loop)
            task.cancel()

        loop = asyncio.get_running_loop()
        async with service("a", timeout=0.2, on_lost=stop):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return ran_in == [True]
        return False

    with pytest.raises(LockLost):
        asyncio.run(run())


def test_failing_on_lost_is_logged(valkey: Deployment, service: Locksmith, caplog: Any) -> None:
    """An on_lost that fails is reported in the log and disturbs no other lease."""
    other = threading.Event()

    def fail(lease: Lease) -> None:
        raise KeyError("mine")

    leases = [
        service("a", timeout=0.1, on_lost=fail).acquire(),
        service("b", timeout=0.1, on_lost=lambda lease: other.set()).acquire(),
    ]
    assert other.wait(5)
    poll(lambda: "on_lost of the lock 'a' failed" in caplog.text)
    assert not any(lease.held for lease in leases if lease)


def test_told_before_the_next_one_gets_in(valkey: Deployment) -> None:
    """A holder cut off from Redis knows that its lease is lost before the server lets another in: 100 of 100 times."""
    told: dict[str, float] = {}
    held_when_told: list[bool] = []
    held_when_entered: list[bool] = []
    entered: dict[str, float] = {}

    def on_lost(lease: Lease) -> None:
        told[lease.key] = time.monotonic()
        held_when_told.append(lease.held)

    with proxy_to(valkey.server.port) as proxy:
        near = alias(proxy.url, SOCKET_TIMEOUT=1)
        with override_settings(CACHES={"default": valkey.cache, "near": near}):
            cut_off, rivals = Locksmith(redis="near"), Locksmith()
            leases: dict[str, Lease] = {}
            for number in range(100):
                lock = cut_off(f"key {number}", timeout=2, renew=True, on_lost=on_lost)
                lease = lock.acquire()
                assert lease is not None
                leases[lock.key] = lease

            def enter(key: str) -> None:
                with rivals(key, blocking_timeout=20):
                    entered[key] = time.monotonic()
                    held_when_entered.append(leases[key].held)

            waiters = [in_thread(lambda key=key: enter(key)) for key in leases]
            proxy.flowing.clear()
            with watching_the_machine() as stalled:
                for waiter in waiters:
                    waiter.result(30)
                # Where the machine stood still when the leases ended, all are woken at once.
                late = {key: told.get(key) for key in leases if told.get(key, inf) >= entered[key] + stalled()}
            assert late == {}
            assert len(told) == 100
            assert not any(held_when_told)
            assert not any(held_when_entered)


@pytest.mark.usefixtures("_no_sweeps")
def test_lost_lease_without_listeners_starts_no_thread(valkey: Deployment) -> None:
    """A plain lease costs no thread: `held` tells by the clock alone."""
    before = set(threading.enumerate())
    lease = Locksmith()("a", timeout=0.1).acquire()
    assert lease is not None
    assert not set(threading.enumerate()) - before
    poll(lambda: not lease.held)
    assert lease.lost
    assert lease.remaining == 0


def test_interrupted_as_it_is_made(valkey: Deployment, service: Locksmith, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that Ctrl-C hits before it is whole is dropped without a word, and leaves nothing."""
    made = LeaseState.__init__

    def interrupted(lease: Any, *arguments: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(LeaseState, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        service("a").acquire()
    gc.collect()  # what __del__ raises fails the test
    assert LeaseState.__init__ is made
    assert not valkey.left_behind()


def test_forked_child_owns_nothing(valkey: Deployment, service: Locksmith) -> None:
    """A forked child holds nothing that its parent held, cannot release it, and uses connections of its own."""
    lease = service("a", timeout=10, renew=True).acquire()
    assert lease is not None
    with service("b") as held:
        child = os.fork()
        if child == 0:
            os._exit(_exit_code_of_child(service, lease, held))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert lease.held
    assert lease.release()  # Redis has it still


def _exit_code_of_child(service: Locksmith, *inherited: Lease) -> int:
    for lease in inherited:
        if lease.held:
            return 1
        try:
            lease.release()
        except LockLost:
            continue
        return 2
    if service("a").acquire(blocking=False) is not None:
        return 3
    with service("c", timeout=3, renew=True) as own:
        first = own.deadline
        poll(lambda: own.deadline > first)  # the child's own renewal
    return 0


def test_waits_and_locks_survive_a_fork(valkey: Deployment, service: Locksmith) -> None:
    """A fork in the middle of waits and renewals does not disturb the parent."""
    holder = Locksmith()("a", timeout=3, renew=True).acquire()
    assert holder is not None
    waiter = in_thread(lambda: service("a").acquire())
    poll(lambda: (info := service.info("a")) and info.waiters == 1)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
    deadline = holder.deadline
    poll(lambda: holder.deadline > deadline)
    holder.release()
    following = waiter.result(10)
    following.release()


def test_each_loop_has_its_own_connections(valkey: Deployment, service: Locksmith) -> None:
    """One service serves any number of event loops, one after the other, and closes its connections with each."""

    async def use() -> None:
        async with service("a"):
            pass

    with valkey.server.client() as client:
        before = len(client.client_list())
        for _ in range(5):
            asyncio.run(use())
        poll(lambda: len(client.client_list()) <= before)
    assert len(service.runtime()._loops) == 1


def test_overrun_says_what_to_do(valkey: Deployment, caller: Caller) -> None:
    """A block that outlasts its lease hears by how much, and what to write."""
    with pytest.raises(LockLost) as caught:
        caller.within(locksmith("a", timeout=0.05), lambda lease: poll(lambda: clock.now() > lease.deadline + 0.1))
    assert re.search(
        r"its lease of 0.05 s ran out [\d.]+ s ago; give it a longer timeout, or renew=True", caught.value.why
    )
