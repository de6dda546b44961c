"""Single flight: values of a cache that one caller in the whole fleet computes, while all the others wait for them."""

from __future__ import annotations

import inspect
import logging
import time
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar, overload

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from . import conf, flights, signals
from .bridge import run_sync
from .exceptions import LockBusy, LockReentered, RetryLater
from .key_templates import dotted_name, key_maker
from .lock import is_async
from .names import encode
from .tokens import new_token
from .values import LoopValues, ThreadValues, cache_seconds
from .workshop import UNSET, Options, Unset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from typing_extensions import Self, Unpack

    from .flights import OnError, OnTimeout
    from .names import FlightNames
    from .records import Rules
    from .workshop import Face, Workshop

logger = logging.getLogger("django_locksmith.flight")

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", covariant=True)

CacheSeconds = Any
"""A cache timeout as Django takes it: seconds, `None` = for ever, `DEFAULT_TIMEOUT` (an object without a type)."""

LEASE = 30.0
"""Seconds that a computation whose process has died keeps all others waiting."""


class Aboard:
    """A computation, as it is known to the code that runs in it, and to what that code has begun."""

    def __init__(self, place: tuple[object, bytes]) -> None:
        self.place = place
        self.over = False


_aboard: ContextVar[tuple[Aboard, ...]] = ContextVar("django_locksmith_aboard", default=())
"""What the code that runs now computes, or was begun by."""


class FlightOptions(TypedDict, total=False):
    """How a value is to be computed once; `SingleFlight.get_or_set` says what each means."""

    cache: str
    stale: conf.Seconds
    error_ttl: conf.Seconds
    on_error: OnError
    on_timeout: OnTimeout
    blocking_timeout: conf.Seconds | None
    lease: conf.Seconds
    max_hold: conf.Seconds | None
    template: str


class Plan(NamedTuple):
    """The same, checked. Seconds."""

    cache: str
    stale: float
    error_ttl: float
    on_error: OnError
    on_timeout: OnTimeout
    wait: float | Unset | None
    options: Options
    """Of the lease."""
    template: str


def _checked_plan(
    *,
    cache: Any = "default",
    stale: Any = 0,
    error_ttl: Any = 0,
    on_error: Any = "share",
    on_timeout: Any = "stale_or_raise",
    blocking_timeout: Any = UNSET,
    lease: Any = LEASE,
    max_hold: Any = UNSET,
    template: Any = "",
) -> Plan:
    kept = conf.wait_seconds("stale", stale)
    remembered = conf.wait_seconds("error_ttl", error_ttl)
    if kept is None or remembered is None:
        raise TypeError("stale and error_ttl are seconds, not None; a timeout of None keeps a value for ever")
    if on_error not in ("share", "retry", "stale"):
        raise ValueError(f"on_error must be 'share', 'retry' or 'stale', not {on_error!r}")
    if on_timeout not in ("stale_or_raise", "raise", "compute"):
        raise ValueError(f"on_timeout must be 'stale_or_raise', 'raise' or 'compute', not {on_timeout!r}")
    if on_error == "stale" and not kept:
        raise ValueError("on_error='stale' serves an old value, which only stale=<seconds> keeps")
    wait = UNSET if blocking_timeout is UNSET else conf.wait_seconds("blocking_timeout", blocking_timeout)
    seconds = conf.lease_seconds("lease", lease)
    longest = None if max_hold is UNSET else conf.hold_seconds("max_hold", max_hold)
    if longest is not None and longest < seconds:
        raise ValueError(f"max_hold ({longest:g} s) is shorter than lease ({seconds:g} s)")
    if not isinstance(template, str):
        raise TypeError(f"template must be a str, not {template!r}")
    options = Options(timeout=seconds, renew=True, max_hold=max_hold)
    return Plan(cache, kept, remembered, on_error, on_timeout, wait, options, template)


_known_plan = lru_cache(maxsize=256, typed=True)(_checked_plan)


def _plan(how: FlightOptions) -> Plan:
    try:
        return _known_plan(**how)
    except TypeError:
        for name in how:
            if name not in FlightOptions.__annotations__:
                has = ", ".join(FlightOptions.__annotations__)
                raise TypeError(f"single flight has no option {name!r}; it has {has}") from None
        return _checked_plan(**how)  # what cannot be cached is at fault, and gets its name


