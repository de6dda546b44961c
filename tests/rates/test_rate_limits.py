"""What is promised of rate limits, for threads and tasks, on each kind of deployment."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from redis import exceptions as redis_errors

from django_locksmith import Locksmith, LockUnavailable, RetryLater, locksmith
from django_locksmith.api import said_once
from django_locksmith.api.api_headers import Said, read_headers
from django_locksmith.api.rate_limit import Booking, RateLimit
from django_locksmith.local.events import ThreadEvent
from django_locksmith.rates import Rate, Window, read_rate
from django_locksmith.redis import sync_transport
from django_locksmith.redis.async_transport import AsyncTransport
from django_locksmith.redis.wire import exchange
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def quick(calls: int, seconds: float, *more: tuple[int, float], name: str = "api", **how: Any) -> RateLimit:
    """A limit whose windows are shorter than those of a rate that is written out.

    With a wide one, so that Redis does not forget it while a busy machine makes up its mind.
    """
    windows = tuple(Window(*window) for window in ((calls, seconds), *more, (10_000, 60)))
    return RateLimit(
        how.get("service", locksmith).runtime, name, Rate("quick", windows), how.get("wait"), how.get("caution", 0.02)
    )


def most_within(times: list[float], seconds: float) -> int:
    """The most of these times that lie in one window, wherever it begins."""
    return max(sum(1 for other in times if first <= other < first + seconds - 1e-5) for first in times)


class Bookings:
    """How many places have been booked, and not given back, since this was made: after a first call."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._before = self._number()

    def _number(self) -> int:
        for server in self._deployment.servers:
            with server.client() as client:
                for key in client.keys("*<rate>*"):
                    return int(client.hget(key, "n"))
        raise AssertionError("nothing was ever booked")

    def are(self, many: int) -> bool:
        return self._number() - self._before == many


def test_never_more_than_allowed(deployment: Deployment, caller: Caller) -> None:
    """Of many callers at once, no more than the rate allows come to their places in any window, and none is lost."""
    limit = quick(4, 0.3, (6, 0.8))
    asked = [caller.start_take(limit) for _ in range(16)]
    times = sorted(booking.at for each in asked if (booking := each.result(60)).at is not None)
    assert len(times) == 16
    assert most_within(times, 0.3) <= 4
    assert most_within(times, 0.8) <= 6


def test_in_order_of_arrival(deployment: Deployment, caller: Caller) -> None:
    """Who comes first is served first, and comes to his place no sooner than it is there."""
    limit = quick(1, 0.2)
    first = caller.take(limit)
    booked = Bookings(deployment)
    asked: list[Future[Booking]] = []
    for number in range(4):
        asked.append(caller.start_take(limit))
        poll(lambda: booked.are(number + 1))  # noqa: B023  # called on the spot
    bookings = [first, *(each.result(60) for each in asked)]
    times = [booking.at or 0.0 for booking in bookings]
    assert times == sorted(times)
    assert all(later - sooner >= 0.2 for sooner, later in pairwise(times))
    assert max(booking.waited for booking in bookings) > 0


def test_one_who_does_not_wait(deployment: Deployment, caller: Caller) -> None:
    """Where the place is further away than the caller would wait, he is told for how long, and nothing is booked."""
    limit = quick(1, 30)
    assert caller.take(limit).waited < 5
    booked = Bookings(deployment)
    for how in ({"blocking": False}, {"blocking_timeout": 3}):
        with pytest.raises(RetryLater) as caught:
            caller.take(limit, **how)
        assert 25 < caught.value.seconds < 30.1
    assert booked.are(0)


def test_cost(deployment: Deployment, caller: Caller) -> None:
    """A call that costs more takes as much of the allowance."""
    limit = quick(10, 30)
    caller.take(limit, cost=7)
    caller.take(limit, cost=3)
    with pytest.raises(RetryLater):
        caller.take(limit, blocking=False)
    with pytest.raises(ValueError, match="cost must be from 1 to 10, for 'quick', not 11"):
        caller.take(limit, cost=11)
    with pytest.raises(TypeError, match="cost must be a whole number"):
        caller.take(limit, cost=True)


def test_pause(deployment: Deployment, caller: Caller) -> None:
    """A pause is heard by those who sleep already: nobody calls before it is over, and then in the same order."""
    limit = quick(1, 0.2, (2, 3))
    caller.take(limit)
    caller.take(limit)
    booked = Bookings(deployment)
    asked: list[Future[Booking]] = []
    for number in range(2):
        asked.append(caller.start_take(limit))  # for a place in three seconds
        poll(lambda: booked.are(number + 1))  # noqa: B023  # called on the spot
    begun = time.monotonic()
    caller.api_says(limit, "pause", 3.5)
    ended = [each.result(60) and time.monotonic() for each in asked]
    assert ended[0] - begun >= 3.5
    assert ended == sorted(ended)
    caller.api_says(limit, "pause", 20)
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking=False)
    assert 19 < caught.value.seconds < 20.1
    caller.api_says(limit, "pause", 1)  # shorter than the one in force
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking_timeout=10)
    assert caught.value.seconds > 18


