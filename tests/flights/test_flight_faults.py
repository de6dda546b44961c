"""Single flight when things fail: Redis, the network, the cache, tasks that are cancelled; and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from django.core.cache import cache, caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings

from django_locksmith import LockBusy, Locksmith, LockUnavailable, PopulateFailed, RetryLater
from django_locksmith.redis.lua import JOIN, LAND, LANDING
from tests.conftest import Origin, SyncCaller, TaskOrigin, alias, in_thread, local_followers_of
from tests.flights.test_flights import Crowd, Interrupted, outcomes
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import free_port, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Caller, Deployment
    from tests.helpers.proxy import Proxy

SOCKET_TIMEOUT = 0.5

_numbers = count(1)


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a promise does: in the end nobody leads a flight or waits for one, and its news are soon forgotten."""
    name = next((name for name in ("valkey", "own_server", "deployment") if name in request.fixturenames), None)
    where = request.getfixturevalue(name) if name else None
    yield
    if where is not None:
        poll(lambda: not where.flying())
        poll(lambda: where.blocked() == 0)
        assert not where.news_outlive(5000)


class Hooked(LocMemCache):
    """A cache that does what a test says before it is read ("get"), after that ("got"), before "set" and "delete"."""

    hooks: ClassVar[dict[str, Callable[[], None]]] = {}

    def _do(self, what: str) -> None:
        if what in self.hooks:
            self.hooks[what]()

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        self._do("get")
        found = super().get(key, default, version)
        self._do("got")
        return found

    def set(self, key: Any, *value: Any, **how: Any) -> None:
        self._do("set")
        super().set(key, *value, **how)

    def delete(self, key: Any, version: int | None = None) -> bool:
        self._do("delete")
        return super().delete(key, version)


def in_process(backend: str = "django.core.cache.backends.locmem.LocMemCache") -> dict[str, Any]:
    """A CACHES entry for a cache of this process, and empty."""
    return {"BACKEND": backend, "LOCATION": f"{backend} {next(_numbers)}"}


@pytest.fixture
def hooks() -> Iterator[dict[str, Callable[[], None]]]:
    """What happens in the cache "local", on top of what CACHES says."""
    Hooked.hooks.clear()
    yield Hooked.hooks
    Hooked.hooks.clear()


@pytest.fixture
def local(valkey: Deployment) -> Iterator[Any]:
    """A cache of this process, beside the Redis of the locks. A test may hook into it."""
    entry = in_process(f"{__name__}.Hooked")
    with override_settings(CACHES={"default": valkey.cache, "local": entry}):
        yield caches["local"]


def fail() -> None:
    raise OSError("the cache is broken")


# ---- what it costs