class Computed(Protocol[P, R]):
    """A function decorated with `single_flight`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The value."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Delete the value of the call with these arguments, as `locksmith.invalidate` does."""

    def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, None]:
        """As `invalidate`."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., R]: ...


class Flight:
    """A flight that we lead: what the renewer keeps alive while we compute. Times are monotonic seconds."""

    renew_at = inf

    def __init__(self, names: FlightNames, token: bytes, rules: Rules, deadline: float) -> None:
        self.names = names
        self.token = token
        self.timeout = rules.timeout
        self.hold_until = inf if rules.max_hold is None else time.monotonic() + rules.max_hold
        self._deadline = deadline
        self._lost = False

    @property
    def ask(self) -> Flight:
        """What Redis knows it by."""
        return self

    @property
    def held(self) -> bool:
        """Is it surely still ours?"""
        return not self._lost and time.monotonic() < self._deadline

    def prolong(self, deadline: float) -> None:
        """It was renewed."""
        self._deadline = deadline

    def lose(self, why: str) -> None:
        """It was voided, or its lease ran out: what we compute will not be stored."""
        self._lost = True
        logger.info("the flight of %r is not ours any more: %s", self.names.key, why)


class SingleFlight:
    """What `Locksmith` can do for values of a cache."""

    def workshop(self) -> Workshop:
        """What the flights of the settings in force share."""
        raise NotImplementedError

    @overload
    def get_or_set(
        self,
        key: str,
        default: Callable[[], T],
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    @overload
    def get_or_set(
        self,
        key: str,
        default: T,
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    def get_or_set(
        self,
        key: str,
        default: Any,
        timeout: CacheSeconds = DEFAULT_TIMEOUT,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> Any:
        """The value of `key` in a Django cache; if it is not there, what `default` returns, computed by one caller.

        The arguments mean what they mean to Django's `cache.get_or_set`: `default` is a value or a function without
        arguments, `timeout` the seconds for which the value is kept (`None` = for ever). But all who miss the value at
        the same time, in the whole fleet, share one call of `default`: one caller leads, the others wait for it. `None`
        is a value. A hit costs one request to the cache, and none to the locks.

        `cache`: alias of the cache. `stale`: seconds that the old value is kept beyond `timeout`, and returned at once
        while one caller refreshes it. `on_error`: what callers get who waited for a `default` that raised: "share"
        raises `PopulateFailed`, "retry" has one of them try next, "stale" returns the old value, also to the one whose
        `default` raised. `error_ttl`: seconds for which the failure is also what newcomers get. `blocking_timeout`: the
        longest wait, seconds; `None` = without limit. `on_timeout`: what its end brings: "stale_or_raise" the old
        value or else `LockBusy`, "raise" `LockBusy`, "compute" a value of one's own, which is not stored. `lease`:
        seconds for which a leader whose process died keeps others waiting; renewed while `default` runs, for `max_hold`
        seconds at most. `template`: what the value is called in metrics.

        `default` may raise `RetryLater(seconds)`: then nobody in the fleet calls it before they are over, and callers
        get the old value, or `RetryLater`.

        Raises what `default` raises, `PopulateFailed`, `RetryLater`, `LockBusy`; `LockReentered`, if `default` asks for
        the value it computes; `TypeError` or `ValueError` that name the argument at fault. Never raises because Redis
        is down: then one caller of each process computes, and a warning is logged.
        """
        plan = _plan(how)
        values = ThreadValues(plan.cache, _checked_key(key), version, cache_seconds("timeout", timeout), plan.stale)
        found = run_sync(values.fresh())
        if found is not flights.MISSING:
            return found

        async def compute() -> Any:
            value = default() if callable(default) else default
            if inspect.iscoroutine(value):
                value.close()  # or Python warns that nobody awaited it
                raise TypeError(f"{default!r} returns a coroutine; use aget_or_set")
            return value

        workshop = self.workshop()
        face = workshop.threads()
        return run_sync(_obtain(face, _call(workshop, face, plan, values, compute), plan.template))

    @overload
    async def aget_or_set(
        self,
        key: str,
        default: Callable[[], Awaitable[T]],
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    @overload
    async def aget_or_set(
        self,
        key: str,
        default: Callable[[], T],
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    @overload
    async def aget_or_set(
        self,
        key: str,
        default: T,
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    async def aget_or_set(
        self,
        key: str,
        default: Any,
        timeout: CacheSeconds = DEFAULT_TIMEOUT,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> Any:
        """As `get_or_set`; `default` may be a coroutine function.

        A caller that is cancelled while it waits changes nothing for the others; where the one who computes is
        cancelled, one of the others takes its place.
        """
        plan = _plan(how)
        values = LoopValues(plan.cache, _checked_key(key), version, cache_seconds("timeout", timeout), plan.stale)
        found = await values.fresh()
        if found is not flights.MISSING:
            return found

        async def compute() -> Any:
            value = default() if callable(default) else default
            return await value if inspect.isawaitable(value) else value

        workshop = self.workshop()
        face = workshop.loop()
        return await _obtain(face, _call(workshop, face, plan, values, compute), plan.template)

    def invalidate(self, key: str, version: int | None = None, *, cache: str = "default") -> None:
        """Delete the value, its old copy and a remembered failure; a computation under way will not bring it back.

        Whoever computes it now still returns what it began with, but does not store it; all who wait for that compute
        anew. What an API asked for by `RetryLater` stands.

        Raises what the cache raises, and `LockUnavailable` where Redis cannot be asked: the value is deleted then, but
        a computation under way may store what it began with.
        """
        values = ThreadValues(cache, _checked_key(key), version)
        store = self.workshop().threads().flights
        run_sync(flights.void(store, store.names(_name(cache, values.name)), values))

    async def ainvalidate(self, key: str, version: int | None = None, *, cache: str = "default") -> None:
        """As `invalidate`."""
        values = LoopValues(cache, _checked_key(key), version)
        store = self.workshop().loop().flights
        await flights.void(store, store.names(_name(cache, values.name)), values)

    def single_flight(
        self,
        key: str,
        timeout: CacheSeconds = DEFAULT_TIMEOUT,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> Callable[[Callable[P, R]], Computed[P, R]]:
        """Decorate a function or method, sync or async: its result is kept in a cache, and computed by one caller.

            @single_flight(key="user:{user_id}", timeout=300)
            def fetch_user(user_id): ...

            fetch_user(7)
            fetch_user.invalidate(7)            # .ainvalidate for an async function

        `key` is a template over the arguments of the call; of a method, also over `self` (`"{self.pk}"`). All else is
        as for `get_or_set`.
        """
        if not isinstance(key, str) or not key:
            raise TypeError(f"single_flight needs a key, a template over the arguments, not {key!r}")
        cache_seconds("timeout", timeout)
        how.setdefault("template", key)
        cache = _plan(how).cache

        def decorate(function: Callable[P, R]) -> Computed[P, R]:
            if not callable(function) or inspect.isclass(function):
                raise TypeError(f"single_flight decorates functions, not {function!r}")
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError(f"{dotted_name(function)} is a generator, whose items no cache can keep; return a list")
            make_key = key_maker(key, function)
            decorated: Any

            if is_async(function):

                @wraps(function)
                async def in_flight(*args: Any, **kwargs: Any) -> Any:
                    name = make_key(args, kwargs)
                    return await self.aget_or_set(name, lambda: function(*args, **kwargs), timeout, version, **how)

                decorated = in_flight
            else:

                @wraps(function)
                def in_flight_sync(*args: Any, **kwargs: Any) -> Any:
                    name = make_key(args, kwargs)
                    return self.get_or_set(name, lambda: function(*args, **kwargs), timeout, version, **how)

                decorated = in_flight_sync

            def invalidate(*args: Any, **kwargs: Any) -> None:
                """Delete the value of the call with these arguments, as `locksmith.invalidate` does."""
                self.invalidate(make_key(args, kwargs), version, cache=cache)

            async def ainvalidate(*args: Any, **kwargs: Any) -> None:
                """As `invalidate`."""
                await self.ainvalidate(make_key(args, kwargs), version, cache=cache)

            decorated.invalidate, decorated.ainvalidate = invalidate, ainvalidate
            return decorated  # type: ignore[no-any-return]  # of functions, types cannot say that they have attributes

        return decorate


async def _obtain(face: Face, call: flights.Call, template: str) -> Any:
    if not signals.flight.wanted:
        return (await flights.obtain(face.flights, call)).value
    started = time.monotonic()

    async def tell(outcome: str) -> None:
        waited = time.monotonic() - started
        await face.tell(signals.flight, key=call.key, template=template, outcome=outcome, waited=waited)

    try:
        obtained = await flights.obtain(face.flights, call)
    except Exception as error:
        await tell({RetryLater: "postponed", LockBusy: "busy"}.get(type(error), "failed"))
        raise
    await tell(obtained.how)
    return obtained.value


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key of a value is a str, not {type(key).__name__}: {key!r}")
    try:
        encode(key)
    except UnicodeEncodeError as error:
        raise ValueError(f"the key {key!r} cannot be written as UTF-8: {error.reason}") from error
    return key


def _name(cache: str, made_key: str) -> str:
    return f"{cache}:{made_key}"


def _call(workshop: Workshop, face: Face, plan: Plan, values: Any, compute: Callable[[], Any]) -> flights.Call:
    names = face.flights.names(_name(values.alias, values.name))
    place = (workshop, names.lock)
    if any(each.place == place and not each.over for each in _aboard.get()):
        raise LockReentered(values.key)
    rules = workshop.rules_for(plan.options)
    wait = workshop.settings.blocking_timeout if isinstance(plan.wait, Unset) else plan.wait
    token = encode(new_token())

    async def compute_aboard() -> Any:
        aboard = Aboard(place)
        before = _aboard.set((*_aboard.get(), aboard))
        try:
            return await compute()
        finally:
            aboard.over = True  # tasks that it has begun, and did not wait for, know it for as long as they run
            _aboard.reset(before)

    @contextmanager
    def fly(deadline: float) -> Iterator[Flight]:
        flight = Flight(names, token, rules, deadline)
        workshop.renewer().add(flight)
        try:
            yield flight
        finally:
            workshop.renewer().remove(flight)

    return flights.Call(
        key=values.key,
        names=names,
        token=token,
        values=values,
        compute=compute_aboard,
        fly=fly,
        warn=lambda text, error: logger.warning(text + ": %s", values.key, error),
        lease=rules.timeout,
        until=inf if wait is None else time.monotonic() + wait,
        keeps_old=values.keeps_old,
        error_ttl=plan.error_ttl,
        on_error=plan.on_error,
        on_timeout=plan.on_timeout,
    )
