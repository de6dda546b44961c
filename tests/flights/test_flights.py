"""What every deployment promises of single flight, for threads and tasks: written once, run over all of them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache, caches
from django.test import override_settings

from django_locksmith import LockBusy, LockReentered, Locksmith, PopulateFailed, RetryLater
from tests.helpers.origins import Origin, TaskOrigin
from tests.helpers.servers import is_left, poll, stopwatch

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

OLD = "locksmith-old-1"  # the version of the copy


class Crowd:
    """Callers of several services, each service standing for a process, who want the same value."""

    def __init__(self, where: Deployment, caller: Caller, services: int, callers: int) -> None:
        self.where = where
        self.caller = caller
        self.services = [Locksmith() for _ in range(services)]
        self.callers = callers

    def wants(self, origin: Origin, key: str = "a", **how: Any) -> list[list[Future[Any]]]:
        """One list of callers for each service; the first of the first is computing, all others wait for it."""
        default = self.caller.populate(origin)
        answers = []
        for service in self.services:
            answers.append([self.caller.start_get(service, key, default, 60, **how)])
            if len(answers) == 1:
                origin.begun()
            else:
                poll(lambda: self.where.blocked() == len(answers) - 1)
        for service, mine in zip(self.services, answers, strict=True):
            mine += [self.caller.start_get(service, key, default, 60, **how) for _ in range(self.callers - 1)]
            poll(lambda service=service: self.caller.local_followers(service) == self.callers - 1)
        return answers


def outcomes(answers: list[list[Future[Any]]]) -> list[Any]:
    """What each caller got, be it a value or an exception."""
    found = []
    for answer in (answer for mine in answers for answer in mine):
        error = answer.exception(30)
        found.append(answer.result() if error is None else error)
    return found


def let_go_of_old_values(key: str = "a") -> None:
    """As if the timeout of the value were over, but not that of its old copy."""
    cache.delete(key)
    assert cache.get(key, version=OLD) is not None


# ---- one computes, all others wait


def test_one_computes_for_all(deployment: Deployment, caller: Caller) -> None:
    """Of many callers in many processes who miss a value at the same time, one computes it; each gets it to himself."""
    origin = Origin({"n": [1]}, held=True)
    answers = Crowd(deployment, caller, services=3, callers=4).wants(origin)
    origin.let_all_go()
    values = outcomes(answers)
    assert values == [{"n": [1]}] * 12
    assert origin.calls == 1
    assert len({id(value) for value in values}) == 12
    assert len({id(value["n"]) for value in values}) == 12
    assert cache.get("a") == {"n": [1]}


def test_a_value_that_is_there_is_returned(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """What the cache has is returned as it is, whoever put it there; nothing is computed."""
    cache.set("a", {"n": 1}, 60)
    origin = Origin(2)
    assert caller.get(service, "a", caller.populate(origin)) == {"n": 1}
    assert origin.calls == 0


def test_none_is_a_value(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """None is computed once and kept as any other value is, for those who waited and for those who come later."""
    origin = Origin(None, 2, held=True)
    answers = Crowd(deployment, caller, services=2, callers=2).wants(origin)
    origin.let_all_go()
    assert outcomes(answers) == [None] * 4
    assert caller.get(service, "a", caller.populate(origin)) is None
    assert origin.calls == 1


def test_default_may_be_a_value(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """What is given instead of a function is the value."""
    for number, value in enumerate([0, "", [], {"a": 1}, b"\0", 1.5]):
        assert caller.get(service, f"{number}", value) == value
        assert cache.get(f"{number}") == value
        assert caller.get(service, f"{number}", "other") == value


def test_timeouts_are_kept(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """The value is kept for its timeout, its old copy for `stale` longer; without a timeout both mean what Django does.

    A value that is kept for ever needs no copy.
    """
    since = time.monotonic()
    caller.get(service, "a", 1, 60, stale=40)
    caller.get(service, "b", 1, timedelta(seconds=60))
    caller.get(service, "c", 1, None, stale=40)
    caller.get(service, "d", 1)
    assert is_left(cache.ttl("a"), 60, since, early=2)
    assert is_left(cache.ttl("a", version=OLD), 100, since, early=2)
    assert is_left(cache.ttl("b"), 60, since, early=2)
    assert cache.ttl("c") is None
    assert is_left(cache.ttl("d"), 300, since, early=2)
    assert [key for key in ("b", "c", "d") if cache.get(key, version=OLD) is not None] == []


def test_scripts_are_loaded_again(deployment: Deployment, caller: Caller) -> None:
    """A server that forgot the scripts in the middle of a flight makes no difference."""
    origin = Origin(1, held=True)
    answers = Crowd(deployment, caller, services=2, callers=2).wants(origin)
    for server in deployment.servers:
        with server.client() as client:
            client.script_flush()
    origin.let_all_go()
    assert outcomes(answers) == [1] * 4
    assert origin.calls == 1


# ---- the computation fails


class Broken(Exception):
    """What a computation raises."""


def test_failure_is_shared(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """The one who computed gets his own exception, all who waited PopulateFailed; a newcomer computes anew."""
    error = Broken("no\nsuch {thing} ä\0'\"")
    origin = Origin(error, 2, held=True)
    answers = Crowd(deployment, caller, services=2, callers=3).wants(origin)
    origin.let_all_go()
    own, *others = outcomes(answers)
    assert own is error
    for other in others:
        assert type(other) is PopulateFailed
        assert (other.key, other.kind, other.message) == ("a", f"{__name__}.Broken", str(error))
    assert origin.calls == 1
    assert caller.get(service, "a", caller.populate(origin)) == 2


def test_builtin_exceptions_have_short_names(deployment: Deployment, caller: Caller) -> None:
    """The kind of a builtin exception is its plain name."""
    origin = Origin(KeyError("x"), held=True)
    answers = Crowd(deployment, caller, services=2, callers=1).wants(origin)
    origin.let_all_go()
    failed = outcomes(answers)[1]
    assert (failed.kind, failed.message) == ("KeyError", "'x'")


def test_failure_is_remembered(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """With error_ttl, newcomers get PopulateFailed without a call, whatever they wish, until that time is over."""
    origin = Origin(Broken("once"), 2)
    default = caller.populate(origin)
    with pytest.raises(Broken):
        caller.get(service, "a", default, error_ttl=60)
    for other, on_error in [(service, "share"), (Locksmith(), "share"), (service, "retry")]:
        with pytest.raises(PopulateFailed) as caught:
            caller.get(other, "a", default, on_error=on_error)
        assert (caught.value.kind, caught.value.message) == (f"{__name__}.Broken", "once")
    assert origin.calls == 1
    end_the_pause(deployment)
    assert caller.get(service, "a", default) == 2


def end_the_pause(where: Deployment) -> None:
    """As if the minute were over during which nobody may compute."""
    (pause,) = (key for key in where.keys() if key.startswith("__locksmith:<pause>"))  # noqa: SIM118  # no dict
    assert 30_000 < left(where, pause) <= 60_000
    where.forget(pause)


def test_invalidate_forgets_a_failure(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A failure that is remembered is forgotten when the value is invalidated."""
    origin = Origin(Broken("once"), 2)
    with pytest.raises(Broken):
        caller.get(service, "a", caller.populate(origin), error_ttl=60)
    caller.invalidate(Locksmith(), "a")
    assert caller.get(service, "a", caller.populate(origin)) == 2