def test_a_hit_is_one_get(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A thousand hits are a thousand GETs, and nothing else."""
    caller.get(service, "a", 1)
    valkey.forget_commands()
    if caller.name == "sync":
        assert {service.get_or_set("a", 2) for _ in range(1000)} == {1}
    else:

        async def many() -> set[Any]:
            return {await service.aget_or_set("a", 2) for _ in range(1000)}

        assert asyncio.run(many()) == {1}
    assert valkey.commands() == {"get": 1000}


def test_a_stampede_is_cheap(valkey: Deployment) -> None:
    """A hundred threads of four processes who miss a value that takes 200 ms: one call, at most 150 commands."""
    services = [Locksmith() for _ in range(4)]
    ready = threading.Barrier(100)
    calls: list[int] = []

    def populate() -> str:
        calls.append(1)
        time.sleep(0.2)
        return "value"

    def one(service: Locksmith) -> Any:
        cache.get("warm")
        ready.wait(30)
        if ready.n_waiting == 0:
            warm.set()
        warm.wait(30)
        return service.get_or_set("a", populate)

    warm = threading.Event()
    for service in services:
        service.get_or_set(f"{service}", 1)
    answers = [in_thread(lambda service=service: one(service)) for service in services for _ in range(25)]
    poll(lambda: ready.n_waiting == 0 and warm.is_set())
    valkey.forget_commands()
    assert {answer.result(30) for answer in answers} == {"value"}
    assert len(calls) == 1
    commands = valkey.commands()
    print(sum(commands.values()), commands)
    assert sum(commands.values()) <= 150


# ---- Redis fails


def test_redis_is_down(caller: Caller, caplog: Any) -> None:
    """Where Redis cannot be reached, one caller of each process computes, all get its value; a warning is logged."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with override_settings(CACHES={"default": in_process()}, LOCKSMITH={"REDIS": nobody}):
        service = Locksmith()
        origin = Origin({"n": 1}, held=True)
        default = caller.populate(origin)
        answers = [caller.start_get(service, "a", default)]
        origin.begun()
        answers += [caller.start_get(service, "a", default) for _ in range(9)]
        poll(lambda: caller.local_followers(service) == 9)
        other = caller.start_get(Locksmith(), "a", default)
        origin.begun(2)
        origin.let_all_go()
        values = [answer.result(10) for answer in [*answers, other]]
        assert values == [{"n": 1}] * 11
        assert len({id(value) for value in values[1:10]}) == 9
        assert origin.calls == 2
        assert cache.get("a") == {"n": 1}
    assert "Redis cannot say who computes 'a'" in caplog.text


def test_redis_is_down_and_the_computation_fails(caller: Caller) -> None:
    """Where Redis cannot be reached, a failure is shared all the same, within the process."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with override_settings(CACHES={"default": in_process()}, LOCKSMITH={"REDIS": nobody}):
        service = Locksmith()
        origin = Origin(KeyError("x"), held=True)
        own = caller.start_get(service, "a", caller.populate(origin))
        origin.begun()
        other = caller.start_get(service, "a", caller.populate(origin))
        poll(lambda: caller.local_followers(service) == 1)
        origin.let_all_go()
        assert isinstance(own.exception(10), KeyError)
        assert isinstance(other.exception(10), PopulateFailed)


def test_invalidate_without_redis(caller: Caller) -> None:
    """Where Redis cannot be reached, invalidate deletes the value, and says that it could do no more."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with override_settings(CACHES={"default": in_process()}, LOCKSMITH={"REDIS": nobody}):
        cache.set("a", 1)
        with pytest.raises(LockUnavailable):
            caller.invalidate(Locksmith(), "a")
        assert cache.get("a") is None


@pytest.fixture
def silent(own_server: Deployment) -> Iterator[Deployment]:
    """A server that a test makes silent; the values are in a cache of this process."""
    with override_settings(CACHES={"default": own_server.cache, "local": in_process()}):
        yield own_server
        own_server.server.resume()


def test_silent_redis(silent: Deployment, caller: Caller, service: Locksmith) -> None:
    """A Redis that takes requests and never answers delays a value by one socket timeout, and no more."""
    caller.get(service, "warm", 1, cache="local")
    silent.server.pause()
    started = time.monotonic()
    assert caller.get(service, "a", 1, cache="local") == 1
    assert time.monotonic() - started < 1 + SOCKET_TIMEOUT
    assert caches["local"].get("a") == 1
    silent.server.resume()
    assert caller.get(service, "b", 2, cache="local") == 2


def test_redis_falls_silent_during_a_flight(silent: Deployment, caller: Caller) -> None:
    """A value computed while Redis fell silent reaches its caller and the cache; those who wait get one, too."""
    caller.get(Locksmith(), "warm", 1, cache="local")
    origin = Origin(1, held=True)
    answers = Crowd(silent, caller, services=2, callers=2).wants(origin, cache="local")
    silent.server.pause()
    origin.let_all_go()
    assert outcomes(answers) == [1] * 4
    assert origin.calls <= 3  # each on his own, but for those who wait for the leader in his process
    assert caches["local"].get("a") == 1
    silent.server.resume()
    silent.flush()  # what Redis was not told of would end with its lease


def test_silent_for_longer_than_the_lease(silent: Deployment, caller: Caller, service: Locksmith) -> None:
    """A leader that could not be renewed in time does not know whether it leads: it returns its value, unstored."""
    caller.get(service, "warm", 1, cache="local")
    origin = Origin(1, held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), cache="local", lease=0.3)
    origin.begun()
    with silent.server.client() as client:
        (flight,) = silent.flying()
        left = client.pttl(flight) / 1000
    silent.server.pause()
    until = time.monotonic() + left
    poll(lambda: time.monotonic() > until)
    origin.let_all_go()
    assert leader.result(10) == 1
    assert caches["local"].get("a") is None


