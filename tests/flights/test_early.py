"""What is promised of `early=`: values that are computed anew before their time is over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from django_locksmith import Locksmith, RetryLater
from tests.flights.test_flights import let_go_of_old_values
from tests.helpers.origins import Origin

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def is_now(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Unix time, for values."""
    monkeypatch.setattr("django_locksmith.api.cached_values.time", SimpleNamespace(time=lambda: seconds))


def test_refreshed_by_one(deployment: Deployment, caller: Caller) -> None:
    """From that share of its life on, one caller computes it anew, while all others have the one that is there."""
    services = [Locksmith() for _ in range(2)]
    origin = Origin(1, 2, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    assert caller.get(services[0], "a", default, 100, early=0.8) == 1
    let_go_of_old_values()
    leader = caller.start_get(services[0], "a", default, 100, early=0.8)
    origin.begun(2)
    for service in services:
        assert caller.get(service, "a", default, 100, early=0.8) == 1
    origin.let_all_go()
    assert leader.result(30) == 2
    assert cache.get("a") == 2


def test_how_long(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """The cache has it for that share, the copy for all of its life, and as long as it may be stale beyond."""
    caller.get(service, "a", caller.populate(Origin(1)), 100, early=0.8, stale=50)
    with valkey.server.client() as client:
        lives = sorted(client.ttl(key) for key in client.keys("*:a") if "locksmith:" not in key)
    assert [round(each, -1) for each in lives] == [80, 150]


@pytest.mark.parametrize("error", [KeyError("no"), RetryLater(60)])
def test_fails(
    valkey: Deployment, caller: Caller, service: Locksmith, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where it cannot be computed anew before its time is over, nobody hears of that; afterwards who computed does."""
    how: dict[str, Any] = {"early": 0.5, "stale": 1000}
    is_now(1e9, monkeypatch)
    default = caller.populate(Origin(1, error, KeyError("again"), KeyError("too late")))
    assert caller.get(service, "a", default, 100, **how) == 1
    let_go_of_old_values()
    is_now(1e9 + 99, monkeypatch)
    assert caller.get(service, "a", default, 100, **how) == 1
    if isinstance(error, KeyError):
        is_now(1e9 + 101, monkeypatch)
        with pytest.raises(KeyError, match="again"):
            caller.get(service, "a", default, 100, **how)


def test_what_looks_like_a_copy(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A value that looks as such a copy does is given as it is."""
    value = ("locksmith-lives-until", 2e9, "x")
    later = caller.populate(Origin(RetryLater(60)))
    for key, how in {"a": {"stale": 60}, "b": {"early": 0.5}}.items():
        assert caller.get(service, key, caller.populate(Origin(value)), 60, **how) == value
        let_go_of_old_values(key)
        assert caller.get(service, key, later, 60, **how) == value
