"""What a computation of single flight may say of its value, and of its failure."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from django_locksmith import NOT_MODIFIED, Locksmith, PopulateFailed, locksmith, single_flight
from tests.flights.test_flights import OLD, let_go_of_old_values
from tests.helpers.origins import Origin
from tests.helpers.servers import is_left, poll

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


# ---- for how long


def test_timeout_of_the_value(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """The timeout may be a function of the value: a token is kept for as long as it says itself."""
    since = time.monotonic()
    token = {"token": "x", "expires_in": 50}
    default = caller.populate(Origin(token))
    assert caller.get(service, "a", default, lambda value: value["expires_in"] - 10, stale=100) == token
    assert is_left(cache.ttl("a"), 40, since, early=2)
    assert is_left(cache.ttl("a", version=OLD), 140, since, early=2)
    caller.get(service, "b", default, lambda value: timedelta(minutes=1))
    assert is_left(cache.ttl("b"), 60, since, early=2)
    caller.get(service, "c", default, lambda value: None)
    assert cache.ttl("c") is None


@pytest.mark.parametrize(
    ("timeout", "error"), [(lambda value: value["no"], KeyError), (lambda value: 0, ValueError)], ids=["fails", "none"]
)
def test_timeout_that_cannot_be_said(
    valkey: Deployment, caller: Caller, service: Locksmith, timeout: Any, error: type[Exception]
) -> None:
    """A function that fails, or says what is no timeout, fails the computation: nothing is stored, and it is said."""
    with pytest.raises(error):
        caller.get(service, "a", caller.populate(Origin({"n": 1})), timeout)
    assert cache.get("a") is None


def test_error_ttl_of_the_error(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """For how long a failure is remembered may depend on it: a 404 costs a call, too."""
    origin = Origin(KeyError("404"), OSError("500"), 3)
    default = caller.populate(origin)

    def error_ttl(error: Exception) -> float:
        return 60 if isinstance(error, KeyError) else 0

    with pytest.raises(KeyError):
        caller.get(service, "a", default, 60, error_ttl=error_ttl)
    with pytest.raises(PopulateFailed):
        caller.get(service, "a", default, 60, error_ttl=error_ttl)
    with pytest.raises(OSError, match="500"):
        caller.get(service, "b", default, 60, error_ttl=error_ttl)
    assert caller.get(service, "b", default, 60, error_ttl=error_ttl) == 3


def test_error_ttl_that_fails(valkey: Deployment, caller: Caller, service: Locksmith, caplog: Any) -> None:
    """A function that fails itself hides nobody's error, and is logged."""
    with pytest.raises(KeyError, match="404"):
        caller.get(service, "a", caller.populate(Origin(KeyError("404"))), 60, error_ttl=lambda error: 1 / 0)
    assert "error_ttl of 'a' has failed" in caplog.text
    assert caller.get(service, "a", caller.populate(Origin(1)), 60) == 1


# ---- what is about to change


def test_settling(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """What is computed while a replica may have the old row lives for a moment only, and leaves no old copy."""
    origin = Origin("old row", "new row")
    default = caller.populate(origin)
    caller.get(service, "a", default, 60, stale=60)
    caller.invalidate(service, "a", settle=4)
    assert cache.get("a") is None
    assert caller.get(Locksmith(), "a", caller.populate(Origin("old row")), 60, stale=60) == "old row"
    assert 0 < cache.pttl("a") <= 1000
    assert cache.get("a", version=OLD) is None
    poll(lambda: not any("<settle>" in key for key in sorted(deployment.keys())))
    poll(lambda: cache.get("a") is None)
    since = time.monotonic()
    assert caller.get(service, "a", default, 60, stale=60) == "new row"
    assert is_left(cache.ttl("a"), 60, since, early=2)


def test_settling_of_a_computation_under_way(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A later word does not shorten an earlier one; whoever computes now is still refused, as without it."""
    origin = Origin(1, 2, held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), 60)
    origin.begun()
    caller.invalidate(service, "a", settle=60)
    caller.invalidate(service, "a", settle=1)
    caller.invalidate(service, "a")
    origin.let_all_go()
    assert leader.result(10) == 1
    assert cache.get("a") is None
    caller.get(service, "a", caller.populate(origin), None)
    assert 0 < cache.pttl("a") <= 1000
    with valkey.server.client() as client:
        (settle,) = client.keys("*<settle>*")
        assert 50_000 < client.pttl(settle) <= 60_000


@pytest.mark.parametrize("settle", [-1, None, "x", 1e12])
def test_bad_settle(valkey: Deployment, settle: Any) -> None:
    """Seconds that are none are refused, by name."""
    with pytest.raises((TypeError, ValueError), match="settle"):
        locksmith.invalidate("a", settle=settle)


# ---- the old value


def asking(caller: Caller, *outcomes: Any) -> tuple[list[Any], Any]:
    """A function that takes the old value, for this kind of caller; and what it was given."""
    given: list[Any] = []

    def compute(old: Any) -> Any:
        given.append(old)
        return outcomes[len(given) - 1]

    async def compute_later(old: Any) -> Any:
        return compute(old)

    return given, compute if caller.name == "sync" else compute_later


def test_old_value_is_given(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A function of one argument gets the old value, or `None`."""
    given, default = asking(caller, "one", "two", "three")
    caller.get(service, "a", default, 60, stale=60)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, stale=60) == "two"
    assert caller.get(service, "b", default, 60) == "three"
    assert given == [None, "one", None]


def test_not_modified(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """`NOT_MODIFIED` keeps the old value, for another timeout, which may depend on it."""
    given, default = asking(caller, {"n": 50}, NOT_MODIFIED)
    caller.get(service, "a", default, 60, stale=60)
    let_go_of_old_values()
    since = time.monotonic()
    assert caller.get(service, "a", default, lambda value: value["n"], stale=60) == {"n": 50}
    assert given == [None, {"n": 50}]
    assert cache.get("a") == {"n": 50}
    assert is_left(cache.ttl("a"), 50, since, early=2)
    assert is_left(cache.ttl("a", version=OLD), 110, since, early=2)


def test_not_modified_without_an_old_value(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Where there is none, that is a failure that names the function; and a function that did not ask cannot say it."""
    _, default = asking(caller, NOT_MODIFIED)
    with pytest.raises(ValueError, match=r"returned NOT_MODIFIED, but there is no old value of 'a'"):
        caller.get(service, "a", default, 60, stale=60)
    with pytest.raises(TypeError, match="a function that may do so takes the old value"):
        caller.get(service, "a", caller.populate(Origin(NOT_MODIFIED)), 60, stale=60)
    assert repr(NOT_MODIFIED) == "NOT_MODIFIED"


def test_functions_that_ask_for_nothing(valkey: Deployment) -> None:
    """Arguments that have a value already, and functions that cannot be looked into, are left alone."""
    number = 7
    assert locksmith.get_or_set("a", lambda number=number: number) == 7
    assert locksmith.get_or_set("b", dict) == {}
    assert locksmith.get_or_set("c", lambda *args, **kwargs: (args, kwargs)) == ((), {})


def test_decorator(valkey: Deployment) -> None:
    """The timeout of a decorated function may be a function of its result, too."""
    since = time.monotonic()

    @single_flight(key="a:{n}", timeout=lambda value: value * 10)
    def compute(n: int) -> int:
        return n

    compute(5)
    assert is_left(cache.ttl("a:5"), 50, since, early=2)
