"""What is promised where the computations of many values share the rate limit of one API."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.test import override_settings

from django_locksmith import Locksmith, PopulateFailed, RetryLater, locksmith, single_flight
from django_locksmith.api import said_once
from tests.flights.test_flights import Crowd, let_go_of_old_values, outcomes
from tests.helpers.callers import local_followers_of
from tests.helpers.origins import Origin
from tests.helpers.servers import poll
from tests.rates.test_rate_limits import Bookings, most_within, quick

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def places_of(deployment: Deployment) -> list[float]:
    """The places that were booked, seconds by the server's clock."""
    found = []
    for server in deployment.servers:
        with server.client() as client:
            for key in client.keys("*<places>*"):
                found += [int(place) / 1e6 for place in client.lrange(key, 0, -1)]
    return found


def has_become(value: Any, key: str = "a") -> None:
    """Return when this is the value that the cache has."""
    poll(lambda: cache.get(key) == value)


def test_only_the_leader_books(deployment: Deployment, caller: Caller) -> None:
    """However many want a value, one place is taken for it."""
    limit = quick(20, 30)
    limit.take()
    booked = Bookings(deployment)
    origin = Origin(1, held=True)
    answers = Crowd(deployment, caller, services=3, callers=3).wants(origin, rate_limit=limit)
    origin.let_all_go()
    assert outcomes(answers) == [1] * 9
    assert booked.are(1)


def test_keys_share_it(deployment: Deployment, caller: Caller) -> None:
    """Values of different keys are computed at the rate, each for all who wait for it, and none is refused."""
    limit = quick(2, 0.4)
    origin = Origin(1)
    default = caller.populate(origin)
    services = [Locksmith() for _ in range(3)]
    answers = [
        [caller.start_get(service, f"key {number}", default, 60, rate_limit=limit) for service in services]
        for number in range(6)
    ]
    assert outcomes(answers) == [1] * 18
    assert origin.calls == 6
    places = places_of(deployment)
    assert len(places) == 6
    assert most_within(places, 0.4) <= 2


