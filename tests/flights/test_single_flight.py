"""The decorator for single flight, the arguments of get_or_set, and the errors it raises."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import pickle
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.core.cache import cache

from django_locksmith import LockReentered, Locksmith, PopulateFailed, RetryLater, locksmith, single_flight
from tests.helpers.callers import local_followers_of
from tests.helpers.servers import is_left, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.deployments import Deployment


# ---- the decorator


def test_key_is_a_template(valkey: Deployment) -> None:
    """The key is made of the arguments, however they are given and with their defaults; each has its own value."""
    calls: list[Any] = []
    since = time.monotonic()

    @single_flight(key="add:{a}:{b}", timeout=60)
    def add(a: int, b: int = 2) -> int:
        """Sum of both."""
        calls.append((a, b))
        return a + b

    assert (add(1), add(1, 2), add(b=2, a=1), add(1, 3)) == (3, 3, 3, 4)
    assert calls == [(1, 2), (1, 3)]
    assert cache.get("add:1:2") == 3
    assert is_left(cache.ttl("add:1:2"), 60, since, early=2)


def test_what_is_decorated_is_still_itself(valkey: Deployment) -> None:
    """Name, docstring, signature and kind of a function stay."""

    @single_flight(key="a")
    def plain(a: int = 1) -> int:
        """Plain."""
        return a

    @single_flight(key="a")
    async def task(a: int = 1) -> int:
        """Task."""
        return a

    assert (plain.__name__, plain.__doc__, str(inspect.signature(plain))) == (
        "plain",
        "Plain.",
        "(a: 'int' = 1) -> 'int'",
    )
    assert (task.__name__, task.__doc__) == ("task", "Task.")
    assert inspect.iscoroutinefunction(task)
    assert not inspect.iscoroutinefunction(plain)


def test_decorated_coroutine_function(valkey: Deployment) -> None:
    """An async function is computed once for all tasks that await it at the same time."""
    calls: list[str] = []
    go_on = asyncio.Event()

    @single_flight(key="city:{name}", timeout=60)
    async def city(name: str) -> dict[str, str]:
        calls.append(name)
        await go_on.wait()
        return {"name": name}

    async def play() -> None:
        answers = [asyncio.ensure_future(city("Bern")) for _ in range(10)]
        local_flights = locksmith.runtime().loop().local_flights
        await asyncio.to_thread(poll, lambda: local_followers_of(local_flights) == 9)
        go_on.set()
        assert await asyncio.gather(*answers) == [{"name": "Bern"}] * 10
        await city.ainvalidate("Bern")  # type: ignore[attr-defined]
        await city("Bern")

    asyncio.run(play())
    assert calls == ["Bern", "Bern"]


class Report:
    """Has methods whose results are kept."""

    def __init__(self, pk: int) -> None:
        self.pk = pk
        self.calls = 0

    @single_flight(key="report:{self.pk}:{year}", timeout=60)
    def total(self, year: int = 2020) -> int:
        self.calls += 1
        return self.pk * year

    @single_flight(key="report:{self.pk}:async", timeout=60)
    async def async_total(self) -> int:
        self.calls += 1
        return self.pk

    @classmethod
    @single_flight(key="report:class:{pk}")
    def make(cls, pk: int) -> str:
        return f"{cls.__name__} {pk}"

    @staticmethod
    @single_flight(key="report:static:{pk}")
    def check(pk: int) -> str:
        return f"checked {pk}"


def test_methods(valkey: Deployment) -> None:
    """Of a method, the key may be made of the object's attributes."""
    one, same, other = Report(1), Report(1), Report(2)
    assert [each.total() for each in (one, same, other)] == [2020, 2020, 4040]
    assert (one.calls, same.calls, other.calls) == (1, 0, 1)
    assert asyncio.run(one.async_total()) == asyncio.run(same.async_total()) == 1
    assert (Report.make(3), Report.check(4)) == ("Report 3", "checked 4")
    assert cache.get("report:class:3") == "Report 3"