def test_redis_restarts_during_a_flight(silent: Deployment, caller: Caller) -> None:
    """When Redis restarts and has forgotten the flight, everybody gets a value all the same."""
    origin = Origin(1, held=True)
    answers = Crowd(silent, caller, services=3, callers=2).wants(origin, cache="local")
    silent.server.kill()
    silent.server.start()
    origin.let_all_go()
    assert outcomes(answers) == [1] * 6
    assert origin.calls <= 5  # each on his own, but for those who wait for the leader in his process
    assert caches["local"].get("a") == 1


def test_turned_out_of_a_flight(deployment: Deployment, caller: Caller) -> None:
    """Followers whom the server turns out, as it does when it becomes a replica, go on waiting."""
    origin = Origin(1, held=True)
    answers = Crowd(deployment, caller, services=3, callers=2).wants(origin)
    deployment.turn_out()
    poll(lambda: deployment.blocked() == 2)
    origin.let_all_go()
    assert outcomes(answers) == [1] * 6
    assert origin.calls == 1


@pytest.fixture
def proxy(valkey: Deployment) -> Iterator[Proxy]:
    """A proxy before the server; `near` leads through it."""
    with proxy_to(valkey.server.port) as between:
        yield between


@pytest.fixture
def near(valkey: Deployment, proxy: Proxy) -> Iterator[Locksmith]:
    """A service that reaches Redis only through the proxy; the values do not pass there."""
    through = alias(proxy.url, SOCKET_TIMEOUT=SOCKET_TIMEOUT, SOCKET_CONNECT_TIMEOUT=SOCKET_TIMEOUT)
    with override_settings(CACHES={"default": valkey.cache, "near": through}):
        yield Locksmith(redis="near")


@pytest.mark.parametrize("script", [JOIN, LANDING, LAND], ids=["join", "landing", "land"])
def test_lost_reply(
    valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller, script: Any, caplog: Any
) -> None:
    """A reply that is lost on the way costs nothing: one call, the value is stored, and those who wait have it."""
    caller.get(near, "warm", 1)
    origin = Origin(1, held=True)
    if script is JOIN:
        proxy.cut_reply_to(lambda request: JOIN.digest in request)
    leader = caller.start_get(near, "a", caller.populate(origin), 60)
    origin.begun()
    guest = caller.start_get(near, "a", caller.populate(origin), 60)
    follower = caller.start_get(Locksmith(), "a", caller.populate(origin), 60)
    poll(lambda: caller.local_followers(near) == 1 and valkey.blocked() == 1)
    if script is not JOIN:
        proxy.cut_reply_to(lambda request: script.digest in request)
    origin.let_all_go()
    assert [each.result(10) for each in (leader, guest, follower)] == [1, 1, 1]
    assert proxy.cuts == 1
    assert origin.calls == 1
    assert cache.get("a") == 1
    assert "Redis" not in caplog.text