def test_pause_that_is_longer_than_the_wait(valkey: Deployment, caller: Caller) -> None:
    """Who sleeps for a place that a pause moves out of his wait is told, and his place is given back."""
    limit = quick(1, 2)
    caller.take(limit)
    booked = Bookings(valkey)
    asked = caller.start_take(limit, blocking_timeout=4)
    poll(lambda: booked.are(1))
    caller.api_says(limit, "pause", 60)
    with pytest.raises(RetryLater) as caught:
        asked.result(60)
    assert 50 < caught.value.seconds < 60.1
    assert booked.are(0)


def test_retry_later_pauses(deployment: Deployment) -> None:
    """A `RetryLater` out of the block, or the decorated function, pauses the limit for all."""
    limit = quick(10, 0.1)
    with pytest.raises(RetryLater), limit:
        raise RetryLater(30)
    with pytest.raises(RetryLater) as caught:
        limit.take(blocking=False)
    assert 28 < caught.value.seconds < 30.1

    other = quick(10, 0.1, name="other")

    @other
    async def call() -> None:
        raise RetryLater("40")

    with pytest.raises(RetryLater):
        asyncio.run(call())
    with pytest.raises(RetryLater) as caught:
        other.take(blocking=False)
    assert 38 < caught.value.seconds < 40.1


def test_what_the_api_has_counted(deployment: Deployment, caller: Caller) -> None:
    """Calls that the API has counted, and nobody here knows of, count until its window ends; more change nothing."""
    limit = quick(10, 60)
    caller.take(limit)
    caller.api_says(limit, "sync", remaining=9, reset=30)  # ours
    caller.api_says(limit, "sync", remaining=2, reset=30)
    caller.take(limit, blocking=False)
    caller.take(limit, blocking=False)
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking=False)
    assert 28 < caught.value.seconds < 30.1
    caller.api_says(limit, "sync", remaining=10, reset=30)
    with pytest.raises(RetryLater):
        caller.take(limit, blocking=False)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Retry-After": "20"}, Said(20.0)),
        ({"retry-after": "soon"}, Said()),
        ({"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "30"}, Said(None, 7, 30.0, 60)),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": "12"}, Said(None, 0, 12.0)),
        (
            {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "5", "RateLimit-Reset": "9"},
            Said(None, 5, 9.0, 100),
        ),
        ({"RateLimit": '"burst";r=50;t=30, "daily";r=3;t=400', "Retry-After": "1"}, Said(1.0, 3, 400.0)),
        ({"RateLimit": "limit=10"}, Said()),
        ({"X-RateLimit-Remaining": "many", "X-RateLimit-Reset": "30"}, Said()),
        ({"Content-Type": "text/html"}, Said()),
        ({}, Said()),
    ],
)
def test_headers(headers: dict[str, str], said: Said) -> None:
    """The headers of APIs are read in the forms that are about; what cannot be read says nothing."""
    assert read_headers(headers) == said


def test_headers_with_times() -> None:
    """A reset may be a time; and so may the end of a pause."""
    at = int(time.time()) + 100
    said = read_headers(
        {"X-RateLimit-Remaining": "7", "X-RateLimit-Reset": str(at), "Retry-After": formatdate(at, usegmt=True)}
    )
    assert said.reset == pytest.approx(100, abs=2)
    assert said.pause == pytest.approx(100, abs=2)


def test_sync_from_headers(valkey: Deployment, caller: Caller) -> None:
    """What a response says by its headers is heard by all."""
    limit = quick(10, 60)
    caller.api_says(limit, "sync_from", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"})
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking=False)
    assert 28 < caught.value.seconds < 30.1
    caller.api_says(limit, "sync_from", {"Retry-After": "50"})
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking=False)
    assert 48 < caught.value.seconds < 50.1