def test_decorated_invalidate(valkey: Deployment) -> None:
    """Each decorated function has invalidate and ainvalidate, which take the arguments of the call."""
    calls: list[int] = []

    @single_flight(key="n:{n}", timeout=60, stale=60)
    def load(n: int) -> int:
        calls.append(n)
        return n

    load(1), load(2)
    load.invalidate(1)  # type: ignore[attr-defined]
    assert (cache.get("n:1"), cache.get("n:1", version="locksmith-old-1"), cache.get("n:2")) == (None, None, 2)
    asyncio.run(load.ainvalidate(n=2))  # type: ignore[attr-defined]
    assert cache.get("n:2") is None
    assert (load(1), load(2), calls) == (1, 2, [1, 2, 1, 2])


def test_invalidate_of_a_method(valkey: Deployment) -> None:
    """That of a method knows the object it is called on; that of the class takes it first, also of class methods."""
    one = Report(1)
    for forget in (lambda: Report.total.invalidate(one, year=7), lambda: one.total.invalidate(year=7)):
        one.total(year=7)
        assert cache.get("report:1:7") == 7
        forget()
        assert cache.get("report:1:7") is None
    asyncio.run(one.async_total())
    asyncio.run(one.async_total.ainvalidate())
    assert cache.get("report:1:async") is None
    Report.make(3), Report.check(4)
    Report.make.invalidate(Report, 3)  # type: ignore[call-arg, arg-type]  # of a class method, the types do not know
    Report.check.invalidate(4)
    assert (cache.get("report:class:3"), cache.get("report:static:4")) == (None, None)


def test_methods_look_like_themselves(valkey: Deployment) -> None:
    """A decorated method has its name, its text and its signature, is async if it was, and is called by its class."""
    one = Report(1)
    assert (one.total.__name__, Report.total.__qualname__) == ("total", "Report.total")
    assert list(inspect.signature(one.total).parameters) == ["year"]
    assert list(inspect.signature(Report.total).parameters) == ["self", "year"]
    assert iscoroutinefunction(one.async_total)
    assert iscoroutinefunction(Report.async_total)
    assert not iscoroutinefunction(one.total)
    assert Report.total(one, 3) == 3


def test_options_are_those_of_get_or_set(valkey: Deployment) -> None:
    """The options of get_or_set are those of the decorator; version and all else go where they belong."""
    outcomes: list[Any] = [1, KeyError("x"), RetryLater(60)]

    @single_flight(key="a", timeout=60, version=7, stale=60, on_error="stale")
    def load() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    assert load() == 1
    assert cache.get("a", version=7) == 1
    for _ in range(2):  # the failure, and the one who is asked to retry later
        cache.delete("a", version=7)
        assert load() == 1
    assert outcomes == []
    load.invalidate()  # type: ignore[attr-defined]
    with pytest.raises(RetryLater):
        load()


def test_service_of_ones_own(valkey: Deployment) -> None:
    """Another service decorates, too."""

    @Locksmith(prefix="mine:").single_flight("a", 60)
    def load() -> int:
        with valkey.server.client() as client:
            return len(client.keys("mine:<flight>*"))

    assert load() == 1


def test_partials_and_callables(valkey: Deployment) -> None:
    """What is callable can be decorated."""

    def power(base: int, exponent: int) -> int:
        return base**exponent

    assert single_flight(key="p:{exponent}")(functools.partial(power, 2))(3) == 8


def test_recursion(valkey: Deployment) -> None:
    """A decorated function may call itself for another value, and is told when it does so for the same."""

    @single_flight(key="fib:{n}")
    def fib(n: int) -> int:
        return n if n < 2 else int(fib(n - 1)) + int(fib(n - 2))

    @single_flight(key="loop:{n}")
    def loop(n: int) -> int:
        return int(loop(n))

    assert fib(12) == 144
    with pytest.raises(LockReentered):
        loop(1)


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> Any:
    yield 1


def plain(a: int) -> int:
    return a


