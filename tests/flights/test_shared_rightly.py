"""What single flight shares, with whom, and what it remembers, where it would be easy to share or forget too much."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.http import HttpResponse
from django.template.response import SimpleTemplateResponse

from django_locksmith import LockBusy, Locksmith, PopulateFailed, RetryLater
from django_locksmith.local.events import ThreadEvent
from django_locksmith.local.flights import ABANDONED, LocalFlight, LocalFlights, LocalFollower
from django_locksmith.policy.sync_bridge import run_sync
from tests.helpers.callers import in_thread
from tests.helpers.origins import Origin
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def shared(caller: Caller, service: Locksmith, value: Any, followers: int = 2) -> list[Any]:
    """What the leader and its followers in one process get, or their errors."""
    origin = Origin(value, held=True)
    answers = [caller.start_get(service, "a", caller.populate(origin), 60)]
    origin.begun()
    answers += [caller.start_get(service, "a", caller.populate(origin), 60) for _ in range(followers)]
    poll(lambda: caller.local_followers(service) == followers)
    origin.let_all_go()
    return [answer.exception(10) or answer.result(10) for answer in answers]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda: (n for n in range(3)), id="generator"),
        pytest.param(lambda: open(__file__), id="open file"),  # noqa: SIM115  # closed below
        pytest.param(lambda: SimpleTemplateResponse("page.html"), id="unrendered response"),
    ],
)
def test_one_object_is_not_shared(valkey: Deployment, caller: Caller, service: Locksmith, value: Any) -> None:
    """An object of which there can be no copies reaches no two callers: all hear what is wrong with it."""
    made = value()
    first, *others = shared(caller, service, made)
    if not isinstance(made, HttpResponse):  # which would end a request, and with it the connections of other tests
        made.close()
    assert isinstance(first, TypeError)
    assert "cannot be copied" in str(first)
    assert all(isinstance(other, PopulateFailed) and other.kind == "TypeError" for other in others)


def test_each_has_a_response_of_its_own(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A response that is shared is another object for each: what a middleware adds to one, the others have not."""
    answers = shared(caller, service, HttpResponse("page"))
    answers[0].set_cookie("session", "mine")
    assert len({id(answer) for answer in answers}) == 3
    assert [answer.content for answer in answers] == [b"page"] * 3
    assert [bool(answer.cookies) for answer in answers] == [True, False, False]


