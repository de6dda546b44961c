"""What is promised of those who sleep until their places come: one of them listens for all of the process."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest

from django_locksmith import Locksmith, locksmith
from django_locksmith.local.events import ThreadEvent
from django_locksmith.local.sleepers import Sleepers
from tests.helpers.callers import in_thread
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, watching_the_machine
from tests.rates.test_rate_limits import Bookings, quick

if TYPE_CHECKING:
    from concurrent.futures import Future

    from django_locksmith.api.rate_limit import Booking, RateLimit
    from django_locksmith.local.sleepers import Line
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def all_asleep(deployment: Deployment, caller: Caller, limit: RateLimit, many: int) -> list[Future[Booking]]:
    """So many callers who sleep, in order, and one of them listens."""
    caller.take(limit)
    booked = Bookings(deployment)
    asked = []
    for number in range(many):
        asked.append(caller.start_take(limit))
        poll(lambda: booked.are(number + 1))  # noqa: B023  # called on the spot
    poll(lambda: listening(deployment))
    return asked


def listening(deployment: Deployment) -> list[dict[str, Any]]:
    """The connections that wait for news of a stream."""
    found = []
    for server in deployment.servers:
        with server.client() as client:
            found += [each for each in client.client_list() if each["cmd"] == "xread" and "b" in each["flags"]]
    return found


def test_one_listens(deployment: Deployment, caller: Caller) -> None:
    """However many sleep in a process, one connection waits, and a call costs few requests more than its booking."""
    limit = quick(1, 0.3)
    deployment.forget_commands()
    with watching_the_machine() as stalled:
        asked = all_asleep(deployment, caller, limit, 12)
        assert len(listening(deployment)) == 1
        for each in asked:
            each.result(60)
        # Where the machine stood still, many places came at once, and many of them while nobody could read the news.
        more = 12 if stalled() > 0.1 else 0
    commands = deployment.commands()
    looks = sum(many for name, many in commands.items() if name in ("evalsha", "eval")) - 13
    assert commands.get("xread", 0) <= 2 + more
    assert looks <= 4 + more, "who sleeps last has nobody who listens, nor have those for whom it was not worth it"


def test_pause_is_heard_by_all(deployment: Deployment, caller: Caller) -> None:
    """A pause moves the places of all who sleep, however few of them look by themselves, and keeps their order."""
    limit = quick(1, 0.8)
    asked = all_asleep(deployment, caller, limit, 4)
    begun = time.monotonic()
    caller.api_says(limit, "pause", 3)
    times = [each.result(60).at or 0.0 for each in asked]
    assert time.monotonic() - begun > 3
    assert times == sorted(times)
    assert all(later - sooner >= 0.8 for sooner, later in pairwise(times))


def test_listener_is_cut_off(valkey: Deployment, caller: Caller) -> None:
    """Where the connection that waits for news is lost, nobody misses a pause: then each looks as he wakes."""
    limit = quick(1, 1.5)
    asked = all_asleep(valkey, caller, limit, 3)
    before = time.monotonic()
    with valkey.server.client() as client:
        for each in listening(valkey):
            client.client_kill_filter(_id=each["id"])
    poll(lambda: not listening(valkey))
    caller.api_says(limit, "pause", 3)
    for each in asked:
        each.result(60)
    assert time.monotonic() - before > 3


def test_listener_hears_nothing(valkey: Deployment, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the connection that waits for news goes silent, it is not trusted until the last place has come."""
    monkeypatch.setattr("django_locksmith.policy.rate_limits._LISTENS_FOR", 0.5)
    with proxy_to(valkey.server.port) as proxy:
        limit = quick(1, 4, service=Locksmith(redis=f"{proxy.url}?socket_timeout=0.5"))
        caller.take(limit)
        proxy.keep_back(lambda data: b"XREAD" in data)
        asked = [caller.start_take(limit), caller.start_take(limit)]
        poll(lambda: proxy.kept_back)
        before = time.monotonic()
        quick(1, 4).pause(5)
        for each in asked:
            each.result(60)
            assert time.monotonic() - before > 5


def test_between_two_listeners() -> None:
    """A place that comes while nobody reads is asked for; but not by who read until it came."""
    sleepers = Sleepers(ThreadEvent)
    soon, late = sleepers.join(0, 10.0), sleepers.join(0, 20.0)
    assert not soon.is_covered
    assert late.begin_to_listen(5.0)
    assert not late.is_covered, "there is no line yet"
    sleepers.line = cast("Line", object())
    assert soon.is_covered
    late.end_listening()
    assert not soon.is_covered
    sleepers.read_until = 20.0
    assert late.is_covered


def test_listener_goes(valkey: Deployment) -> None:
    """A task that is cancelled while it listens leaves that to another one."""
    limit = quick(1, 1.5)

    async def work() -> float:
        await limit.atake()
        booked = Bookings(valkey)
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(limit.atake()))
            await asyncio.to_thread(poll, lambda: booked.are(number + 1))  # noqa: B023  # called on the spot
        (first,) = await asyncio.to_thread(poll, lambda: listening(valkey))
        tasks.pop(1).cancel()  # when he came there was somebody to listen for
        await asyncio.to_thread(poll, lambda: [each for each in listening(valkey) if each["id"] != first["id"]])
        begun = time.monotonic()
        await limit.apause(3)
        await asyncio.gather(*tasks)
        return time.monotonic() - begun

    assert asyncio.run(work()) > 3


def test_nothing_moves_for_nobody(valkey: Deployment) -> None:
    """What an API says wakes nobody, where no place is moved by it."""
    limit = quick(5, 30)
    limit.take()
    limit.pause(1)
    limit.sync(remaining=4, reset=20)
    with valkey.server.client() as client:
        assert not client.keys("*<moved>*")


@pytest.mark.parametrize("stored", ["a string", "an entry"])
def test_what_others_store_there(valkey: Deployment, stored: str) -> None:
    """What stands in place of the news, and is none of ours, keeps nobody from his place."""
    limit = quick(1, 0.6)
    limit.take()
    with valkey.server.client() as client:
        (state,) = client.keys("*<rate>*")
        news = state.replace("<rate>", "<moved>")
        if stored == "a string":
            client.set(news, "x")
        else:
            client.xadd(news, {"x": "y"})
        asked = [in_thread(limit.take) for _ in range(3)]
        for each in asked:
            assert each.result(20).waited < 5
        client.delete(news)
    assert locksmith.locks() == []