@pytest.mark.parametrize(
    ("decorate", "error", "words"),
    [
        (lambda: single_flight(key="a")(generator), TypeError, "generator"),
        (lambda: single_flight(key="a")(async_generator), TypeError, "generator"),
        (lambda: single_flight(key="a")(Report), TypeError, "decorates functions"),
        (lambda: single_flight(key="a")(5), TypeError, "decorates functions"),
        (lambda: single_flight(plain), TypeError, "needs a key"),
        (lambda: single_flight(""), TypeError, "needs a key"),
        (lambda: single_flight(), TypeError, "key"),
        (lambda: single_flight("a", ttl=5), TypeError, "no option 'ttl'; it has cache, stale"),
        (lambda: single_flight("a", timeout=0), ValueError, "timeout"),
        (lambda: single_flight("a", stale=-1), ValueError, "stale"),
        (lambda: single_flight("a", on_error="ignore"), ValueError, "on_error"),
        (lambda: single_flight("{b}")(plain), ValueError, "'b', which is no argument"),
        (lambda: single_flight("{")(plain), ValueError, "is no template"),
        (lambda: single_flight("{a.b}")(plain)(1), ValueError, "cannot be made for this call"),
        (lambda: single_flight("{a}")(plain)(), TypeError, "missing a required argument"),
    ],
)
def test_what_is_refused(decorate: Callable[[], Any], error: type[Exception], words: str) -> None:
    """What cannot work is refused when it is decorated, or called, with a word on what is wrong."""
    with pytest.raises(error, match=words):
        decorate()


# ---- arguments of get_or_set


NOT_SECONDS = [("5", TypeError), (True, TypeError), ([], TypeError), (math.nan, ValueError)]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        *[({"timeout": value}, error) for value, error in [*NOT_SECONDS, (0, ValueError), (-1, ValueError)]],
        ({"timeout": timedelta(0)}, ValueError),
        *[({"stale": value}, error) for value, error in [*NOT_SECONDS, (-1, ValueError), (None, TypeError)]],
        *[({"error_ttl": value}, error) for value, error in [*NOT_SECONDS, (-1, ValueError), (None, TypeError)]],
        *[({"blocking_timeout": value}, error) for value, error in [*NOT_SECONDS, (-1, ValueError)]],
        ({"blocking_timeout": math.inf}, ValueError),
        *[({"lease": value}, error) for value, error in [*NOT_SECONDS, (0, ValueError), (None, TypeError)]],
        *[({"max_hold": value}, error) for value, error in [*NOT_SECONDS, (0, ValueError), (1, ValueError)]],
        ({"on_error": "ignore"}, ValueError),
        ({"on_error": None}, ValueError),
        ({"on_error": []}, ValueError),
        ({"on_error": "stale"}, ValueError),  # without stale
        ({"on_timeout": "stale"}, ValueError),
        ({"on_timeout": 5}, ValueError),
        ({"colour": "blue"}, TypeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_arguments_are_checked(valkey: Deployment, how: dict[str, Any], error: type[Exception]) -> None:
    """An argument that makes no sense is refused before anything is done, also on a hit, by an error that names it."""
    (name,) = how
    cache.set("hit", 1)
    for key in ("miss", "hit"):
        with pytest.raises(error, match=name):
            locksmith.get_or_set(key, 1, **how)
        with pytest.raises(error, match=name):
            asyncio.run(locksmith.aget_or_set(key, 1, **how))
    assert cache.get("miss") is None


@pytest.mark.parametrize("key", [None, 5, b"a", ("a",), True], ids=repr)
def test_keys_are_texts(valkey: Deployment, key: Any) -> None:
    """A key that is no str is refused, everywhere."""
    for ask in (lambda: locksmith.get_or_set(key, 1), lambda: locksmith.invalidate(key)):
        with pytest.raises(TypeError, match=f"key .* {type(key).__name__}"):
            ask()
    for task in (lambda: locksmith.aget_or_set(key, 1), lambda: locksmith.ainvalidate(key)):
        with pytest.raises(TypeError, match=f"key .* {type(key).__name__}"):
            asyncio.run(task())


def test_unknown_cache(valkey: Deployment) -> None:
    """An alias that CACHES does not have is Django's own error."""
    from django.core.cache import InvalidCacheBackendError

    with pytest.raises(InvalidCacheBackendError, match="nowhere"):
        locksmith.get_or_set("a", 1, cache="nowhere")


# ---- errors


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        *[(seconds, error) for seconds, error in NOT_SECONDS if not isinstance(seconds, str)],
        (None, TypeError),
        *[(seconds, ValueError) for seconds in (-1, -0.001, math.inf, timedelta(seconds=-1), 400 * 86400)],
        *[
            (text, ValueError)
            for text in ("", "soon", "-1", "1.5", "٣", "Fri, 31 Feb 2026 13:00:00 GMT", "Fri, 1" * 99)
        ],
    ],
    ids=str,
)
def test_retry_later_checks_its_seconds(seconds: Any, error: type[Exception]) -> None:
    """RetryLater takes seconds that make sense, up to a year, and says so."""
    with pytest.raises(error, match="RetryLater takes"):
        RetryLater(seconds)


