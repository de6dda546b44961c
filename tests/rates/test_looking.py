"""What there is to see of rate limits: by `rate_limits()`, and by the command."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from django_locksmith import Locksmith, LockUnavailable
from tests.helpers.servers import poll
from tests.rates.test_rate_limits import Bookings, quick

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


def test_what_is_used(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Each limit in use is listed by name, with what is used of each of its windows, and who waits for how long."""
    api = quick(2, 4, (10, 30))
    caller.take(api)
    booked = Bookings(deployment)
    asked = [caller.start_take(api) for _ in range(2)]
    poll(lambda: booked.are(2))
    caller.take(service.rate_limit("b", "5/30s"), cost=3)
    first, second = caller.rate_limits(service)
    assert (first.name, first.rate) == ("api", "quick")
    assert [(window.calls, window.used) for window in first.windows] == [(2, 2), (10, 2), (10_000, 2)]
    assert first.windows[0].seconds == 4.02
    assert first.waiting == 1
    assert 0 < first.last_place_in < 4.1
    assert first.paused_for == 0
    assert (second.name, second.rate, second.windows[0].used) == ("b", "5/30s", 3)
    assert [limit.name for limit in caller.rate_limits(service, "b*")] == ["b"]
    for each in asked:
        each.result(20)
    assert caller.rate_limits(service)[0].waiting == 0


def test_pause_is_seen(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """So is a pause, also where nobody has called."""
    caller.api_says(quick(1, 1), "pause", 60)
    (limit,) = caller.rate_limits(service)
    assert 55 < limit.paused_for < 61
    assert limit.windows[0].used == 0


def test_who_is_not_listed(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Limits of another prefix are not, nor are locks; and what is over is forgotten."""
    caller.take(Locksmith(prefix="other:").rate_limit("api", "5/m"))
    lease = caller.acquire(service("a lock"))
    assert caller.rate_limits(service) == []
    assert [info.key for info in caller.locks(service)] == ["a lock"]
    caller.release(lease)  # type: ignore[arg-type]
    if deployment.kind != "cluster":  # which has no index
        with deployment.server.client() as client:
            client.zadd("__locksmith:<limits>", {"__locksmith:<rate>{1}gone": 2**50, "no limit": 2**50})
    assert caller.rate_limits(service) == []


@pytest.mark.parametrize("name", ["a}b", "{a", "ü \udcff", "x" * 200])
def test_names(valkey: Deployment, caller: Caller, service: Locksmith, name: str) -> None:
    """A limit is listed under the name that it was given, whatever letters that has."""
    limit = quick(5, 30, name=name)
    caller.api_says(limit.named(name), "pause", 60)  # braces and all
    assert [limit.name for limit in caller.rate_limits(service)] == [name]


def test_without_redis(own_server: Deployment, caller: Caller, service: Locksmith) -> None:
    """Where Redis gives no answer, that is said, and not that there are none."""
    own_server.server.kill()
    with pytest.raises(LockUnavailable):
        caller.rate_limits(service)


# ---- the command


def listed(*arguments: str) -> str:
    out = io.StringIO()
    call_command("locksmith_list", "--limits", *arguments, stdout=out)
    return out.getvalue()


def test_table(valkey: Deployment, service: Locksmith) -> None:
    """The command shows a line for each."""
    service.rate_limit("twitter", "15/15m, 100/d").take(cost=4)
    service.rate_limit("github", "20/s").pause(90)
    titles, github, twitter, *_ = listed().splitlines()
    assert titles.split("  ")[0] == "NAME"
    assert github.split()[:5] == ["github", "20/s", "0", "of", "20"]
    assert "1 min" in github
    assert "4 of 15, 4 of 100" in twitter
    assert listed("--count") == "2\n"
    assert listed("tw*", "--count") == "1\n"
    found: list[dict[str, Any]] = json.loads(listed("--json"))
    assert [each["name"] for each in found] == ["github", "twitter"]
    assert found[1]["windows"][0] == {"calls": 15, "seconds": 900.02, "used": 4}


def test_nothing(valkey: Deployment) -> None:
    """Where there is none, it says so."""
    err = io.StringIO()
    call_command("locksmith_list", "--limits", "tw*", stderr=err)
    assert "No rate limit is in use whose name matches 'tw*'." in err.getvalue()


@pytest.mark.parametrize("option", ["--owner=x", "--older-than=5", "--sort=held", "--fail-if-any"])
def test_options_for_locks(valkey: Deployment, option: str) -> None:
    """What is for locks is refused."""
    with pytest.raises(CommandError, match="is for locks, not for --limits") as caught:
        listed(option)
    assert caught.value.returncode == 2


def test_command_without_redis() -> None:
    """Without Redis, the command says so."""
    with (
        override_settings(LOCKSMITH={"REDIS": "redis://127.0.0.1:1"}),
        pytest.raises(CommandError, match="The rate limits cannot be listed") as caught,
    ):
        listed()
    assert caught.value.returncode == 69
