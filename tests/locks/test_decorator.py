"""A lock around a function: keys from arguments, what happens when it is busy, and the callback form."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from kombu.utils.json import dumps, loads

from django_locksmith import (
    Holder,
    LockBusy,
    LockLost,
    LockReentered,
    LocksmithError,
    Skipped,
    StaleFence,
    locksmith,
)
from tests.helpers.callers import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.helpers.deployments import Deployment


def held_now() -> list[str]:
    return [info.key for info in locksmith.locks()]


def by_name(a: Any, b: Any = 2, *args: Any, c: Any = 3, **rest: Any) -> list[str]:
    return held_now()


async def by_name_async(a: Any, b: Any = 2, *args: Any, c: Any = 3, **rest: Any) -> list[str]:
    return [info.key for info in await locksmith.alocks()]


def only(a: Any, b: Any = 2) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Account:
    def refresh(self) -> list[str]:
        return held_now()

    async def __call__(self, release: object) -> list[str]:
        return await by_name_async(release)


@locksmith("{a}")
def decorated_at_import(a: int) -> list[str]:
    return held_now()


# ---- keys


@pytest.mark.parametrize("function", [by_name, by_name_async])
@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        ("{a}:{b}:{c}", (1,), {}, "1:2:3"),
        ("{a}:{b}:{c}", (1, 5), {"c": 6}, "1:5:6"),
        ("{b}:{a}", (), {"a": 1, "b": 5}, "5:1"),
        ("{x}", (1,), {"x": "extra"}, "extra"),
        ("{rest[x]}", (1,), {"x": "extra"}, "extra"),
        ("{args[1]}", (1, 2, "x", "y"), {}, "y"),
        ("{a.name}", (SimpleNamespace(name="joe"),), {}, "joe"),
        ("{a[id]}", ({"id": 4},), {}, "4"),
        ("{a!r:>5}|{b:03d}", ("x",), {}, "  'x'|002"),
        ("{{a}}", (1,), {}, "{a}"),
        ("{{{a}}}", (1,), {}, "{1}"),
        ("plain", (1,), {}, "plain"),
    ],
)
def test_key_templates(
    valkey: Deployment, function: Callable[..., Any], template: str, args: Any, kwargs: Any, key: str
) -> None:
    """The key is made from the arguments of the call, however they are passed, with defaults applied."""
    result = locksmith(template)(function)(*args, **kwargs)
    assert (asyncio.run(result) if inspect.iscoroutine(result) else result) == [key]


@pytest.mark.parametrize("function", [by_name, by_name_async, Account.refresh])
def test_default_key(valkey: Deployment, function: Callable[..., Any]) -> None:
    """Without a key, the function's dotted name is the key."""
    result = locksmith()(function)(Account())
    keys = asyncio.run(result) if inspect.iscoroutine(result) else result
    assert keys == [f"tests.locks.test_decorator.{function.__qualname__}"]


def test_methods(valkey: Deployment) -> None:
    """Methods of all kinds can be decorated; `self` is an argument like others."""

    class Report:
        pk = 7

        @locksmith("{self.pk}:{force}")
        def of_one(self, force: bool = False) -> list[str]:
            return held_now()

        @classmethod
        @locksmith("{cls.__name__}")
        def of_class(cls) -> list[str]:
            return held_now()

        @staticmethod
        @locksmith("{a}")
        def of_nothing(a: int) -> list[str]:
            return held_now()

    assert Report().of_one(force=True) == ["7:True"]
    assert Report.of_class() == ["Report"]
    assert Report.of_nothing(3) == ["3"]


def test_decorated_before_settings_changed(valkey: Deployment) -> None:
    """A function decorated when its module was imported follows the settings in force when it is called."""
    assert decorated_at_import(7) == ["7"]


@pytest.mark.parametrize("template", ["{c}", "{c.name}", "{a}:{c[0]}", "{}", "{0}", "{.name}", "{a:{c}}"])
def test_unknown_field(template: str) -> None:
    """A template that names no argument of the function is refused at once, not at the first call."""
    with pytest.raises(
        ValueError, match=r"tests.locks.test_decorator.only names .*which is no argument \(it has a, b\)"
    ):
        locksmith(template)(only)


