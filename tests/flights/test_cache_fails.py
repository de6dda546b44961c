"""Single flight when the cache fails, and in the moments in which other callers come."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

from django_locksmith import Locksmith, PopulateFailed, RetryLater
from tests.flights.caches import fail
from tests.flights.test_flights import Crowd, outcomes
from tests.helpers.callers import SyncCaller, in_thread, local_followers_of
from tests.helpers.origins import Origin, TaskOrigin
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


# ---- the cache fails


@pytest.mark.parametrize(("broken", "said"), [("get", "the cache could not read 'a'"), ("set", "not store 'a'")])
def test_broken_cache(
    local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith, caplog: Any, broken: str, said: str
) -> None:
    """A cache that fails costs nobody the value: it is computed, returned to all of the process, and logged."""
    hooks[broken] = fail
    origin = Origin({"n": 1}, held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), cache="local")
    origin.begun()
    local_followers = [caller.start_get(service, "a", caller.populate(origin), cache="local") for _ in range(3)]
    poll(lambda: caller.local_followers(service) == 3)
    origin.let_all_go()
    assert [each.result(10) for each in (leader, *local_followers)] == [{"n": 1}] * 4
    assert origin.calls == 1
    assert said in caplog.text


def test_broken_old_values(local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith) -> None:
    """Nor does a cache that fails while old values are asked for."""
    hooks["get"] = fail
    assert caller.get(service, "a", 1, 60, cache="local", stale=60) == 1


def test_broken_cache_tells_invalidate(local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith) -> None:
    """A value that could not be deleted is not said to be invalidated."""
    hooks["delete"] = fail
    with pytest.raises(OSError, match="broken"):
        caller.invalidate(service, "a", cache="local")


def test_cache_breaks_after_the_flight_was_lost(
    valkey: Deployment, local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith
) -> None:
    """A value that was computed reaches its caller, also where it is stored too late and cannot be deleted again."""
    hooks["set"] = valkey.flush  # as if storing it had taken so long that the flight ran out
    hooks["delete"] = fail
    assert caller.get(service, "a", 1, cache="local") == 1


def test_unpicklable_value(local: Any, caller: Caller, service: Locksmith) -> None:
    """What cannot be copied reaches nobody: all get an error that says what to return instead."""
    origin = Origin(threading.Lock(), held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), cache="local")
    origin.begun()
    guest = caller.start_get(service, "a", caller.populate(origin), cache="local")
    poll(lambda: caller.local_followers(service) == 1)
    origin.let_all_go()
    with pytest.raises(TypeError, match="the value of 'a' is a lock, which cannot be copied"):
        leader.result(10)
    with pytest.raises(PopulateFailed, match="which cannot be copied"):
        guest.result(10)


def test_value_that_the_cache_cannot_hold(valkey: Deployment, caller: Caller, caplog: Any) -> None:
    """What is computed, and cannot be stored, is an error for all that names the cache: not a call for each caller."""
    entry = {**valkey.cache, "OPTIONS": {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"}}
    with override_settings(CACHES={"default": valkey.cache, "json": entry}):
        crowd = Crowd(valkey, caller, services=2, callers=2)
        origin = Origin({object}, held=True)
        answers = crowd.wants(origin, cache="json", error_ttl=5)
        origin.let_all_go()
        errors = outcomes(answers)
        assert origin.calls == 1
        assert sorted(type(error).__name__ for error in errors) == ["PopulateFailed"] * 3 + ["TypeError"]
        assert all("the cache 'json' cannot hold the value of 'a', a set" in str(error) for error in errors)
        with pytest.raises(PopulateFailed):
            caller.get(crowd.services[1], "a", 1, cache="json", error_ttl=5)
        crowd.services[0].invalidate("a", cache="json")
        assert caller.get(crowd.services[1], "a", [1], cache="json") == [1]


def test_value_that_the_cache_cannot_hold_in_an_outage(local: Any, hooks: Any, caller: Caller) -> None:
    """Nor is it taken for stored where Redis gives no answer."""
    unreachable = Locksmith(redis="redis://127.0.0.1:1/0")

    def refuse() -> None:
        raise TypeError("not JSON")

    hooks["set"] = refuse
    with pytest.raises(TypeError, match="the cache 'local' cannot hold the value of 'a', a int"):
        caller.get(unreachable, "a", 1, cache="local")


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "filebased.FileBasedCache"])
def test_other_caches(valkey: Deployment, caller: Caller, tmp_path: Any, backend: str) -> None:
    """The values may be in any cache of Django's, with all that is promised."""
    entry = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": str(tmp_path)}
    with override_settings(CACHES={"default": valkey.cache, "other": entry}):
        origin = Origin({"n": 1}, {"n": 2}, held=True)
        crowd = Crowd(valkey, caller, services=2, callers=3)
        answers = crowd.wants(origin, cache="other", stale=60)
        origin.let_go(1)
        values = outcomes(answers)
        assert values == [{"n": 1}] * 6
        assert len({id(value) for value in values}) == 6
        caches["other"].delete("a")
        leader = caller.start_get(crowd.services[0], "a", caller.populate(origin), 60, cache="other", stale=60)
        origin.begun(2)
        assert caller.get(crowd.services[1], "a", 3, 60, cache="other", stale=60) == {"n": 1}
        origin.let_all_go()
        assert leader.result(10) == {"n": 2}
        caller.invalidate(crowd.services[1], "a", cache="other")
        assert caller.get(crowd.services[1], "a", "new", 60, cache="other", stale=60) == "new"


