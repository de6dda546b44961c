"""Single flight: values of a cache that one caller in the whole fleet computes, while all the others wait for them."""

from __future__ import annotations

import inspect
import logging
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .. import conf
from ..policy.flight_outcomes import MISSING
from ..policy.landing import void
from ..policy.sync_bridge import run_sync
from . import blocks
from .cached_values import LoopValues, ThreadValues, cache_seconds, check_value_key
from .computed import Computed, computed
from .computing import computation, computation_in_loop
from .flight_calls import call_of, flight_name, look, obtain
from .flight_options import plan_of
from .functions import dotted_name, is_async
from .key_templates import key_maker
from .many_values import ManyValues
from .rate_limit import RateLimit
from .stable_texts import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Unpack

    from ..records import NotModified
    from .flight_options import FlightOptions

logger = logging.getLogger("django_locksmith.flight")

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

CacheSeconds = Any
"""A cache timeout as Django takes it: seconds, `None` = for ever, `DEFAULT_TIMEOUT` (an object without a type).

Or a function of the value that returns one.
"""


class SingleFlight(ManyValues):
    """What `Locksmith` can do for values of a cache."""

    @overload
    def get_or_set(
        self,
        key: str,
        default: Callable[[], T] | Callable[[T | None], T | NotModified],
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
        """The value of a key in a Django cache; if it is not there, one caller in the whole fleet computes it.

        `key`, `default`, `timeout` and `version` mean what they mean to Django's `cache.get_or_set`. But all who miss
        the value at the same time share one call of `default`: one caller leads, the others wait for it. `None` is a
        value. A hit costs one request to the cache, and none to the locks.

        `default` may raise `RetryLater(seconds)`: then nobody in the fleet calls it before they are over, and callers
        get the old value, or `RetryLater`.

        Args:
            key: the key in the cache.
            default: a value, or a function that computes it: without arguments, or with one, which is the old value or
                `None` (see `stale`). It may return `NOT_MODIFIED`: then the old value is kept for another `timeout`.
            timeout: seconds for which the value is kept; `None` = for ever. Or a function of the value.
            version: that of the key, as for the cache.
            cache: the alias of the cache.
            stale: seconds for which the old value is kept beyond `timeout`, and returned at once while one caller
                refreshes it.
            on_error: what those who waited get when `default` raised: "share" raises `PopulateFailed`, "retry" lets one
                of them try next, "stale" returns the old value, also to the caller whose `default` raised.
            error_ttl: seconds for which newcomers get the failure, too. Or a function of the exception.
            blocking_timeout: the longest wait, seconds; `None` = without limit.
            on_timeout: what a caller gets at the end of its wait: "stale_or_raise" the old value or else `LockBusy`,
                "raise" `LockBusy`, "compute" a value of its own, which is not stored.
            rate_limit: what `rate_limit()` makes, or a name in `LOCKSMITH["RATE_LIMITS"]`: whoever computes waits for a
                place of it, for `blocking_timeout` at most. A `RetryLater` of `default` then pauses the whole limit.
            patience: the longest wait, seconds, of those who have an old value: for the new one, or for a place.
            early: from this share of `timeout` on, as 0.8, the value is computed anew by one caller, while the others
                have the one that is there. If that fails, so has the one. The cache alone has it until then only.
            refresh: where there is an old value, nobody waits: "thread" has the new one computed by a thread (a task,
                in `aget_or_set`), a function is given another one to call, as soon as it can.
            lease: seconds for which a leader whose process died keeps others waiting; renewed while `default` runs.
            max_hold: seconds for which it is renewed at most.
            template: what the value is called in metrics.

        Returns:
            The value.

        Raises:
            PopulateFailed: another caller computed, and its `default` raised.
            RetryLater: `default` is not to be called yet, or its place in the rate limit is further away than this
                caller would wait; and there is no old value.
            LockBusy: the wait was over.
            LockReentered: `default` asks for the value that it computes.
            TypeError, ValueError: name the argument at fault; or its value cannot be copied, or not be stored.
            Exception: what this caller's own `default` raised.

            Never because Redis is down: then one caller of each process computes, and a warning is logged.
        """
        blocks.no_loop("aget_or_set")
        plan = plan_of(how)
        values = ThreadValues(
            plan.cache, check_value_key(key), version, cache_seconds("timeout", timeout), plan.stale, plan.early
        )
        found = run_sync(look(values, plan, lambda: self.runtime().threads()))
        if found is not MISSING:
            return found

        runtime = self.runtime()
        compute = computation(default, values)
        call = call_of(runtime, runtime.threads(), plan, values, compute, self.limit_of(plan.rate_limit))
        return run_sync(obtain(runtime.threads(), call, plan.template))

    @overload
    async def aget_or_set(
        self,
        key: str,
        default: Callable[[], Awaitable[T]] | Callable[[T | None], Awaitable[T | NotModified]],
        timeout: CacheSeconds = ...,
        version: int | None = None,
        **how: Unpack[FlightOptions],
    ) -> T: ...

    @overload
    async def aget_or_set(
        self,
        key: str,
        default: Callable[[], T] | Callable[[T | None], T | NotModified],
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

        A caller that is cancelled while it waits changes nothing for the others. If the leader is cancelled, one of the
        others leads next.
        """
        plan = plan_of(how)
        values = LoopValues(
            plan.cache, check_value_key(key), version, cache_seconds("timeout", timeout), plan.stale, plan.early
        )
        found = await look(values, plan, lambda: self.runtime().loop())
        if found is not MISSING:
            return found

        runtime = self.runtime()
        compute = computation_in_loop(default, values)
        call = call_of(runtime, runtime.loop(), plan, values, compute, self.limit_of(plan.rate_limit))
        return await obtain(runtime.loop(), call, plan.template)

    def invalidate(
        self, key: str, version: int | None = None, *, cache: str = "default", settle: conf.Seconds = 0
    ) -> None:
        """Delete a value, its old copy and a remembered failure. A computation under way will not bring it back.

        The caller that computes it now still returns what it began with, but does not store it; all who wait for it
        compute again. A pause that `RetryLater` asked for stays.

        Args:
            key: the key in the cache.
            version: that of the key, as for the cache.
            cache: the alias of the cache.
            settle: seconds for which what the values are computed from may still be old, in a replica, say: what is
                computed within them lives for one second only.

        Raises:
            LockUnavailable: Redis gave no usable answer: the value is deleted, but a computation under way may store
                what it began with.
            Exception: what the cache raised.
        """
        values = ThreadValues(plain(cache), check_value_key(key), version)
        store = self.runtime().threads().flights
        run_sync(void(store, store.names(flight_name(values.alias, values.name)), values, _settling(settle)))

    async def ainvalidate(
        self, key: str, version: int | None = None, *, cache: str = "default", settle: conf.Seconds = 0
    ) -> None:
        """As `invalidate`."""
        values = LoopValues(plain(cache), check_value_key(key), version)
        store = self.runtime().loop().flights
        await void(store, store.names(flight_name(values.alias, values.name)), values, _settling(settle))

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

        Args:
            key: a template over the arguments of the call; of a method, also over `self` (`"{self.pk}"`).
            timeout: as for `get_or_set`, and so all else.

        Returns:
            The decorator. The decorated function has `invalidate` and `ainvalidate`, which take the same arguments.

        Raises:
            TypeError, ValueError: what is wrong with the arguments or the function, when it is decorated. A call raises
                what `get_or_set` raises.
        """
        if not isinstance(key, str) or not key:
            raise TypeError(f"single_flight needs a key, a template over the arguments, not {key!r}")
        cache_seconds("timeout", timeout)
        how.setdefault("template", key)
        cache = plan_of(how).cache

        def decorate(function: Callable[P, R]) -> Computed[P, R]:
            if not callable(function) or inspect.isclass(function):
                raise TypeError(f"single_flight decorates functions, not {function!r}")
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError(f"{dotted_name(function)} is a generator, whose items no cache can keep; return a list")
            make_key = key_maker(key, function)
            with_limit = _limiting(how, function)
            decorated: Any

            if is_async(function):

                @wraps(function)
                async def in_flight(*args: Any, **kwargs: Any) -> Any:
                    name = make_key(args, kwargs)
                    given = with_limit(args, kwargs)
                    return await self.aget_or_set(name, lambda: function(*args, **kwargs), timeout, version, **given)

                decorated = in_flight
            else:

                @wraps(function)
                def in_flight_sync(*args: Any, **kwargs: Any) -> Any:
                    name = make_key(args, kwargs)
                    given = with_limit(args, kwargs)
                    return self.get_or_set(name, lambda: function(*args, **kwargs), timeout, version, **given)

                decorated = in_flight_sync

            def invalidate(*args: Any, **kwargs: Any) -> None:
                """Delete the value of the call with these arguments, as `locksmith.invalidate` does."""
                self.invalidate(make_key(args, kwargs), version, cache=cache)

            async def ainvalidate(*args: Any, **kwargs: Any) -> None:
                """As `invalidate`."""
                await self.ainvalidate(make_key(args, kwargs), version, cache=cache)

            result: Computed[P, R] = computed(decorated, invalidate, ainvalidate)
            return result

        return decorate


def _settling(settle: conf.Seconds) -> float:
    seconds = conf.wait_seconds("settle", settle)
    if seconds is None or seconds > conf.LONGEST_LEASE:
        raise ValueError(f"settle is seconds, up to a year, not {settle!r}")
    return seconds


def _limiting(how: FlightOptions, function: Callable[..., Any]) -> Callable[[Any, Any], FlightOptions]:
    """The options of a call: where the name of the rate limit is a template, with the one of its arguments."""
    limit = how.get("rate_limit")
    if not isinstance(limit, RateLimit) or "{" not in limit.name:
        return lambda args, kwargs: how
    make_name = key_maker(limit.name, function)
    limit_of = lru_cache(maxsize=1024)(limit.named)
    return lambda args, kwargs: {**how, "rate_limit": limit_of(make_name(args, kwargs))}