def test_retry_elects_one(deployment: Deployment, caller: Caller) -> None:
    """With on_error="retry", one of those who waited tries next, never two at once; who then waited gets its value."""
    origin = Origin(Broken("first"), {"n": 2}, held=True)
    answers = Crowd(deployment, caller, services=3, callers=3).wants(origin, on_error="retry")
    origin.let_go(1)
    origin.begun(2)
    assert isinstance(answers[0][0].exception(10), Broken)
    origin.let_all_go()
    assert outcomes(answers)[1:] == [{"n": 2}] * 8
    assert origin.calls == 2
    assert origin.most_at_once == 1


def test_retries_are_one_after_the_other(deployment: Deployment, caller: Caller) -> None:
    """Where the next one fails, too, he gets his own exception, and one of the others is elected after him."""
    errors = [Broken(str(n)) for n in range(3)]
    origin = Origin(*errors, "value", held=True)
    answers = Crowd(deployment, caller, services=2, callers=3).wants(origin, on_error="retry")
    origin.let_all_go()
    found = outcomes(answers)
    assert sorted(str(error) for error in found if isinstance(error, Broken)) == ["0", "1", "2"]
    assert found.count("value") == 3
    assert origin.calls == 4
    assert origin.most_at_once == 1


# ---- old values


def test_old_value_while_one_computes(deployment: Deployment, caller: Caller) -> None:
    """When the value is out of date, one caller computes and all others get the old one at once; then all the new."""
    services = [Locksmith() for _ in range(3)]
    origin = Origin({"n": 1}, {"n": 2}, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    caller.get(services[0], "a", default, 60, stale=60)
    let_go_of_old_values()
    leader = caller.start_get(services[0], "a", default, 60, stale=60)
    origin.begun(2)
    old = [caller.get(service, "a", default, 60, stale=60) for service in services for _ in range(2)]
    assert old == [{"n": 1}] * 6
    assert len({id(value) for value in old}) == 6
    assert not leader.done()
    origin.let_all_go()
    assert leader.result(10) == {"n": 2}
    assert [caller.get(service, "a", default, 60, stale=60) for service in services] == [{"n": 2}] * 3
    assert origin.calls == 2
    assert cache.get("a", version=OLD) == {"n": 2}


def test_who_keeps_no_old_value_waits(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A caller who does not ask for old values waits for the new one."""
    origin = Origin(1, 2, held=True)
    origin.let_go(1)
    default = caller.populate(origin)
    caller.get(service, "a", default, 60, stale=60)
    let_go_of_old_values()
    leader = caller.start_get(service, "a", default, 60, stale=60)
    origin.begun(2)
    other = caller.start_get(Locksmith(), "a", default, 60)
    poll(lambda: deployment.blocked() == 1)
    origin.let_all_go()
    assert (leader.result(10), other.result(10)) == (2, 2)


def test_old_value_instead_of_a_failure(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """With on_error="stale", the old value stands in for a failure, also for the one whose computation failed."""
    origin = Origin(1, Broken("now"), 3)
    default = caller.populate(origin)
    how = {"stale": 60, "on_error": "stale"}
    caller.get(service, "a", default, 60, **how)
    let_go_of_old_values()
    assert caller.get(service, "a", default, 60, **how) == 1
    assert origin.calls == 2
    assert caller.get(service, "a", default, 60, **how) == 3


def test_old_value_instead_of_a_remembered_failure(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """So long as a failure is remembered, on_error="stale" gets the old value without a call, others PopulateFailed."""
    origin = Origin(1, Broken("now"), 3)
    default = caller.populate(origin)
    caller.get(service, "a", default, 60, stale=60)
    let_go_of_old_values()
    with pytest.raises(Broken):
        caller.get(service, "a", default, 60, stale=60, error_ttl=60)
    for other in (service, Locksmith()):
        assert caller.get(other, "a", default, 60, stale=60, on_error="stale") == 1
        with pytest.raises(PopulateFailed):
            caller.get(other, "a", default, 60, stale=60)
    assert origin.calls == 2


def test_stale_without_an_old_value(deployment: Deployment, caller: Caller) -> None:
    """Where there is no old value yet, on_error="stale" is as "share" is."""
    origin = Origin(Broken("first"), held=True)
    answers = Crowd(deployment, caller, services=2, callers=2).wants(origin, stale=60, on_error="stale")
    origin.let_all_go()
    own, *others = outcomes(answers)
    assert isinstance(own, Broken)
    assert [type(other) for other in others] == [PopulateFailed] * 3


# ---- an API that wants to be left alone


def test_nobody_calls_before(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """After RetryLater nobody in the fleet calls before the time is over; each is told the seconds left. Then one."""
    first = RetryLater(60)
    origin = Origin(first, 2, held=True)
    crowd = Crowd(deployment, caller, services=2, callers=3)
    answers = crowd.wants(origin)
    origin.let_go(1)
    own, *others = outcomes(answers)
    assert own is first
    assert [type(other) for other in others] == [RetryLater] * 5
    assert all(30 < other.seconds <= 60 for other in others)
    default = caller.populate(origin)
    for other in (service, *crowd.services):
        with pytest.raises(RetryLater) as caught:
            caller.get(other, "a", default)
        assert 30 < caught.value.seconds <= 60
    assert origin.calls == 1
    end_the_pause(deployment)
    answers = [[caller.start_get(other, "a", default)] for other in crowd.services]
    origin.begun(2)
    origin.let_all_go()
    assert outcomes(answers) == [2, 2]
    assert origin.calls == 2


def test_old_value_while_nobody_may_call(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """So long as nobody may call, those who keep old values get them, also the one who was told to retry later."""
    origin = Origin(1, RetryLater(60), 3)
    default = caller.populate(origin)
    caller.get(service, "a", default, 60, stale=60)
    let_go_of_old_values()
    for other in (service, service, Locksmith()):
        assert caller.get(other, "a", default, 60, stale=60) == 1
    with pytest.raises(RetryLater) as caught:
        caller.get(Locksmith(), "a", default, 60)
    assert 50 < caught.value.seconds <= 60
    assert origin.calls == 2


def test_invalidate_does_not_lift_it(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """What the API asked for stands, whatever becomes of the value."""
    origin = Origin(RetryLater(timedelta(minutes=1)))
    default = caller.populate(origin)
    with pytest.raises(RetryLater):
        caller.get(service, "a", default)
    caller.invalidate(service, "a")
    with pytest.raises(RetryLater) as caught:
        caller.get(service, "a", default)
    assert 50 < caught.value.seconds <= 60
    assert origin.calls == 1


# ---- the lease of a flight


def test_longer_than_the_lease(deployment: Deployment, caller: Caller) -> None:
    """A computation that takes longer than the lease is renewed: nobody else computes, nobody sees an error."""
    origin = Origin(1, held=True)
    answers = Crowd(deployment, caller, services=2, callers=2).wants(origin, lease=6)
    (flight,) = deployment.flying()
    renewed = 0
    before = left(deployment, flight)

    def renewed_twice() -> bool:
        nonlocal renewed, before
        now = left(deployment, flight)
        renewed += now > before
        before = now
        return renewed == 2

    poll(renewed_twice, within=20)
    origin.let_all_go()
    assert outcomes(answers) == [1] * 4
    assert origin.calls == 1
    assert cache.get("a") == 1


def left(where: Deployment, key: str) -> int:
    """Milliseconds that this key has left, on whichever server it is."""
    for server in where.servers:
        with server.client() as client:
            if key in client.keys("*"):
                return int(client.pttl(key))
    raise AssertionError(f"{key!r} is nowhere")


def test_lost_flight_stores_nothing(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A leader whose flight is gone keeps its value to itself: its caller gets it, the cache does not."""
    origin = Origin("lost", "new", held=True)
    default = caller.populate(origin)
    leader = caller.start_get(service, "a", default)
    origin.begun()
    guest = caller.start_get(service, "a", default)
    poll(lambda: caller.local_followers(service) == 1)
    (flight,) = deployment.flying()
    deployment.forget(flight)
    origin.let_go(1)
    assert leader.result(10) == "lost"
    origin.begun(2)
    assert cache.get("a") is None
    origin.let_all_go()
    assert guest.result(10) == "new"
    assert cache.get("a") == "new"


# ---- invalidation


def test_invalidate_deletes(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Invalidating deletes the value and its old copy; of what is not there, it does no harm."""
    caller.get(service, "a", 1, 60, stale=60)
    caller.get(service, "b", 2, 60, stale=60)
    caller.invalidate(service, "a")
    caller.invalidate(service, "nothing")
    assert (cache.get("a"), cache.get("a", version=OLD)) == (None, None)
    assert (cache.get("b"), cache.get("b", version=OLD)) == (2, 2)


def test_invalidate_during_a_flight(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A value that was begun before the invalidation goes to its own caller alone; one of those who waited computes."""
    origin = Origin("old", "new", held=True)
    answers = Crowd(deployment, caller, services=3, callers=2).wants(origin)
    caller.invalidate(service, "a")
    origin.begun(2)
    newcomer = caller.start_get(service, "a", caller.populate(origin), 60)
    poll(lambda: deployment.blocked() == 2)
    origin.let_go(2)
    assert newcomer.result(10) == "new"
    assert outcomes(answers[1:]) == ["new"] * 4
    origin.let_all_go()
    assert outcomes(answers[:1]) == ["old", "new"]
    assert origin.calls == 2
    assert cache.get("a") == "new"


def test_invalidated_value_does_not_come_back(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A computation that was begun before an invalidation stores nothing, neither the value nor its old copy."""
    origin = Origin("old", held=True)
    leader = caller.start_get(service, "a", caller.populate(origin), 60, stale=60)
    origin.begun()
    caller.invalidate(Locksmith(), "a")
    origin.let_all_go()
    assert leader.result(10) == "old"
    assert (cache.get("a"), cache.get("a", version=OLD)) == (None, None)


# ---- a computation that needs other values


def nested(caller: Caller, service: Locksmith, *keys: str) -> Any:
    """A default that asks for the first key, whose default asks for the second, and so on."""
    if not keys:
        return "value"
    inner = nested(caller, service, *keys[1:])
    if caller.name == "sync":
        return lambda: service.get_or_set(keys[0], inner, blocking_timeout=5)

    async def default() -> Any:
        return await service.aget_or_set(keys[0], inner, blocking_timeout=5)

    return default


@pytest.mark.parametrize("keys", [["a"], ["b", "c", "b"]], ids="-".join)
def test_asking_for_what_one_computes(
    deployment: Deployment, caller: Caller, service: Locksmith, keys: list[str]
) -> None:
    """A computation that needs the value it computes is told so at once; nothing is locked after that."""
    with pytest.raises(LockReentered) as caught:
        caller.get(service, "a", nested(caller, service, *keys))
    assert caught.value.key == keys[-1]
    assert not deployment.flying()
    assert caller.local_followers(service) == 0
    assert caller.get(service, "a", 1) == 1


def test_computations_may_need_each_other(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A computation may ask for other values, and for the next when it is done."""
    assert caller.get(service, "a", nested(caller, service, "b", "c")) == "value"
    assert [cache.get(key) for key in "abc"] == ["value"] * 3
    cache.clear()
    assert caller.get(service, "a", nested(caller, service, "b", "c")) == "value"


# ---- keys


ODD_KEYS = ["", "a b", "line\r\nline\0", "{", "a{}b", "a{b}c", "}{", "ä€😀", "x" * 5000, "<flight>"]


@pytest.mark.parametrize("deployment", ["valkey", "cluster"], indirect=True)
@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key[:20]))
def test_any_text_is_a_key(deployment: Deployment, caller: Caller, service: Locksmith, key: str) -> None:
    """Whatever text a key is, its value is computed by one for all, and can be invalidated."""
    origin = Origin(1, 2, held=True)
    answers = Crowd(deployment, caller, services=2, callers=2).wants(origin, key)
    assert caller.get(service, key + "x", 5) == 5  # is another flight
    origin.let_go(1)
    assert outcomes(answers) == [1] * 4
    assert cache.get(key) == 1
    caller.invalidate(service, key)
    origin.let_all_go()
    assert caller.get(service, key, caller.populate(origin)) == 2
    assert origin.calls == 2


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
def test_prefix_that_does_not_fit_a_cluster(deployment: Deployment, caller: Caller) -> None:
    """A prefix that would scatter the keys of a flight over a cluster is refused, as it is for locks."""
    with pytest.raises(ValueError, match="open brace"):
        caller.get(Locksmith(prefix="a{b:"), "a", 1)


def test_long_keys_are_told_apart(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Keys that differ only at the end of thousands of characters are different flights."""
    one, other = "x" * 5000, "x" * 4999 + "y"
    origin = Origin(1, held=True)
    leader = caller.start_get(service, one, caller.populate(origin))
    origin.begun()
    assert caller.get(service, other, 2) == 2
    origin.let_all_go()
    assert leader.result(10) == 1


def test_flights_of_other_entries(deployment: Deployment, caller: Caller) -> None:
    """Entries that Django keeps apart, by version, key prefix or cache, have flights of their own."""
    others = {
        "default": deployment.cache,
        "prefixed": {**deployment.cache, "KEY_PREFIX": "mine"},
        "versioned": {**deployment.cache, "VERSION": 3},
        "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    with override_settings(CACHES=others):
        service = Locksmith()
        origin = Origin("held", held=True)
        leader = caller.start_get(service, "a", caller.populate(origin))
        origin.begun()
        assert caller.get(service, "a", "version 2", version=2) == "version 2"
        for alias in ("prefixed", "versioned", "local"):
            assert caller.get(service, "a", alias, cache=alias) == alias
            assert caches[alias].get("a") == alias
        assert not leader.done()
        # `version=1` says what is so anyway: the same entry, the same flight.
        same = caller.start_get(service, "a", "other", version=1)
        poll(lambda: caller.local_followers(service) == 1)
        origin.let_all_go()
        assert (leader.result(10), same.result(10)) == ("held", "held")
        caller.invalidate(service, "a", version=2)
        caller.invalidate(service, "a", cache="local")
        assert cache.get("a") == "held"
        assert cache.get("a", version=2) is None
        assert caches["local"].get("a") is None
        assert caches["prefixed"].get("a") == "prefixed"
        caches["local"].clear()


# ---- waits are bounded


def lead(caller: Caller, service: Locksmith, origin: Origin, number: int = 1, **how: Any) -> Future[Any]:
    """A leader that is computing."""
    leader = caller.start_get(service, "a", caller.populate(origin), 60, **how)
    origin.begun(number)
    return leader


@pytest.mark.parametrize(
    ("wait", "on_timeout"), [(0, "stale_or_raise"), (0.1, "raise"), (timedelta(milliseconds=100), "stale_or_raise")]
)
def test_end_of_the_wait(deployment: Deployment, caller: Caller, wait: Any, on_timeout: str) -> None:
    """A wait ends when it is over, with LockBusy that says who computes; the flight goes on."""
    services = [Locksmith(), Locksmith()]
    origin = Origin(1, held=True)
    leader = lead(caller, services[0], origin)
    for service in services:  # a guest in the process of the leader, a follower in another one
        started = time.monotonic()
        with stopwatch() as took:
            with pytest.raises(LockBusy) as caught:
                caller.get(service, "a", 2, blocking_timeout=wait, on_timeout=on_timeout)
            assert took() < 5
        assert time.monotonic() - started >= (0.1 if wait else 0)
        assert caught.value.key == "a"
    holder = caught.value.holder
    assert holder is not None
    assert holder.pid > 0
    assert holder.thread
    assert caught.value.retry_after is not None
    assert 20 < caught.value.retry_after <= 30
    origin.let_all_go()
    assert leader.result(10) == 1
    assert cache.get("a") == 1


def test_old_value_at_the_end_of_the_wait(deployment: Deployment, caller: Caller) -> None:
    """Who keeps old values gets one without a wait, and no LockBusy."""
    services = [Locksmith(), Locksmith()]
    caller.get(services[0], "a", 1, 60, stale=60)
    let_go_of_old_values()
    origin = Origin(2, held=True)
    leader = lead(caller, services[0], origin, stale=60)
    for service in services:
        for on_timeout in ("stale_or_raise", "raise", "compute"):
            assert caller.get(service, "a", 3, 60, stale=60, blocking_timeout=0, on_timeout=on_timeout) == 1
    origin.let_all_go()
    assert leader.result(10) == 2


@pytest.mark.parametrize("wait", [0, 0.1])
def test_compute_at_the_end_of_the_wait(deployment: Deployment, caller: Caller, wait: float) -> None:
    """With on_timeout="compute", the end of the wait brings a value of one's own, which is not stored."""
    services = [Locksmith(), Locksmith()]
    origin = Origin("led", held=True)
    leader = lead(caller, services[0], origin)
    for service in services:
        assert caller.get(service, "a", "own", 60, blocking_timeout=wait, on_timeout="compute") == "own"
        assert cache.get("a") is None
    origin.let_all_go()
    assert leader.result(10) == "led"
    assert cache.get("a") == "led"


def test_setting_bounds_the_wait(deployment: Deployment, caller: Caller) -> None:
    """Without a blocking_timeout of its own, a wait lasts as long as the settings say."""
    origin = Origin(1, held=True)
    leader = lead(caller, Locksmith(), origin)
    impatient = Locksmith(blocking_timeout=0.1)
    with pytest.raises(LockBusy):
        caller.get(impatient, "a", 2)
    patient = caller.start_get(impatient, "a", 2, blocking_timeout=None)
    poll(lambda: deployment.blocked() == 1)
    origin.let_all_go()
    assert (leader.result(10), patient.result(10)) == (1, 1)


# ---- who is interrupted


class Interrupted(BaseException):
    """As Ctrl-C, or a time limit."""


def test_interrupted_leader_has_one_successor(deployment: Deployment, caller: Caller) -> None:
    """When the one who computes is interrupted, exactly one of the others computes at once, and all get its value."""
    origin = Origin(Interrupted(), "new", held=True)
    answers = Crowd(deployment, caller, services=3, callers=2).wants(origin)
    with stopwatch() as took:
        origin.let_go(1)
        origin.begun(2)
        assert took() < 5  # long before the lease is over
    origin.let_all_go()
    own, *others = outcomes(answers)
    assert isinstance(own, Interrupted)
    assert others == ["new"] * 5
    assert origin.calls == 2


# ---- tasks


def test_cancelled_leader_has_one_successor(deployment: Deployment) -> None:
    """When the task that computes is cancelled, exactly one of the others computes, and all get its value."""

    async def play() -> None:
        services = [Locksmith(), Locksmith()]
        origin = TaskOrigin()
        leader = asyncio.ensure_future(services[0].aget_or_set("a", origin))
        await origin.begun()
        others = [asyncio.ensure_future(services[n % 2].aget_or_set("a", origin)) for n in range(6)]
        await asyncio.to_thread(poll, lambda: deployment.blocked() == 1)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        await origin.begun()
        origin.held.set()
        assert await asyncio.wait_for(asyncio.gather(*others), 10) == ["value"] * 6
        assert origin.calls == 2

    asyncio.run(play())


def test_child_task_of_a_computation(deployment: Deployment) -> None:
    """A task that a computation starts, or a thread it sends to work, is told, too, when it asks for the same value."""

    async def play() -> None:
        service = Locksmith()

        async def by_task() -> Any:
            return await asyncio.ensure_future(service.aget_or_set("a", 1, blocking_timeout=5))

        async def by_thread() -> Any:
            return await asyncio.to_thread(service.get_or_set, "a", 1, blocking_timeout=5)

        for populate in (by_task, by_thread):
            with pytest.raises(LockReentered):
                await asyncio.wait_for(service.aget_or_set("a", populate), 10)
        assert await service.aget_or_set("a", 1) == 1

    asyncio.run(play())
