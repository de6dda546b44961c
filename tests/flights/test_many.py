"""What is promised of many values at once: each computed once, and as many as may be by one call."""

from __future__ import annotations

import asyncio
import threading
import time
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from django_locksmith import LockReentered, Locksmith, PopulateFailed, RetryLater, locksmith, signals
from tests.flights.test_flights import let_go_of_old_values
from tests.helpers.origins import Origin
from tests.helpers.servers import is_left, poll
from tests.rates.test_rate_limits import Bookings, quick

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


class Api:
    """Answers for many keys at a time: counts its calls, and holds them until it is told to go on."""

    def __init__(self, *, held: bool = False, error: Exception | None = None, without: str = "") -> None:
        self.calls: list[list[str]] = []
        self.go_on = threading.Event()
        self._error = error
        self._without = without
        if not held:
            self.go_on.set()

    def __call__(self, keys: list[str]) -> dict[str, str]:
        self.calls.append(list(keys))
        assert self.go_on.wait(30), "nobody let it go"
        if self._error is not None:
            raise self._error
        return {key: key.upper() for key in keys if key != self._without}

    def begun(self, calls: int = 1) -> None:
        poll(lambda: len(self.calls) >= calls)


def test_one_call_for_all(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """What the cache has is taken from there; all the others are computed by one call, and stored."""
    cache.set("b", "in the cache", 60)
    api = Api()
    assert list(caller.get_many(service, ["a", "b", "c", "a"], api, 60).items()) == [
        ("a", "A"),
        ("b", "in the cache"),
        ("c", "C"),
    ]
    assert api.calls == [["a", "c"]]
    assert [cache.get(key) for key in ("a", "c")] == ["A", "C"]
    assert caller.get_many(service, ["a", "b", "c"], api, 60) == {"a": "A", "b": "in the cache", "c": "C"}
    assert len(api.calls) == 1
    assert caller.get_many(service, [], api, 60) == {}


def test_hits_cost_one_request(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Where all is in the cache, that is one request, and no lock is touched."""
    cache.set_many({"a": 1, "b": 2}, 60)
    valkey.forget_commands()
    assert caller.get_many(service, ["a", "b"], Api(), 60) == {"a": 1, "b": 2}
    assert valkey.commands() == {"mget": 1}


def test_so_many_at_a_time(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A call is given no more than it can take, and each takes one place of the rate limit."""
    limit = quick(20, 30)
    limit.take()
    booked = Bookings(deployment)
    api = Api()
    keys = [f"key {number}" for number in range(25)]
    assert caller.get_many(service, keys, api, 60, most=10, rate_limit=limit) == {key: key.upper() for key in keys}
    assert [len(call) for call in api.calls] == [10, 10, 5]
    assert booked.are(3)


def test_lists_that_overlap(deployment: Deployment, caller: Caller) -> None:
    """Of many processes with lists that overlap, no two compute the same key, and few calls are made."""
    services = [Locksmith() for _ in range(4)]
    api = Api(held=True)
    keys = [f"key {number}" for number in range(40)]
    lists = [keys[first : first + 25] for first in (0, 5, 10, 15)]
    asked = []
    for number, (service, mine) in enumerate(zip(services, lists, strict=True)):
        asked.append(caller.start_get_many(service, mine, api, 60, most=10))
        api.begun(number + 1)
    api.go_on.set()
    for mine, each in zip(lists, asked, strict=True):
        assert each.result(60) == {key: key.upper() for key in mine}
    computed = [key for call in api.calls for key in call]
    assert sorted(computed) == sorted(keys)
    assert len(api.calls) <= ceil(40 / 10) + 4


def test_who_wants_one_of_them(deployment: Deployment, caller: Caller) -> None:
    """Whoever wants one of the keys by itself waits for the call that computes it, and the other way round."""
    services = [Locksmith() for _ in range(3)]
    api, origin = Api(held=True), Origin("single", held=True)
    single = caller.start_get(services[0], "a", caller.populate(origin), 60)
    origin.begun()
    many = caller.start_get_many(services[1], ["a", "b"], api, 60)
    api.begun()
    other = caller.start_get(services[2], "b", caller.populate(Origin("never")), 60)
    poll(lambda: deployment.blocked() == 1)
    api.go_on.set()
    origin.let_all_go()
    assert (single.result(30), many.result(30), other.result(30)) == ("single", {"a": "single", "b": "B"}, "B")
    assert api.calls == [["b"]]


def test_what_it_leaves_out(deployment: Deployment, caller: Caller) -> None:
    """A key that the call has nothing to say of is not in the result, and not stored; others are none the worse."""
    services = [Locksmith() for _ in range(2)]
    api = Api(held=True, without="b")
    first = caller.start_get_many(services[0], ["a", "b", "c"], api, 60)
    api.begun()
    second = caller.start_get_many(services[1], ["b"], api, 60)
    poll(lambda: deployment.blocked() == 1)
    api.go_on.set()
    assert first.result(30) == {"a": "A", "c": "C"}
    assert second.result(30) == {}
    assert cache.get("b") is None
    assert api.calls == [["a", "b", "c"], ["b"]]


def test_failure(deployment: Deployment, caller: Caller) -> None:
    """Who made the call gets its error, and makes no other; those who wait are told; what was had before is kept."""
    services = [Locksmith() for _ in range(2)]
    api = Api(held=True, error=OSError("503"))
    first = caller.start_get_many(services[0], ["a", "b", "c"], api, 60, most=2, error_ttl=60)
    api.begun()
    other = caller.start_get(services[1], "a", caller.populate(Origin(1)), 60)
    poll(lambda: deployment.blocked() == 1)
    api.go_on.set()
    assert isinstance(first.exception(30), OSError)
    assert isinstance(other.exception(30), PopulateFailed)
    assert api.calls == [["a", "b"]]
    with pytest.raises(PopulateFailed):
        caller.get_many(services[1], ["b"], Api(), 60)
    assert caller.get_many(services[1], ["c"], Api(), 60) == {"c": "C"}


def test_old_values_instead(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """With on_error="stale" old values stand in for a failure."""
    how = {"stale": 60, "on_error": "stale"}
    caller.get_many(service, ["a", "b"], Api(), 60, **how)
    for key in ("a", "b"):
        let_go_of_old_values(key)
    api = Api(error=OSError("503"))
    assert caller.get_many(service, ["a", "b"], api, 60, most=1, **how) == {"a": "A", "b": "B"}
    assert api.calls == [["a"]], "after a failure, no other call is made"


def test_retry_later(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A `RetryLater` pauses the rate limit, for all that keep it."""
    limit = quick(20, 30)
    with pytest.raises(RetryLater):
        caller.get_many(service, ["a", "b"], Api(error=RetryLater(60)), 60, rate_limit=limit)
    api = Api()
    with pytest.raises(RetryLater) as caught:
        caller.get_many(Locksmith(), ["a", "c"], api, 60, rate_limit=limit, blocking_timeout=0.1)
    assert 50 < caught.value.seconds < 61
    assert api.calls == []


def test_signals(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Receivers of the signal hear of each value that was computed, by the name of its kind."""
    heard: list[tuple[str, str, str]] = []

    def observe(key: str, template: str, outcome: str, waited: float) -> None:
        heard.append((key, template, outcome))

    signals.flight.observe(observe)
    try:
        caller.get_many(service, ["a", "b"], Api(without="b"), 60, template="letters")
        with pytest.raises(OSError, match="503"):
            caller.get_many(service, ["a", "c"], Api(error=OSError("503")), 60, template="letters")
    finally:
        signals.flight.ignore(observe)
    assert heard == [("a", "letters", "computed"), ("c", "letters", "failed")]


def test_renewed_for_as_long_as_it_takes(valkey: Deployment, caller: Caller) -> None:
    """The flights of all keys are renewed while their call lasts, longer than their leases; nobody else computes."""
    services = [Locksmith() for _ in range(2)]
    api = Api(held=True)
    first = caller.start_get_many(services[0], ["a", "b"], api, 60, lease=8)
    api.begun()
    other = caller.start_get(services[1], "b", caller.populate(Origin("never")), 60, lease=8)
    poll(lambda: valkey.blocked() == 1)
    with valkey.server.client() as client:

        def left() -> list[float]:
            return [client.pttl(flight) / 1000 for flight in valkey.flying()]

        assert len(left()) == 2
        for _ in range(2):
            poll(lambda: max(left()) < 6)
            poll(lambda: min(left()) > 6.5)
    api.go_on.set()
    assert (first.result(30), other.result(30)) == ({"a": "A", "b": "B"}, "B")


def test_cancelled(valkey: Deployment) -> None:
    """Of a task that is cancelled while it computes, nothing is left: others compute at once."""

    async def play() -> Any:
        begun = asyncio.Event()

        async def never(keys: list[str]) -> dict[str, str]:
            begun.set()
            await asyncio.Event().wait()
            return {}

        task = asyncio.create_task(locksmith.aget_many_or_set(["a", "b"], never, 60))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await locksmith.aget_many_or_set(["a", "b"], lambda keys: dict.fromkeys(keys, 1), 60)

    assert asyncio.run(play()) == {"a": 1, "b": 1}


def test_without_redis(own_server: Deployment, local: Any, caller: Caller, service: Locksmith) -> None:
    """Where Redis gives no answer, a process still makes one call for all."""
    own_server.server.kill()
    api = Api()
    assert caller.get_many(service, ["a", "b"], api, 60, cache="local") == {"a": "A", "b": "B"}
    assert api.calls == [["a", "b"]]


def test_timeout_of_each(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """The timeout may be a function of each value."""
    since = time.monotonic()
    caller.get_many(service, ["a", "bbb"], Api(), lambda value: 10 * len(value))
    assert is_left(cache.ttl("a"), 10, since, early=2)
    assert is_left(cache.ttl("bbb"), 30, since, early=2)


def test_it_asks_for_its_own_key(valkey: Deployment) -> None:
    """A call that asks for one of its keys would wait for itself, and is told at once."""

    def default(keys: list[str]) -> dict[str, int]:
        return {"a": locksmith.get_or_set("b", 1, 60)}

    with pytest.raises(LockReentered):
        locksmith.get_many_or_set(["a", "b"], default, 60)


@pytest.mark.parametrize(
    ("keys", "how", "words"),
    [
        ("abc", {}, "keys are many, not one text"),
        ([5], {}, "the key of a value is a str"),
        (["a"], {"most": 0}, "most must be 1 or more"),
        (["a"], {"most": True}, "most must be a whole number"),
        (["a"], {"patience": 1, "stale": 5}, "has no refresh, no patience"),
        (["a"], {"fresh": 1}, "single flight has no option 'fresh'"),
        ([str(number) for number in range(10_001)], {}, "10,001 keys are too many at once"),
    ],
)
def test_bad_arguments(valkey: Deployment, keys: Any, how: Any, words: str) -> None:
    """An argument at fault is named."""
    with pytest.raises((TypeError, ValueError), match=words):
        locksmith.get_many_or_set(keys, Api(), 60, **how)


@pytest.mark.parametrize("default", [5, lambda keys: [1], lambda keys: None])
def test_bad_function(valkey: Deployment, default: Any) -> None:
    """So is a function that is none, or returns no mapping."""
    with pytest.raises(TypeError, match=r"default is a function|returned no mapping"):
        locksmith.get_many_or_set(["a"], default, 60)
