"""Single flight when Redis or the network fails, and what it costs when nothing does."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache, caches
from django.test import override_settings

from django_locksmith import Locksmith, LockUnavailable, PopulateFailed, RetryLater
from django_locksmith.redis.lua import JOIN, LAND, LANDING
from tests.flights.caches import in_process
from tests.flights.test_flights import Crowd, Interrupted, outcomes
from tests.helpers.callers import SyncCaller, in_thread
from tests.helpers.deployments import SOCKET_TIMEOUT, alias
from tests.helpers.origins import Origin
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import free_port, poll, stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment
    from tests.helpers.proxy import Proxy


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


# A computation of 200 ms sees no probes; this one lasts for as long as the machine takes.
@pytest.mark.usefixtures("no_probes")
def test_a_stampede_is_cheap(valkey: Deployment) -> None:
    """A hundred threads of four processes who miss a value that takes 200 ms: one call, at most 150 commands."""
    services = [Locksmith() for _ in range(4)]
    origin = Origin("value", held=True)

    def one(service: Locksmith) -> Any:
        cache.get("warm")
        ready.wait(30)
        return service.get_or_set("a", origin)

    for service in services:
        service.get_or_set(f"{service}", 1)
    ready = threading.Barrier(100, action=valkey.forget_commands)
    answers = [in_thread(lambda service=service: one(service)) for service in services for _ in range(25)]
    origin.begun()
    began = time.monotonic()
    poll(lambda: sum(SyncCaller().local_followers(service) for service in services) == 96 and valkey.blocked() == 3)
    poll(lambda: time.monotonic() - began > 0.2)
    origin.let_all_go()
    assert {answer.result(30) for answer in answers} == {"value"}
    assert origin.calls == 1
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
    with stopwatch() as took:
        assert caller.get(service, "a", 1, cache="local") == 1
        assert took() < 1 + SOCKET_TIMEOUT
    assert caches["local"].get("a") == 1
    silent.server.resume()
    assert caller.get(service, "b", 2, cache="local") == 2


def test_redis_falls_silent_during_a_flight(silent: Deployment, caller: Caller, service: Locksmith) -> None:
    """A value computed while Redis fell silent reaches its caller and the cache; those who wait get one, too."""
    caller.get(service, "warm", 1, cache="local")
    origin = Origin(1, held=True)
    crowd = Crowd(silent, caller, services=2, callers=2)
    answers = crowd.wants(origin, cache="local")
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
    leader = caller.start_get(service, "a", caller.populate(origin), cache="local", lease=5)
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
    crowd = Crowd(silent, caller, services=3, callers=2)
    answers = crowd.wants(origin, cache="local")
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
    with override_settings(CACHES={"default": valkey.cache, "near": alias(proxy.url)}):
        yield Locksmith(redis="near")


def nearly_given_back(service: Locksmith) -> int:
    giving_back = service.runtime()._giving_back
    return len(giving_back._left) if giving_back else 0


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
    assert not nearly_given_back(near), "what was answered in the end is ours"
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
    proxy.replies.clear()
    follower = caller.start_get(near, "a", "other", 60)
    poll(lambda: valkey.commands().get("evalsha", 0) == 1)
    origin.let_all_go()
    assert leader.result(10) == 1
    proxy.replies.set()
    assert follower.result(10) == 1