def test_key_of_a_copy_cannot_be_chosen(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A visitor whose text is a part of a key cannot plant what others get as the old value, nor read it."""
    for planted in ("shoes:locksmith-old", "locksmith-old-1:shoes", ":locksmith-old-1:shoes", "locksmith-old:shoes"):
        caller.get(service, planted, "planted", 60, stale=60)
    with pytest.raises(ZeroDivisionError):
        caller.get(service, "shoes", caller.populate(lambda: 1 // 0), 60, stale=60, on_error="stale")
    caller.get(service, "shoes", "mine", 60, stale=60)
    for asked in ("hats:locksmith-old", "shoes:locksmith-old-1"):
        assert caller.get(service, asked, "another", 60) == "another"


# ---- RetryLater


def test_later_is_remembered_whatever_became_of_the_flight(
    deployment: Deployment, caller: Caller, service: Locksmith
) -> None:
    """After `RetryLater` nobody calls again, also where the value was invalidated while the call ran."""
    origin = Origin(RetryLater(30), held=True)
    first = caller.start_get(service, "a", caller.populate(origin), 60)
    origin.begun()
    caller.invalidate(Locksmith(), "a")
    origin.let_all_go()
    assert isinstance(first.exception(10), RetryLater)
    for other in (service, Locksmith()):
        with pytest.raises(RetryLater):
            caller.get(other, "a", caller.populate(origin), 60)
    assert origin.calls == 1


def test_later_of_a_caller_who_computes_alone(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """The same where a caller computes for itself at the end of its wait (`on_timeout="compute"`)."""
    slow, limited = Origin(1, held=True), Origin(RetryLater(30))
    leader = caller.start_get(Locksmith(), "a", caller.populate(slow), 60)
    slow.begun()
    for _ in range(3):
        with pytest.raises(RetryLater):
            caller.get(service, "a", caller.populate(limited), 60, blocking_timeout=0.05, on_timeout="compute")
    slow.let_all_go()
    leader.result(10)
    assert limited.calls <= 3
    cache.delete("a")
    with pytest.raises(RetryLater):
        caller.get(Locksmith(), "a", caller.populate(limited), 60)
    assert limited.calls <= 3


def test_longer_pause_is_not_shortened(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Of two calls that are told to wait, the longer pause holds."""
    first, second = Origin(RetryLater(600), held=True), Origin(RetryLater(5))
    answer = caller.start_get(Locksmith(), "a", caller.populate(first), 60)
    first.begun()
    caller.invalidate(service, "a")
    first.let_all_go()
    assert isinstance(answer.exception(10), RetryLater)
    with pytest.raises(RetryLater) as caught:
        caller.get(service, "a", caller.populate(second), 60)
    assert caught.value.seconds > 500


# ---- what is stored while Redis cannot be asked


def test_value_that_nobody_could_check(valkey: Deployment, caller: Caller) -> None:
    """A value that was computed while Redis gave no answer is kept for some seconds only, and no old copy of it."""
    with proxy_to(valkey.server.port) as proxy:
        near = Locksmith(redis=f"{proxy.url}?socket_timeout=0.3&socket_connect_timeout=0.3")
        proxy.flowing.clear()
        assert caller.get(near, "a", 1, 300, stale=300) == 1
        proxy.flowing.set()
    assert 0 < cache.ttl("a") <= 5
    assert cache.get("a", version="locksmith-old-1") is None


# ---- texts


def test_texts_of_errors_are_cut(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """What others are told of a failure has some thousand characters at most, and says what it had."""
    first, other = shared(caller, service, ValueError("x" * 3_000_000), followers=1)
    assert len(str(first)) == 3_000_000
    assert isinstance(other, PopulateFailed)
    assert len(str(other)) < 3000
    assert "(3000000 characters)" in str(other)


def test_errors_in_redis_are_short(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """So is what Redis keeps of it."""
    with pytest.raises(ValueError, match="x"):
        caller.get(service, "a", caller.populate(Origin(ValueError("x" * 1_000_000))), 60, error_ttl=60)
    with valkey.server.client() as client:
        assert client.info("memory")["used_memory"] < 30_000_000
        pause = next(name for name in client.keys("*") if "<pause>" in name)
        assert client.strlen(pause) < 3000


# ---- followers of one process


def test_who_gives_up_is_not_woken_for_another(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Followers who gave up before do not swallow what was to wake those behind them."""
    origin = Origin(1, held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), 60)
    origin.begun()
    early = [caller.start_get(service, "a", 2, 60, blocking_timeout=0.2) for _ in range(3)]
    poll(lambda: caller.local_followers(service) == 3)
    followers = [caller.start_get(service, "a", 2, 60) for _ in range(10)]
    for each in early:
        assert isinstance(each.exception(10), LockBusy)
    poll(lambda: caller.local_followers(service) == 10)
    with stopwatch() as took:
        origin.let_all_go()
        assert [each.result(10) for each in (leader, *followers)] == [1] * 11
        assert took() < 0.5  # they look by themselves after a second


def test_leader_that_vanishes(valkey: Deployment) -> None:
    """A local leader that is interrupted where no code could see it leaves no flight that nobody ends."""
    flights = LocalFlights(ThreadEvent, __import__("time").monotonic)
    leader = flights.join(b"a")
    assert isinstance(leader, LocalFlight)
    follower = flights.join(b"a")
    assert isinstance(follower, LocalFollower)
    waiting = in_thread(lambda: run_sync(follower.outcome(1e12)))
    poll(lambda: follower._event in follower._flight.events)
    del leader
    gc.collect()
    assert waiting.result(10) is ABANDONED
    assert isinstance(flights.join(b"a"), LocalFlight)


@pytest.mark.parametrize("timeout", [float("inf"), 1e-9, 1e12, float("nan"), 0])
def test_timeouts_that_store_nothing(valkey: Deployment, caller: Caller, service: Locksmith, timeout: float) -> None:
    """A timeout that a cache would take for none, or could not count, is refused by its name."""
    with pytest.raises(ValueError, match="timeout must be"):
        caller.get(service, "a", 1, timeout)