def test_pause_is_for_all_keys(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """After a `RetryLater` of one key, nobody calls for any other before the time is over; who can wait then does."""
    limit = quick(20, 0.5)
    refusing, origin = Origin(RetryLater(4)), Origin(1)
    default = caller.populate(origin)
    with pytest.raises(RetryLater):
        caller.get(service, "a", caller.populate(refusing), 60, rate_limit=limit)
    begun = time.monotonic()
    for key in ("a", "b"):
        with pytest.raises(RetryLater) as caught:
            caller.get(Locksmith(), key, default, 60, rate_limit=limit, blocking_timeout=0.1)
        assert 0 < caught.value.seconds < 4.1
    assert origin.calls == 0
    answers = [caller.start_get(Locksmith(), key, default, 60, rate_limit=limit) for key in ("a", "b", "c")]
    assert [answer.result(20) for answer in answers] == [1] * 3
    assert min(origin.at) - begun > 2


def test_place_that_is_too_far_away(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Who would not wait so long is told how long, and books nothing; who would has the value computed."""
    limit = quick(1, 4)
    limit.take()
    booked = Bookings(deployment)
    origin = Origin(1)
    default = caller.populate(origin)
    with pytest.raises(RetryLater) as caught:
        caller.get(service, "a", default, 60, rate_limit=limit, blocking_timeout=0.2)
    assert 0.2 < caught.value.seconds < 4.1
    assert booked.are(0)
    assert (origin.calls, caller.get(Locksmith(), "a", default, 60, rate_limit=limit)) == (0, 1)


def test_old_value_meanwhile(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """With an old value nobody waits for a place: it is computed in the background, when its place has come."""
    limit = quick(1, 6)
    origin = Origin(1, 2, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    caller.get(service, "a", default, 60, stale=60, rate_limit=limit)
    let_go_of_old_values()
    for other in (service, Locksmith()):
        assert caller.get(other, "a", default, 60, stale=60, rate_limit=limit) == 1
    assert origin.calls == 1
    origin.begun(2)
    origin.let_all_go()
    has_become(2)
    first, second = places_of(deployment)
    assert second - first >= 6


def test_patience_for_a_place(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Who has patience waits for the place, as long as that is, and gets the new value."""
    limit = quick(1, 0.4)
    origin = Origin(1, 2)
    default = caller.populate(origin)
    how = {"stale": 60, "rate_limit": limit, "patience": 5}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, **how) == 2


def test_patience_of_followers(deployment: Deployment, caller: Caller) -> None:
    """Who has an old value waits for the new one no longer than his patience, in whichever process."""
    services = [Locksmith() for _ in range(2)]
    origin = Origin(1, 2, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    caller.get(services[0], "a", default, 60, stale=60)
    let_go_of_old_values()
    leader = caller.start_get(services[0], "a", default, 60, stale=60)
    origin.begun(2)
    for service in services:
        assert caller.get(service, "a", default, 60, stale=60, patience=0.1, on_timeout="raise") == 1
    patient = [caller.start_get(service, "a", default, 60, stale=60, patience=30) for service in services]
    poll(lambda: deployment.blocked() == 1)
    poll(lambda: caller.local_followers(services[0]) == 1)
    origin.let_all_go()
    assert [each.result(10) for each in (leader, *patient)] == [2] * 3
    assert origin.calls == 2


# ---- refresh


def test_nobody_waits_for_a_refresh(deployment: Deployment, caller: Caller) -> None:
    """With refresh="thread" all get the old value at once, while one computes for the whole fleet; then all the new."""
    services = [Locksmith() for _ in range(3)]
    origin = Origin({"n": 1}, {"n": 2}, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    how = {"stale": 60, "refresh": "thread"}
    caller.get(services[0], "a", default, 60, **how)
    let_go_of_old_values()
    old = [caller.get(service, "a", default, 60, **how) for _ in range(3) for service in services]
    assert old == [{"n": 1}] * 9
    origin.begun(2)
    origin.let_all_go()
    has_become({"n": 2})
    poll(lambda: all(caller.get(service, "a", default, 60, **how) == {"n": 2} for service in services))
    assert origin.calls == 2


def test_readers_during_a_refresh(
    valkey: Deployment, caller: Caller, service: Locksmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process has a value refreshed, a reader asks the cache once, and Redis nothing else."""
    monkeypatch.setattr("django_locksmith.local.flights._LOOK_EVERY", 600.0)
    origin = Origin(1, 2, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    how = {"stale": 60, "refresh": "thread"}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    caller.get(service, "a", default, 60, **how)
    origin.begun(2)
    valkey.forget_commands()
    for _ in range(5):
        assert caller.get(service, "a", default, 60, **how) == 1
    assert valkey.commands() == {"get": 5}
    origin.let_all_go()
    has_become(2)


def test_refresh_by_a_function(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A function is given what computes the value, once, and the value is new as soon as that has been called."""
    given: list[Any] = []
    origin = Origin(1, 2)
    default = caller.populate(origin)
    how = {"stale": 60, "refresh": given.append}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert [caller.get(service, "a", default, 60, **how) for _ in range(3)] == [1] * 3
    (refresh,) = given
    assert origin.calls == 1
    caller.call(refresh)
    assert cache.get("a") == 2
    assert caller.get(service, "a", default, 60, **how) == 2


def test_refresh_that_begins_late(
    valkey: Deployment, caller: Caller, service: Locksmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes until a refresh begins, only from then on counts how long it waits for a place."""
    limit = quick(1, 1)
    given: list[Any] = []
    default = caller.populate(Origin(1, 2))
    how = {"stale": 60, "refresh": given.append, "rate_limit": limit}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    with monkeypatch.context() as long_ago:
        long_ago.setattr("django_locksmith.api.flight_calls.IN_BACKGROUND", -100.0)
        assert caller.get(service, "a", default, 60, **how) == 1
    caller.take(limit)
    caller.call(given[0])
    assert cache.get("a") == 2


def test_refresh_within_a_computation(valkey: Deployment) -> None:
    """A refresh that a computation sets off may ask for what that computes: neither waits for itself."""
    refreshed: list[Any] = []
    how: Any = {"stale": 60, "refresh": "thread"}
    inner_values = iter([1, 2])

    def inner() -> int:
        value = next(inner_values)
        if value == 2:
            refreshed.append(locksmith.get_or_set("outer", 5, 60))
        return value

    locksmith.get_or_set("inner", inner, 60, **how)
    let_go_of_old_values("inner")

    def outer() -> str:
        locksmith.get_or_set("inner", inner, 60, **how)
        poll(lambda: local_followers_of(locksmith.runtime().threads().local_flights) == 1)
        return "outer"

    assert locksmith.get_or_set("outer", outer, 60) == "outer"
    has_become(2, "inner")
    assert refreshed == ["outer"]


def test_refresh_that_never_comes(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Where what was given away is not called, and another process has the new value, it is soon found."""
    default = caller.populate(Origin(1))
    how = {"stale": 60, "refresh": lambda work: None}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, **how) == 1
    cache.set("a", 2, 60)
    poll(lambda: caller.get(service, "a", default, 60, **how) == 2)
    assert caller.get(service, "a", default, 60, **how) == 2, "and nobody falls back behind it"


def test_refresh_that_cannot_be_given_away(
    valkey: Deployment,
    caller: Caller,
    service: Locksmith,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the function fails, readers get the old value, and a warning is logged, not one for each of them."""

    monkeypatch.setattr("django_locksmith.api.flight_calls.REFRESH_AGAIN", 600.0)

    def full(work: Any) -> None:
        raise OverflowError("the queue is full")

    default = caller.populate(Origin(1))
    how = {"stale": 60, "refresh": full}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert [caller.get(service, "a", default, 60, **how) for _ in range(3)] == [1] * 3
    said = [record.message for record in caplog.records if "the queue is full" in record.message]
    assert said == ["'a' could not be given away to be computed, and its old value is served: the queue is full"]


def test_refresh_that_fails(
    valkey: Deployment, caller: Caller, service: Locksmith, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure in the background is logged; readers go on with the old value, and do not all try again at once."""
    origin = Origin(1, KeyError("no"), 3)
    default = caller.populate(origin)
    how = {"stale": 60, "refresh": "thread"}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, **how) == 1
    poll(lambda: any("could not be computed" in record.message for record in caplog.records))
    poll(lambda: caller.get(service, "a", default, 60, **how) == 3)
    assert origin.calls == 3
    assert origin.at[2] - origin.at[1] >= 1


def test_refresh_that_is_postponed(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A `RetryLater` in the background pauses the key as any other does."""
    origin = Origin(1, RetryLater(60))
    default = caller.populate(origin)
    how = {"stale": 60, "refresh": "thread"}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, **how) == 1
    origin.begun(2)
    with pytest.raises(RetryLater):
        poll(lambda: caller.get(Locksmith(), "a", default, 60) and False)


# ---- who gives up, and without Redis


def test_leader_that_is_cancelled_while_it_waits(valkey: Deployment) -> None:
    """A leader that is cancelled before its place has come gives it back, and somebody else leads."""
    limit = quick(1, 4)
    limit.take()
    booked = Bookings(valkey)

    async def work() -> Any:
        leader = asyncio.create_task(locksmith.aget_or_set("a", 1, 60, rate_limit=limit))
        await asyncio.to_thread(poll, lambda: booked.are(1))
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert booked.are(0)
        return await locksmith.aget_or_set("a", 2, 60, rate_limit=limit)

    assert asyncio.run(work()) == 2


def test_without_redis(own_server: Deployment, local: Any, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Redis gives no answer, a process computes at its own rate."""
    monkeypatch.setattr(said_once, "_said", set())
    limit = quick(1, 0.4)
    origin = Origin(1)
    service = Locksmith()
    own_server.server.kill()
    began = time.monotonic()
    for key in ("a", "b", "c"):
        caller.get(service, key, caller.populate(origin), 60, cache="local", rate_limit=limit)
    assert origin.at[-1] - began >= 2 * 0.4  # between two of them, a busy machine may have been late with the first


# ---- how it is written


def test_template(valkey: Deployment) -> None:
    """The limit of a decorated function may be a template over the arguments, as its key may."""
    github = locksmith.rate_limit("github:{token}", "1/30s", blocking_timeout=0)

    @single_flight(key="issues:{token}:{page}", timeout=60, rate_limit=github, blocking_timeout=0.1)
    def issues(token: str, page: int) -> int:
        return page

    assert (issues("a", 1), issues("b", 2)) == (1, 2)
    with pytest.raises(RetryLater):
        issues("a", 3)
    with pytest.raises(ValueError, match="is a template for a decorated function"):
        locksmith.get_or_set("x", 1, rate_limit=github)


def test_by_name(valkey: Deployment) -> None:
    """A limit that the settings know is given by its name."""
    with override_settings(LOCKSMITH={"RATE_LIMITS": {"twitter": "1/30s"}}):
        service = Locksmith()
        assert service.get_or_set("a", 1, 60, rate_limit="twitter") == 1
        with pytest.raises(RetryLater):
            service.get_or_set("b", 1, 60, rate_limit="twitter", blocking_timeout=0)
        with pytest.raises(ValueError, match="has no 'github'"):
            service.get_or_set("b", 1, 60, rate_limit="github")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"rate_limit": 5}, r"rate_limit is what locksmith.rate_limit\(\) makes"),
        ({"patience": 5}, "patience is for those who have an old value, which only stale=<seconds>, or early=, keeps"),
        ({"refresh": "thread"}, "refresh is for those who have an old value"),
        ({"refresh": "celery", "stale": 5}, "refresh must be 'thread', a function"),
        ({"early": 1}, "early must be a share of timeout, from 0"),
        ({"early": -0.1}, "early must be a share of timeout, from 0"),
        ({"early": "0.8"}, "early must be a share of timeout, as 0.8, not '0.8'"),
        ({"early": True}, "early must be a share of timeout"),
        ({"patience": None, "stale": 5}, "patience is seconds, not None"),
        ({"patience": 1, "refresh": "thread", "stale": 5}, "with refresh they do not: give one"),
        ({"patience": -1, "stale": 5}, "patience"),
    ],
)
def test_bad_options(how: Any, words: str) -> None:
    """An option at fault is named."""
    with pytest.raises((TypeError, ValueError), match=words):
        locksmith.get_or_set("a", 1, **how)


def test_failure_is_no_pause(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """What fails otherwise pauses nothing, but has taken its place."""
    limit = quick(2, 30)
    with pytest.raises(KeyError):
        caller.get(service, "a", caller.populate(Origin(KeyError("x"))), 60, rate_limit=limit)
    assert caller.get(service, "a", caller.populate(Origin(1)), 60, rate_limit=limit) == 1
    with pytest.raises((RetryLater, PopulateFailed)):
        caller.get(service, "b", caller.populate(Origin(1)), 60, rate_limit=limit, blocking_timeout=0)