@pytest.mark.parametrize("seconds", [0, 2, 2.5, timedelta(minutes=2), 365 * 86400], ids=str)
def test_retry_later_takes_seconds(seconds: Any) -> None:
    """Numbers and timedelta are seconds."""
    expected = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    assert RetryLater(seconds).seconds == expected
    assert isinstance(RetryLater(seconds).seconds, float)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("9" * 5000, 365 * 86400),
        (lambda now: format_datetime(now + timedelta(seconds=90), usegmt=True), 90),
        (lambda now: format_datetime((now + timedelta(seconds=90)).astimezone(timezone(timedelta(hours=5)))), 90),
        (lambda now: (now + timedelta(seconds=90)).strftime("%A, %d-%b-%y %H:%M:%S GMT"), 90),
        (lambda now: (now + timedelta(seconds=90)).strftime("%a %b %d %H:%M:%S %Y"), 90),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 365 * 86400),
    ],
)
def test_retry_later_takes_headers(text: Any, seconds: float) -> None:
    """The text of a Retry-After header says seconds, or a date in one of the three forms that HTTP knows."""
    if callable(text):
        text = text(datetime.now(timezone.utc))
    assert seconds - 5 <= RetryLater(text).seconds <= seconds


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_errors_survive_pickle_and_copy(again: Callable[[Any], Any]) -> None:
    """Errors can be handed to other processes, with all that they say."""
    failed = again(PopulateFailed("a", "KeyError", "x"))
    assert (failed.key, failed.kind, failed.message) == ("a", "KeyError", "x")
    assert str(failed) == "another caller failed to compute 'a': KeyError: x"
    later = again(RetryLater(2.5))
    assert later.seconds == 2.5
    assert str(later) == "not to be computed again for 2.5 s"


def test_services_that_come_and_go(valkey: Deployment) -> None:
    """However many services there have been, they have taken nothing from the pool that they share with the cache."""
    for number in range(150):
        assert Locksmith().get_or_set(f"key {number}", number) == number
    assert cache.get("key 149") == 149


def test_what_a_computation_began_may_ask_later(valkey: Deployment) -> None:
    """A task that a computation has begun may ask for its value once the computation is over."""

    async def play() -> list[Any]:
        begun: list[asyncio.Task[Any]] = []
        over = asyncio.Event()

        async def ask_later() -> Any:
            await over.wait()
            return await locksmith.aget_or_set("a", 2)

        async def compute() -> int:
            begun.append(asyncio.ensure_future(ask_later()))
            return 1

        first = await locksmith.aget_or_set("a", compute)
        await locksmith.ainvalidate("a")
        over.set()
        return [first, await begun[0]]

    assert asyncio.run(play()) == [1, 2]