@pytest.mark.parametrize("template", ["{a", "a}", "{a!}", "{a[}"])
def test_broken_template(template: str) -> None:
    """A template that cannot be read is refused at once, by an error that quotes it."""
    with pytest.raises(ValueError, match=r"tests\.locks\.test_decorator\.only is no template") as caught:
        locksmith(template)(only)
    assert repr(template) in str(caught.value)


@pytest.mark.parametrize(
    ("template", "args"),
    [("{x}", (1,)), ("{a.name}", (1,)), ("{a[0]}", ([],)), ("{a[0]}", (1,)), ("{a:d}", ("x",))],
)
def test_key_cannot_be_made(valkey: Deployment, template: str, args: Any) -> None:
    """Where the arguments of a call make no key, the error says which template of which function, and nothing runs."""
    with pytest.raises(
        ValueError, match=r"the key .* of tests.locks.test_decorator.by_name cannot be made for this call"
    ):
        locksmith(template)(by_name)(*args)
    assert valkey.keys() == set()


def test_wrong_call(valkey: Deployment) -> None:
    """A call that lacks an argument is the TypeError that it is without a lock."""
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        locksmith("{a}")(only)()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (generator, "is a generator.*with block"),
        (async_generator, "is a generator.*with block"),
        (Account, "a lock decorates functions"),
        (5, "a lock decorates functions"),
        (classmethod(generator), "a lock decorates functions"),
    ],
)
def test_what_cannot_be_decorated(target: Any, said: str) -> None:
    """What a lock cannot be held around is refused at once: generators, classes, and what is no function."""
    with pytest.raises(TypeError, match=said):
        locksmith("a")(target)


def test_partial_can_be_decorated(valkey: Deployment) -> None:
    """A function with some arguments filled in beforehand is a function."""
    assert locksmith("{b}")(partial(by_name, 1))(b=5) == ["5"]


# ---- what comes out