def test_cache_that_keeps_nothing(valkey: Deployment, caller: Caller) -> None:
    """Where the cache keeps nothing, each process computes for those who ask at the same time, one after the other."""
    entry = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
    with override_settings(CACHES={"default": valkey.cache, "other": entry}):
        origin = Origin(1, held=True)
        answers = Crowd(valkey, caller, services=3, callers=3).wants(origin, cache="other")
        origin.let_all_go()
        assert outcomes(answers) == [1] * 9
        assert 3 <= origin.calls <= 7  # who wakes late computes for himself; those of the first process share its value
        assert origin.most_at_once == 1


def test_key_that_is_no_utf8(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A key with bytes that are no UTF-8 (from a file name, say) has a flight, though Redis cannot keep its value."""
    key = b"caf\xe9".decode("utf-8", "surrogateescape")
    origin = Origin(1, held=True)
    answers = [caller.start_get(service, key, caller.populate(origin))]
    origin.begun()
    answers.append(caller.start_get(service, key, caller.populate(origin)))
    poll(lambda: caller.local_followers(service) == 1)
    origin.let_all_go()
    assert [answer.result(10) for answer in answers] == [1, 1]
    assert origin.calls == 1


# ---- moments in which others come


def test_value_that_landed_just_before_we_lead(
    local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith
) -> None:
    """Who missed a value that another one stored a moment later does not compute it once more."""

    def got() -> None:
        del hooks["got"]
        Locksmith().get_or_set("a", "theirs", cache="local")

    hooks["got"] = got
    origin = Origin("mine")
    assert caller.get(service, "a", caller.populate(origin), cache="local") == "theirs"
    assert origin.calls == 0


def test_values_are_not_shared_objects(valkey: Deployment, local: Any) -> None:
    """What one caller does to his value at once is not seen by those who waited for it."""

    async def play() -> None:
        services = [Locksmith(), Locksmith()]
        origin = TaskOrigin({"n": 1})

        async def spoil(service: Locksmith) -> dict[str, int]:
            value: dict[str, int] = await service.aget_or_set("a", origin, cache="local")
            seen = dict(value)
            value.clear()
            return seen

        answers = [asyncio.ensure_future(spoil(services[0]))]
        await origin.begun()
        answers.append(asyncio.ensure_future(spoil(services[1])))
        await asyncio.to_thread(poll, lambda: valkey.blocked() == 1)
        answers += [asyncio.ensure_future(spoil(service)) for service in services * 2]
        local = [service.runtime().loop().local_flights for service in services]
        await asyncio.to_thread(poll, lambda: [local_followers_of(each) for each in local] == [2, 2])
        origin.held.set()
        assert await asyncio.gather(*answers) == [{"n": 1}] * 6

    asyncio.run(play())


def test_invalidate_waits_for_a_landing(
    valkey: Deployment, local: Any, hooks: dict[str, Any], caller: Caller, service: Locksmith
) -> None:
    """A value that is already on its way into the cache is waited for, and is gone when invalidate returns."""
    storing, go_on = threading.Event(), threading.Event()

    def store() -> None:
        storing.set()
        assert go_on.wait(30)

    hooks["set"] = store
    leader = caller.start_get(service, "a", {"n": 1}, 60, cache="local", stale=60)
    assert storing.wait(10)
    invalidation = caller.start_invalidate(Locksmith(), "a", cache="local")
    poll(lambda: valkey.blocked() == 1)
    assert not invalidation.done()
    go_on.set()
    invalidation.result(10)
    assert local._cache == {}
    assert leader.result(10) == {"n": 1}
    assert local._cache == {}


def test_invalidate_does_not_wait_for_ever(
    valkey: Deployment, local: Any, hooks: dict[str, Any], service: Locksmith
) -> None:
    """A leader that hangs while it stores its value holds an invalidation for a second; then its value is dropped."""
    storing, go_on = threading.Event(), threading.Event()

    def store() -> None:
        storing.set()
        assert go_on.wait(30)

    hooks["set"] = store
    leader = in_thread(lambda: service.get_or_set("a", "old", 60, cache="local"))
    assert storing.wait(10)
    guest = in_thread(lambda: service.get_or_set("a", "new", 60, cache="local"))
    started = time.monotonic()
    with stopwatch() as took:
        Locksmith().invalidate("a", cache="local")
        assert took() < 5
    assert time.monotonic() - started > 0.9
    del hooks["set"]
    go_on.set()
    assert leader.result(10) == "old"
    assert guest.result(10) == "new"
    assert local.get("a") == "new"


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_nobody_is_given_what_was_invalidated_before_he_asked(
    valkey: Deployment, local: Any, hooks: dict[str, Any], service: Locksmith, role: str
) -> None:
    """Who asks when invalidate has returned gets no older value, whatever others of his process have just read."""
    other = Locksmith()
    origin = Origin("old", held=True)
    reading, go_on = threading.Event(), threading.Event()

    def got() -> None:
        del hooks["got"]
        reading.set()
        assert go_on.wait(30)

    if role == "follower":
        leader = in_thread(lambda: other.get_or_set("a", origin, 60, cache="local"))
        origin.begun()
        first = in_thread(lambda: service.get_or_set("a", "first", 60, cache="local"))
        poll(lambda: valkey.blocked() == 1)
        hooks["set"] = lambda: hooks.update(got=got)
        origin.let_all_go()
        assert leader.result(10) == "old"
    else:

        def missed() -> None:
            hooks["got"] = got
            LocMemCache.set(local, "a", "old", 60)

        hooks["got"] = missed
        first = in_thread(lambda: service.get_or_set("a", "first", 60, cache="local"))
    assert reading.wait(10)
    other.invalidate("a", cache="local")
    late = in_thread(lambda: service.get_or_set("a", "new", 60, cache="local"))
    poll(lambda: SyncCaller().local_followers(service) == 1)
    hooks.clear()
    go_on.set()
    assert first.result(10) == "old"
    assert late.result(10) == "new"


# ---- pauses that end


@pytest.mark.parametrize(("first", "error_ttl"), [(RetryLater(0.6), 0), (KeyError("x"), 0.6)], ids=["later", "failed"])
def test_end_of_a_pause(
    valkey: Deployment, caller: Caller, service: Locksmith, first: Exception, error_ttl: float
) -> None:
    """When the time is over during which nobody may compute, the next caller does, and not before."""
    origin = Origin(first, 2)
    default = caller.populate(origin)

    def value() -> Any:
        try:
            return caller.get(service, "a", default, error_ttl=error_ttl)
        except (KeyError, PopulateFailed, RetryLater):
            return None

    assert poll(value) == 2
    assert origin.calls == 2
    assert origin.at[1] - origin.at[0] >= 0.6