def test_cancelled(valkey: Deployment) -> None:
    """A task that is cancelled while it sleeps gives its place back."""
    limit = quick(1, 30)
    limit.take()
    booked = Bookings(valkey)

    async def give_up() -> None:
        task = asyncio.create_task(limit.atake())
        await asyncio.to_thread(poll, lambda: booked.are(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert booked.are(0)


def test_cancelled_before_it_is_heard(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does one that is cancelled when Redis has booked the place, and its reply is still on its way."""
    limit = quick(1, 30)
    real = AsyncTransport.read

    async def give_up() -> None:
        await limit.atake()
        booked = Bookings(valkey)
        on_its_way = asyncio.Event()

        async def read(self: AsyncTransport, node: Any, conn: Any) -> Any:
            monkeypatch.setattr(AsyncTransport, "read", real)
            await real(self, node, conn)
            on_its_way.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(AsyncTransport, "read", read)
        task = asyncio.create_task(limit.atake())
        await on_its_way.wait()
        assert booked.are(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert booked.are(0)

    asyncio.run(give_up())


def test_interrupted_before_it_is_heard(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a thread."""
    limit = quick(1, 30)
    limit.take()
    booked = Bookings(valkey)

    def interrupted(*request: Any) -> Any:
        exchange(*request)
        assert booked.are(1)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(sync_transport, "exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        limit.take()
    assert booked.are(0)


def test_reply_that_is_lost(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks once more, for the connection broke before the reply came, has booked one place."""
    limit = quick(1, 0.5)
    limit.take()
    booked = Bookings(valkey)

    def lost(conn: Any, request: bytes) -> Any:
        exchange(conn, request)
        assert booked.are(1)
        monkeypatch.undo()
        raise redis_errors.ConnectionError("the reply is lost")

    monkeypatch.setattr(sync_transport, "exchange", lost)
    assert limit.take().waited > 0
    assert booked.are(1)


def test_reply_that_is_lost_until_the_place_has_come(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears of his place when it is over, has another one instead: he would call late, and the next too early."""
    limit = quick(2, 30)
    limit.take()
    booked = Bookings(valkey)

    def lost(conn: Any, request: bytes) -> Any:
        _, now, *_ = exchange(conn, request)
        assert booked.are(1)
        with valkey.server.client() as client:
            poll(lambda: microseconds(client) > now)
            asked_again.append(microseconds(client))
        monkeypatch.undo()
        raise redis_errors.ConnectionError("the reply is lost")

    def microseconds(client: Any) -> int:
        seconds, more = client.time()
        return int(seconds) * 1_000_000 + int(more)

    asked_again: list[int] = []
    monkeypatch.setattr(sync_transport, "exchange", lost)
    limit.take()
    assert booked.are(1)
    with valkey.server.client() as client:
        (schedule,) = client.keys("*<places>*")
        assert int(client.lindex(schedule, -1)) >= asked_again[0]


def test_stopped_until_a_place_that_was_moved_has_come(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that a pause has moved too far is taken all the same, where it has come by the time that this shows."""
    limit = quick(1, 0.3)
    limit.take()

    async def stopped(event: ThreadEvent, seconds: float) -> None:
        monkeypatch.undo()
        with stopwatch() as took:
            limit.pause(0.6)
            poll(lambda: took() > 0.8)

    monkeypatch.setattr(ThreadEvent, "wait", stopped)
    assert limit.take(blocking_timeout=0.5).waited > 0.6


def test_interrupted(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a thread sleeps gives the place back."""
    limit = quick(1, 30)
    limit.take()
    booked = Bookings(valkey)

    async def interrupt(event: ThreadEvent, seconds: float) -> None:
        assert booked.are(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadEvent, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        limit.take()
    assert booked.are(0)


def test_without_redis(own_server: Deployment, caller: Caller, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Redis gives no answer, each process keeps to the rate by itself, by what it knows, and says so once."""
    monkeypatch.setattr(said_once, "_said", set())
    limit = quick(2, 30)
    assert caller.take(limit).at is not None
    own_server.server.kill()
    assert caller.take(limit).at is None
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking_timeout=3)
    assert caught.value.seconds > 15, "the one that Redis gave counts, too"
    assert caplog.text.count("is kept by each process for itself") == 1
    with pytest.raises(LockUnavailable):
        caller.api_says(limit, "pause", 60)
    with pytest.raises(RetryLater) as caught:
        caller.take(limit, blocking_timeout=3)
    assert caught.value.seconds > 50, "what the API said is known here, at least"


def test_by_memory_in_time(own_server: Deployment, caller: Caller) -> None:
    """And its callers come to their places as they do with Redis: no more in any window than the rate allows."""
    limit = quick(2, 0.5)
    own_server.server.kill()
    times = []
    for _ in range(5):
        caller.take(limit)
        times.append(time.monotonic())
    assert all(later - sooner >= 0.5 for sooner, later in zip(times, times[2:], strict=False))


def test_decorator(valkey: Deployment) -> None:
    """A decorated function has a limit of its own for each value of the template, with defaults applied."""
    booked: list[str] = []

    @locksmith.rate_limit("github:{token_id}", "1/30s", blocking_timeout=0)
    def call(token_id: int = 7) -> int:
        booked.append(f"github:{token_id}")
        return token_id

    assert (call(), call(8)) == (7, 8)
    with pytest.raises(RetryLater):
        call(7)
    assert booked == ["github:7", "github:8"]
    with pytest.raises(ValueError, match="is a template for a decorated function"):
        locksmith.rate_limit("github:{token_id}", "1/30s").take()


def test_around_code(valkey: Deployment) -> None:
    """`with` and `async with` give the booking; results and errors pass."""
    limit = quick(10, 0.1)
    with limit as booking:
        assert (booking.name, booking.cost) == ("api", 1)

    async def work() -> int:
        async with limit as booking:
            return booking.cost

    assert asyncio.run(work()) == 1
    with pytest.raises(ZeroDivisionError), limit:
        1 / 0  # noqa: B018  # it is to fail


def test_by_name(valkey: Deployment) -> None:
    """A rate that the settings know by name needs no other word; caution is theirs, or its own."""
    with override_settings(LOCKSMITH={"RATE_LIMITS": {"twitter": "15/15m"}, "RATE_CAUTION": 1}):
        service = Locksmith()
        limit = service.rate_limit("twitter")
        assert limit.rate == Rate("15/15m", (Window(15, 900.0),))
        assert limit.caution == 1
        assert service.rate_limit("twitter", caution=0.5).caution == 0.5
        with pytest.raises(ValueError, match=r"has no 'github' \(it has 'twitter'\); name it there, or give a rate"):
            service.rate_limit("github")


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("15/15m", [(15, 900)]),
        ("20/s, 1000/h", [(20, 1), (1000, 3600)]),
        ("100 / day", [(100, 86400)]),
        ("5/10 seconds", [(5, 10)]),
        ("1/2hours,3/d", [(1, 7200), (3, 86400)]),
    ],
)
def test_rates(text: str, windows: list[tuple[int, float]]) -> None:
    """Rates are read as people write them."""
    assert list(read_rate(text).windows) == windows


@pytest.mark.parametrize(
    "text", ["", "15", "15/", "15/x", "0/s", "-1/s", "20000/h", "1/0s", "1/32d", "1/s,", "1/99999999s"]
)
def test_bad_rates(text: str) -> None:
    """What is no rate is refused with words that name it, as an argument and as a setting."""
    with pytest.raises(ValueError, match=r"^rate "):
        locksmith.rate_limit("twitter", text)
    with (
        override_settings(LOCKSMITH={"RATE_LIMITS": {"twitter": text}}),
        pytest.raises(ImproperlyConfigured, match=r"^LOCKSMITH\['RATE_LIMITS'\]\['twitter'\] "),
    ):
        Locksmith().settings  # noqa: B018  # it is to fail


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("RATE_LIMITS", ["1/s"], "is a dict of rates by names"),
        ("RATE_LIMITS", {"a": 5}, "is a text like '15/15m'"),
        ("RATE_CAUTION", -1, "must be from 0 to 60 seconds"),
        ("RATE_CAUTION", "1", "must be seconds"),
    ],
)
def test_bad_settings(setting: str, value: Any, words: str) -> None:
    """A setting at fault is named."""
    with override_settings(LOCKSMITH={setting: value}), pytest.raises(ImproperlyConfigured, match=words):
        Locksmith().settings  # noqa: B018  # it is to fail


@pytest.mark.parametrize("stored", ["a string", "a list of words", "a place in a thousand years"])
def test_what_others_store_there(valkey: Deployment, stored: str) -> None:
    """What stands under a limit's keys, and is none of ours, ends neither in a raw error nor in a wait for ever."""
    limit = quick(5, 0.2)
    limit.take()
    with valkey.server.client() as client:
        (places,) = client.keys("*<places>*")
        client.delete(places)
        if stored == "a string":
            client.set(places, "x")
        else:
            client.rpush(places, "x" if stored == "a list of words" else str(10**17))
    assert limit.take(blocking_timeout=5).waited < 5


def test_nothing_stays(valkey: Deployment) -> None:
    """All keys of a limit end by themselves when they tell nothing any more."""
    limit = RateLimit(locksmith.runtime, "api", Rate("quick", (Window(5, 0.2),)), None, 0.02)
    limit.take()
    limit.pause(0.1)
    poll(lambda: not valkey.left_behind(), within=10)


def test_in_a_loop(valkey: Deployment) -> None:
    """Synchronous words that wait say so in an event loop."""

    async def call() -> None:
        quick(1, 1).take()

    with pytest.raises(Exception, match=r"use atake\(\)"):
        in_thread(lambda: asyncio.run(call())).result(10)