def test_lost_connection_of_a_follower(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A follower whose connection breaks while it waits asks again, and goes on waiting."""
    origin = Origin(1, held=True)
    leader = caller.start_get(Locksmith(), "a", caller.populate(origin), 60)
    origin.begun()
    follower = caller.start_get(near, "a", caller.populate(origin), 60)
    guest = caller.start_get(near, "a", caller.populate(origin), 60)
    poll(lambda: caller.local_followers(near) == 1 and valkey.blocked() == 1)
    with valkey.server.client() as client:

        def blocked() -> set[str]:
            return {each["id"] for each in client.client_list() if "b" in each["flags"]}

        before = blocked()
        assert [client.client_kill_filter(_id=each) for each in before] == [1]
        poll(lambda: blocked() - before)
    origin.let_all_go()
    assert [each.result(10) for each in (leader, follower, guest)] == [1, 1, 1]
    assert origin.calls == 1


# ---- the news


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who waits looks on the side: what he is not told, he never learns."""
    monkeypatch.setattr("django_locksmith.policy.locks.PROBE_EVERY", 600.0)


@pytest.mark.usefixtures("no_probes")
@pytest.mark.parametrize("end", ["value", KeyError("x"), RetryLater(60), Interrupted(), "void"], ids=repr)
def test_end_of_a_flight_is_told(valkey: Deployment, caller: Caller, end: Any) -> None:
    """However a flight ends, all who wait for it are told at once, and none has to look for himself."""
    origin = Origin(end, "new", held=True)
    answers = Crowd(valkey, caller, services=3, callers=2).wants(origin)
    if end == "void":
        caller.invalidate(Locksmith(), "a")
        origin.let_go(2)
        origin.begun(2)
    origin.let_all_go()
    expected = {KeyError: PopulateFailed, RetryLater: RetryLater}.get(type(end), str)
    assert [type(found) for found in outcomes(answers)[2:]] == [expected] * 4


@pytest.mark.usefixtures("no_probes")
def test_news_before_one_listens(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """What is told between a caller's question who leads and his listening, he hears all the same."""
    caller.get(near, "warm", 1)
    origin = Origin(1, held=True)
    leader = caller.start_get(Locksmith(), "a", caller.populate(origin), 60)
    origin.begun()
    valkey.forget_commands()
    proxy.delay = 0.3
    follower = caller.start_get(near, "a", "other", 60)
    poll(lambda: valkey.commands().get("evalsha", 0) == 1)
    origin.let_all_go()
    assert leader.result(10) == 1
    proxy.delay = 0.0
    assert follower.result(10) == 1


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


def test_unpicklable_value(local: Any, caller: Caller, service: Locksmith, caplog: Any) -> None:
    """What the cache cannot keep is what all callers of the process get who waited for it."""
    value = threading.Lock()
    origin = Origin(value, held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), cache="local")
    origin.begun()
    guest = caller.start_get(service, "a", caller.populate(origin), cache="local")
    poll(lambda: caller.local_followers(service) == 1)
    origin.let_all_go()
    assert leader.result(10) is value
    assert guest.result(10) is value
    assert "could not store 'a'" in caplog.text


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
    Locksmith().invalidate("a", cache="local")
    assert 0.9 < time.monotonic() - started < 5
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


# ---- who gives up, and who is given up


def test_given_up_after_max_hold(valkey: Deployment, caller: Caller) -> None:
    """A computation that hangs for longer than max_hold has a successor; what it brings in the end is not stored."""
    origin = Origin("hung", "new", held=True)
    answers = Crowd(valkey, caller, services=2, callers=1).wants(origin, lease=1, max_hold=1)
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
    host = caller.start_get(service, "a", 2, blocking_timeout=1)
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
        for number in range(200):
            key = f"key {number}"
            task = asyncio.ensure_future(mine.aget_or_set(key, "mine"))
            guest = asyncio.ensure_future(mine.aget_or_set(key, "guest", blocking_timeout=5))
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.006), task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await task
            cancelled += task.cancelled()
            found = await other.aget_or_set(key, "other", blocking_timeout=5)
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
