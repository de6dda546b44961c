"""Single flight when a caller gives up, is cancelled, or finds itself in a forked child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from django_locksmith import LockBusy, Locksmith
from tests.flights.test_flights import Crowd
from tests.helpers.callers import SyncCaller, in_thread
from tests.helpers.origins import Origin, TaskOrigin
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


# ---- who gives up, and who is given up


def test_given_up_after_max_hold(valkey: Deployment, caller: Caller) -> None:
    """A computation that hangs for longer than max_hold has a successor; what it brings in the end is not stored."""
    origin = Origin("hung", "new", held=True)
    answers = Crowd(valkey, caller, services=2, callers=1).wants(origin, lease=6, max_hold=6)
    origin.begun(2)
    origin.let_go(2)
    assert answers[1][0].result(10) == "new"
    origin.let_all_go()
    assert answers[0][0].result(10) == "hung"
    assert cache.get("a") == "new"


def test_host_out_of_patience(valkey: Deployment, caller: Caller) -> None:
    """The wait of the first caller of a process ends without those who came after it: they go on and get the value."""
    origin = Origin(1, held=True)
    leader = caller.start_get(Locksmith(), "a", caller.populate(origin), 60)
    origin.begun()
    service = Locksmith()
    host = caller.start_get(service, "a", 2, blocking_timeout=6)
    poll(lambda: valkey.blocked() == 1)
    local_followers = [caller.start_get(service, "a", 2) for _ in range(3)]
    poll(lambda: caller.local_followers(service) == 3)
    assert isinstance(host.exception(10), LockBusy)
    poll(lambda: caller.local_followers(service) == 2)  # one of them leads now
    assert not any(each.done() for each in local_followers)
    origin.let_all_go()
    assert [each.result(10) for each in local_followers] == [1] * 3
    assert leader.result(10) == 1


# ---- tasks that are cancelled


def test_cancelled_followers_change_nothing(valkey: Deployment) -> None:
    """Of hundreds who wait and are cancelled at random moments, none touches the flight: one call, the rest served."""

    async def storm() -> None:
        chance = random.Random(500)
        services = [Locksmith() for _ in range(3)]
        origin = TaskOrigin()
        leader = asyncio.ensure_future(services[0].aget_or_set("a", origin))
        await origin.begun()
        loop = asyncio.get_running_loop()
        staying = [asyncio.ensure_future(service.aget_or_set("a", origin)) for service in services * 3]
        cancelled = 0
        for _ in range(20):
            doomed = [asyncio.ensure_future(service.aget_or_set("a", origin)) for service in services * 5]
            for task in doomed:
                loop.call_later(chance.uniform(0, 0.03), task.cancel)
            for found in await asyncio.gather(*doomed, return_exceptions=True):
                cancelled += isinstance(found, asyncio.CancelledError)
        assert cancelled == 300
        assert not any(task.done() for task in (leader, *staying))
        origin.held.set()
        assert await asyncio.wait_for(asyncio.gather(leader, *staying), 10) == ["value"] * 10
        assert origin.calls == 1
        assert [len(service.runtime().loop().local_flights._flights) for service in services] == [0, 0, 0]

    asyncio.run(storm())


def test_cancelled_host_leaves_its_guests_alone(valkey: Deployment) -> None:
    """When the first caller of a process is cancelled while it waits, those who came after it go on and are served."""

    async def play() -> None:
        origin = TaskOrigin()
        service = Locksmith()
        leader = asyncio.ensure_future(Locksmith().aget_or_set("a", origin))
        await origin.begun()
        waiting = []
        for _ in range(4):
            waiting.append(asyncio.ensure_future(service.aget_or_set("a", origin)))
            await asyncio.to_thread(poll, lambda: valkey.blocked() == 1)
        for host in waiting[:3]:
            host.cancel()
            with pytest.raises(asyncio.CancelledError):
                await host
            await asyncio.to_thread(poll, lambda: valkey.blocked() == 1)
        origin.held.set()
        assert await asyncio.wait_for(asyncio.gather(leader, waiting[3]), 10) == ["value"] * 2
        assert origin.calls == 1

    asyncio.run(play())


def test_cancelled_at_random_moments(valkey: Deployment) -> None:
    """A caller cancelled at any moment of a flight that it leads keeps nobody waiting."""

    async def play() -> None:
        chance = random.Random(200)
        mine, other = Locksmith(), Locksmith()
        await mine.aget_or_set("warm", 1)
        cancelled = 0
        longest = 0.006
        for number in range(200):
            key = f"key {number}"
            task = asyncio.ensure_future(mine.aget_or_set(key, "mine"))
            guest = asyncio.ensure_future(mine.aget_or_set(key, "guest", blocking_timeout=20))
            asyncio.get_running_loop().call_later(chance.uniform(0, longest), task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            cancelled += task.cancelled()
            # However slow the machine is: some are cancelled in time, and some are not.
            longest = max(0.001, longest * (1.1 if task.cancelled() else 0.9))
            found = await other.aget_or_set(key, "other", blocking_timeout=20)
            assert await guest == found
        assert 10 < cancelled < 200

    asyncio.run(play())


def test_cancelled_while_the_value_is_stored(valkey: Deployment, local: Any, hooks: dict[str, Any]) -> None:
    """A task that is cancelled while it stores its value does not bring it back after an invalidation."""
    storing, go_on = threading.Event(), threading.Event()

    def store() -> None:
        storing.set()
        assert go_on.wait(30)

    async def play() -> None:
        leader = asyncio.ensure_future(Locksmith().aget_or_set("a", "old", 60, cache="local"))
        assert await asyncio.to_thread(storing.wait, 10)
        leader.cancel()
        invalidation = in_thread(lambda: Locksmith().invalidate("a", cache="local"))
        # Either it waits for the landing, or it is done at once.
        await asyncio.to_thread(poll, lambda: invalidation.done() or valkey.blocked() == 1)
        go_on.set()
        with contextlib.suppress(asyncio.CancelledError):
            await leader
        await asyncio.to_thread(invalidation.result, 10)

    hooks["set"] = store
    asyncio.run(play())
    assert local.get("a") is None


def test_synchronous_default_gets_no_coroutine(valkey: Deployment, service: Locksmith) -> None:
    """A coroutine function given to get_or_set is refused, with a word on what to use, and nothing is stored."""

    async def populate() -> int:
        return 1

    with pytest.raises(TypeError, match="use aget_or_set"):
        service.get_or_set("a", populate)
    assert cache.get("a") is None


def test_threads_and_tasks_share_flights(valkey: Deployment, service: Locksmith) -> None:
    """A task waits for what a thread computes, and a thread for what a task computes."""
    origin = Origin("by a thread", held=True)
    leader = in_thread(lambda: service.get_or_set("a", origin))
    origin.begun()
    task = in_thread(lambda: asyncio.run(service.aget_or_set("a", "by a task")))
    poll(lambda: valkey.blocked() == 1)
    origin.let_all_go()
    assert (leader.result(10), task.result(10)) == ("by a thread", "by a thread")


# ---- forks


def test_forked_during_a_flight(valkey: Deployment, service: Locksmith) -> None:
    """A child forked during a flight waits for it as any other process does, not at the gate of its parent."""
    origin = Origin(1, held=True)
    leader = in_thread(lambda: service.get_or_set("a", origin, 60))
    origin.begun()
    guest = in_thread(lambda: service.get_or_set("a", origin, 60))
    poll(lambda: SyncCaller().local_followers(service) == 1)
    child = os.fork()
    if child == 0:
        os._exit(_exit_code_of_child(service))
    poll(lambda: valkey.blocked() == 1)
    origin.let_all_go()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (leader.result(10), guest.result(10)) == (1, 1)
    assert origin.calls == 1


def _exit_code_of_child(service: Locksmith) -> int:
    try:
        return 0 if service.get_or_set("a", 2, 60, blocking_timeout=10) == 1 else 1
    except LockBusy:
        return 2
    except BaseException:
        return 3