class Call:
    """A decorated function, sync or async, that says how often it was called."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.times = 0

    def __call__(self, body: Callable[[], Any] = lambda: "result", **options: Any) -> Any:
        def work() -> Any:
            self.times += 1
            return body()

        async def work_async() -> Any:
            return work()

        if self.kind == "sync":
            return locksmith("a", **options)(work)()
        return asyncio.run(locksmith("a", **options)(work_async)())


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return Call(request.param)


def test_result_passes_through(valkey: Deployment, call: Call) -> None:
    """The function's result is the result, and the lock is free afterwards."""
    assert call(lambda: ["result"]) == ["result"]
    assert held_now() == []


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_exception_passes_through(valkey: Deployment, call: Call, error: BaseException) -> None:
    """The function's exception is the exception, and the lock is free afterwards."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call(fail)
    assert caught.value is error
    assert held_now() == []


def test_busy_raises(valkey: Deployment, call: Call) -> None:
    """When the lock is busy, the call raises LockBusy and the function does not run."""
    with locksmith("a", label="other"), pytest.raises(LockBusy) as caught:
        call(blocking=False)
    assert caught.value.holder is not None
    assert caught.value.holder.label == "other"
    assert call.times == 0


def test_busy_skips(valkey: Deployment, call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """With on_busy="skip", a busy lock makes the call a falsy Skipped that names the holder, and a line in the log."""
    with caplog.at_level(logging.INFO, "django_locksmith"), locksmith("a", label="other"):
        skipped = call(blocking=False, on_busy="skip")
    assert isinstance(skipped, Skipped)
    assert not skipped
    assert skipped.key == "a"
    assert skipped.holder is not None
    assert skipped.holder.label == "other"
    assert call.times == 0
    assert [(r.levelname, "the lock 'a' is held by" in r.getMessage()) for r in caplog.records] == [("INFO", True)]


def test_busy_asks(valkey: Deployment, call: Call) -> None:
    """With a callable as on_busy, its result is the result; what it raises is raised."""
    with locksmith("a"):
        assert call(blocking=False, on_busy=lambda busy: ("instead", busy.key)) == ("instead", "a")
        with pytest.raises(ZeroDivisionError):
            call(blocking=False, on_busy=lambda busy: 1 / 0)
    assert call.times == 0


def test_busy_awaits(valkey: Deployment) -> None:
    """For an async function, on_busy may be one, too."""

    async def instead(busy: LockBusy) -> str:
        return busy.key

    with locksmith("a"):
        assert Call("async")(blocking=False, on_busy=instead) == "a"


@pytest.mark.parametrize("function", [by_name, by_name_async])
def test_metadata_is_kept(function: Callable[..., Any]) -> None:
    """A decorated function looks like itself, and is still sync or async."""
    decorated = locksmith("a")(function)
    assert decorated is not function
    assert (decorated.__name__, decorated.__module__, decorated.__doc__) == (
        function.__name__,
        function.__module__,
        function.__doc__,
    )
    assert decorated.__wrapped__ is function  # type: ignore[attr-defined]  # functools.wraps puts it there
    assert inspect.signature(decorated) == inspect.signature(function)
    assert inspect.iscoroutinefunction(decorated) is inspect.iscoroutinefunction(function)


def test_many_threads(valkey: Deployment) -> None:
    """One decorated function serves many threads at once: one at a time for a key, side by side for different ones."""
    inside = threading.Semaphore(1)
    both = threading.Barrier(2)

    @locksmith("{key}")
    def alone(key: str, number: int) -> int:
        assert inside.acquire(blocking=False), "two are inside"
        inside.release()
        return number

    @locksmith("{key}")
    def side_by_side(key: str) -> str:
        both.wait(10)
        return key

    runs = [in_thread(lambda number=number: [alone("a", number) for _ in range(5)]) for number in range(8)]
    assert [run.result(30) for run in runs] == [[number] * 5 for number in range(8)]
    runs = [in_thread(lambda key=key: side_by_side(key)) for key in ("a", "b")]
    assert [run.result(30) for run in runs] == ["a", "b"]


# ---- the callback form


def with_callback(kind: str, body: Callable[[Callable[[], Any]], Any], **options: Any) -> Any:
    """The callback form in either kind. For a release, the body yields; it gets what that answered."""

    def work(release: Callable[[], bool]) -> Any:
        return body(release)

    async def work_async(release: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(body, lambda: asyncio.run_coroutine_threadsafe(release(), loop).result(10))

    if kind == "sync":
        return locksmith("a", work, **options)
    return asyncio.run(locksmith("a", work_async, **options))


KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@KINDS
def test_callback_holds_the_lock(valkey: Deployment, kind: str) -> None:
    """A callback runs while the lock is held; its result is the result; what it does not release is released."""
    assert with_callback(kind, lambda release: (held_now(), "result")) == (["a"], "result")
    assert held_now() == []


@KINDS
def test_callback_may_release_early(valkey: Deployment, kind: str) -> None:
    """A callback may release the lock before it returns; a second release says that there was nothing to do."""
    assert with_callback(kind, lambda release: [release(), held_now(), release()]) == [True, [], False]


@KINDS
@pytest.mark.parametrize("early", [False, True])
def test_callback_fails(valkey: Deployment, kind: str, early: bool) -> None:
    """A callback's exception is the exception, and the lock is free afterwards, released early or not."""

    def fail(release: Callable[[], Any]) -> None:
        if early:
            release()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        with_callback(kind, fail)
    assert held_now() == []


@KINDS
def test_callback_when_busy(valkey: Deployment, kind: str) -> None:
    """When the lock is busy, the callback does not run, and on_busy says what happens instead."""
    calls: list[Any] = []
    with locksmith("a"):
        with pytest.raises(LockBusy):
            with_callback(kind, calls.append, blocking=False)
        assert isinstance(with_callback(kind, calls.append, blocking=False, on_busy="skip"), Skipped)
        assert with_callback(kind, calls.append, blocking=False, on_busy=lambda busy: busy.key) == "a"
    assert calls == []


def generates(release: object) -> Iterator[list[str]]:
    yield held_now()


@pytest.mark.parametrize(
    "callback",
    [Account(), lambda release: by_name_async(release), generates],
    ids=["object with async __call__", "function that returns a coroutine", "generator"],
)
def test_callback_never_runs_without_the_lock(valkey: Deployment, callback: Callable[[object], Any]) -> None:
    """Work that begins only when the callback has returned holds the lock as well, or is refused."""

    async def in_task() -> Any:
        return await locksmith("a", callback)

    keys = "refused"
    with suppress(TypeError, SynchronousOnlyOperation):
        keys = next(locksmith("a", callback)) if callback is generates else asyncio.run(in_task())
    assert keys in ("refused", ["a"])


# ---- the lock is lost, or Redis goes down, meanwhile


def in_block(kind: str, body: Callable[[], Any]) -> Any:
    async def in_task() -> Any:
        async with locksmith("a"):
            return body()

    if kind == "async":
        return asyncio.run(in_task())
    with locksmith("a"):
        return body()


FORMS: dict[str, Callable[[str, Callable[[], Any]], Any]] = {
    "decorator": lambda kind, body: Call(kind)(body),
    "callback": lambda kind, body: with_callback(kind, lambda release: body()),
    "block": in_block,
}


@KINDS
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("fails", [False, True])
def test_lost_in_the_body(
    valkey: Deployment, kind: str, form: Callable[[str, Callable[[], Any]], Any], fails: bool
) -> None:
    """A lock that was lost meanwhile is told by LockLost, but never in place of the body's own exception."""

    def body() -> None:
        with valkey.server.client() as client:
            client.delete("__locksmith:a")
        if fails:
            raise KeyError("mine")

    with pytest.raises(KeyError if fails else LockLost):
        form(kind, body)


@KINDS
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("fails", [False, True])
def test_redis_goes_down_in_the_body(
    own_server: Deployment,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    form: Callable[[str, Callable[[], Any]], Any],
    fails: bool,
) -> None:
    """A release that fails hides neither the body's result nor its exception, and is one warning in the log."""

    def body() -> str:
        own_server.server.kill()
        if fails:
            raise KeyError("mine")
        return "result"

    if fails:
        with pytest.raises(KeyError, match="mine"):
            form(kind, body)
    else:
        assert form(kind, body) == "result"
    ours = [record for record in caplog.records if record.name == "django_locksmith.lock"]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert "the lock 'a' could not be released; that is tried again until its lease ends" in ours[0].getMessage()


class Base(View):
    def dispatch(self, request: object, *args: Any, **kwargs: Any) -> Any:
        return [info.key for info in locksmith.locks()]


@method_decorator(locksmith("order:{pk}"), name="dispatch")
class ByTemplate(Base):
    pass


@method_decorator(locksmith(), name="dispatch")
class OneOfTwo(Base):
    pass


@method_decorator(locksmith(), name="dispatch")
class TheOther(Base):
    pass


def test_class_based_views(valkey: Deployment) -> None:
    """By `method_decorator`: a template over the arguments of the call; without one, each class has its own lock."""
    request = RequestFactory().get("/")
    assert ByTemplate.as_view()(request, pk=7) == ["order:7"]
    assert OneOfTwo.as_view()(request, pk=7) == [f"{__name__}.OneOfTwo.dispatch"]
    assert TheOther.as_view()(request, pk=7) == [f"{__name__}.TheOther.dispatch"]


def test_skipped_result_can_be_stored() -> None:
    """What a skipped Celery task returns goes into a result backend, and says which lock was busy."""
    stored = loads(dumps(Skipped("import:7")))
    assert stored["skipped"] == "import:7"


def test_errors_say_what_happened() -> None:
    """The repr of an error, which is all that some logs show, has its kind and its text."""
    assert repr(LockBusy("a")) == "LockBusy(\"the lock 'a' is held\")"
    assert repr(LockLost("a", "gone")) == "LockLost(\"the lock 'a' is not held: gone\")"


@pytest.mark.parametrize(
    "error",
    [
        LockBusy("order:7", Holder("t", "web3", 4711, "MainThread", 1.0, "ann@example.com"), 5.0),
        LockReentered("order:7", Holder("t", "web3", 4711, "MainThread", 1.0, "ann@example.com"), 5.0),
        LockLost("order:7", "its lease of 5 s ran out"),
        StaleFence(5, 6, "shop.Order", 7, "order:7"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_say_nothing_to_outsiders(error: LocksmithError) -> None:
    """What is a ValueError, and so is shown to clients by pydantic and GraphQL, names nobody and nothing of ours.

    Logs, tracebacks (from Python 3.11 on) and whoever asks get it all.
    """
    assert isinstance(error, ValueError)
    for secret in ("order:7", "web3", "4711", "ann", "shop", "fence 5"):
        assert secret not in str(error)
    assert "order:7" in error.details
    assert error.details in repr(error) or repr(error.details) in repr(error)
    if sys.version_info >= (3, 11):
        assert error.details in "".join(traceback.format_exception(error))
    # As result backends of JSON make it again.
    again = type(error)(*loads(dumps(error.args)))
    assert (str(again), again.key) == (str(error), "order:7")  # type: ignore[attr-defined]  # all these have one
