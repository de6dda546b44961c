"""Many values at once: what the cache has in one request, what it lacks by one call of an API that answers for many."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.cache.backends.base import DEFAULT_TIMEOUT

from .. import clock, signals
from ..exceptions import PopulateFailed
from ..policy.flight_outcomes import MISSING, Failed, Later, NoPlace, Value
from ..policy.flights import error_of
from ..policy.many_flights import Absent, lead_many
from ..policy.sync_bridge import run_sync
from . import blocks
from .cached_values import LoopValues, ThreadValues, cache_seconds, check_value_key
from .flight_calls import call_of, computing, obtain
from .flight_options import plan_of
from .rate_limit import RateLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from typing_extensions import Unpack

    from ..policy.flight_outcomes import Call
    from ..runtime.contexts import Context
    from ..runtime.runtime import Runtime
    from .flight_options import FlightOptions, Plan

T = TypeVar("T")

_MOST = 100
_LONGEST_LIST = 10_000


class ManyValues:
    """What `Locksmith` can do for many values of a cache at once."""

    def runtime(self) -> Runtime:
        """What the flights of the settings in force share. Not for users."""
        raise NotImplementedError

    def rate_limit(self, name: str) -> RateLimit:
        """The rate limit that the settings have under this name."""
        raise NotImplementedError

    def limit_of(self, given: RateLimit | str | None) -> RateLimit | None:
        """The rate limit that was given, itself or by its name. Raises `TypeError` or `ValueError`. Not for users."""
        if not (given is None or isinstance(given, (str, RateLimit))):
            raise TypeError(
                f"rate_limit is what locksmith.rate_limit() makes, or a name in LOCKSMITH['RATE_LIMITS'], not {given!r}"
            )
        return self.rate_limit(given) if isinstance(given, str) else given

    def get_many_or_set(
        self,
        keys: Iterable[str],
        default: Callable[[list[str]], Mapping[str, T]],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        most: int = _MOST,
        **how: Unpack[FlightOptions],
    ) -> dict[str, T]:
        """The values of many keys in a Django cache; of those that are not there, nobody computes one twice.

        What the cache has comes in one request. Those that nobody in the fleet computes just now are computed by calls
        of `default` with a list of them; for the others it waits, as `get_or_set` does. Each call takes one place of
        the rate limit.

        Args:
            keys: the keys in the cache, up to 10,000.
            default: a function that gets a list of keys, and returns a mapping of them to their values. What it leaves
                out is not stored, and not in the result.
            timeout: seconds for which the values are kept; `None` = for ever. Or a function of a value.
            version: that of the keys, as for the cache.
            most: how many keys a call is given.
            **how: as for `get_or_set`; without `refresh`, `patience` and `early`.

        Returns:
            The values by their keys, in the order of `keys`.

        Raises:
            PopulateFailed, RetryLater, LockBusy, LockReentered: as `get_or_set`, of one of the keys; what has been
                computed is in the cache.
            TypeError, ValueError: name the argument at fault; or `default` returned no mapping.
            Exception: what `default` raised.

            Never because Redis is down: then each process computes, and a warning is logged.
        """
        blocks.no_loop("aget_many_or_set")
        plan = _plan(how)
        entries = {
            key: ThreadValues(plan.cache, key, version, cache_seconds("timeout", timeout), plan.stale)
            for key in _checked(keys, most)
        }
        many = _Many(self, self.runtime().threads, plan, entries, default, most)
        return run_sync(many.get(ThreadValues.fresh_of))

    async def aget_many_or_set(
        self,
        keys: Iterable[str],
        default: Callable[[list[str]], Awaitable[Mapping[str, T]]] | Callable[[list[str]], Mapping[str, T]],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        most: int = _MOST,
        **how: Unpack[FlightOptions],
    ) -> dict[str, T]:
        """As `get_many_or_set`; `default` may be a coroutine function."""
        plan = _plan(how)
        entries = {
            key: LoopValues(plan.cache, key, version, cache_seconds("timeout", timeout), plan.stale)
            for key in _checked(keys, most)
        }
        return await _Many(self, self.runtime().loop, plan, entries, default, most, in_loop=True).get(
            LoopValues.fresh_of
        )


class _Many:
    """One call of it."""

    def __init__(
        self,
        service: ManyValues,
        find_context: Callable[[], Context],
        plan: Plan,
        entries: dict[str, Any],
        default: Callable[[list[str]], Any],
        most: int,
        *,
        in_loop: bool = False,
    ) -> None:
        if not callable(default):
            raise TypeError(f"default is a function that gets a list of keys, not {default!r}")
        self._service = service
        self._find_context = find_context
        self._plan = plan
        self._entries = entries
        self._default = default
        self._most = most
        self._in_loop = in_loop
        self._absent: set[str] = set()

    async def get(self, fresh_of: Callable[[Any], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """All of them."""
        found = await fresh_of(self._entries) if self._entries else {}
        missing = [key for key in self._entries if key not in found]
        if missing:
            runtime, context = self._service.runtime(), self._find_context()
            calls = {key: self._call(runtime, context, key) for key in missing}
            found |= await self._led(runtime, context, list(calls.values()), fresh_of)
            rest = [key for key in missing if key not in found and key not in self._absent]
            while rest:
                key = rest.pop(0)
                try:
                    found[key] = await obtain(context, calls[key], self._plan.template)
                except _Absent:
                    pass
                except PopulateFailed as failed:
                    if not failed.kind.endswith(_Absent.__name__):
                        raise
                if rest:  # who computed that one has likely computed others, too
                    found |= await fresh_of({each: self._entries[each] for each in rest})
                    rest = [each for each in rest if each not in found]
        return {key: found[key] for key in self._entries if key in found}

    def _call(self, runtime: Runtime, context: Context, key: str) -> Call:
        async def compute() -> Any:
            values = await self._values([key])
            if key not in values:
                raise _Absent(key)
            self._entries[key].keep_for(values[key])
            return values[key]

        limit = self._service.limit_of(self._plan.rate_limit)
        return call_of(runtime, context, self._plan, self._entries[key], compute, limit)

    async def _led(
        self,
        runtime: Runtime,
        context: Context,
        calls: list[Call],
        fresh_of: Callable[[Any], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        began = clock.now()

        async def look(some: list[Call]) -> dict[str, Any]:
            return await fresh_of({call.key: self._entries[call.key] for call in some})

        async def compute(part: list[Call]) -> dict[str, Any]:
            with computing(runtime, [call.names for call in part]):
                values = await self._values([call.key for call in part])
            for key, value in values.items():
                self._entries[key].keep_for(value)
            return values

        outcomes = await lead_many(context.flights, context.local_flights, calls, look, compute, self._most)
        if signals.flight.wanted:
            for key, became in outcomes.items():
                if how := _HEARD.get(type(became)):
                    named = {"key": key, "template": self._plan.template, "outcome": how}
                    await context.tell(signals.flight, **named, waited=clock.now() - began)
        self._absent = {key for key, outcome in outcomes.items() if isinstance(outcome, Absent)}
        found = {key: outcome.value for key, outcome in outcomes.items() if isinstance(outcome, Value)}
        for call in calls:
            outcome = outcomes.get(call.key)
            if outcome is None or isinstance(outcome, (Value, Absent)):
                continue
            serves_old = not isinstance(outcome, Failed) or self._plan.on_error == "stale"
            old = await call.values.old() if call.keeps_old and serves_old else MISSING
            if old is MISSING:
                raise error_of(context.flights, call, outcome)
            found[call.key] = old
        return found

    async def _values(self, keys: list[str]) -> dict[str, Any]:
        values = self._default(keys)
        if self._in_loop and inspect.isawaitable(values):
            values = await values
        if inspect.iscoroutine(values):
            values.close()  # or Python warns that nobody awaited it
            raise TypeError(f"{self._default!r} returns a coroutine; use aget_many_or_set")
        if not isinstance(values, Mapping):
            raise TypeError(f"{self._default!r} returned no mapping of keys to values, but {type(values).__name__}")
        return {key: values[key] for key in keys if key in values}


_HEARD: dict[type, str] = {Value: "computed", Failed: "failed", Later: "postponed", NoPlace: "postponed"}
"""What receivers of the signal hear."""


class _Absent(KeyError):
    """The computation has nothing to say of this key."""


def _plan(how: FlightOptions) -> Plan:
    plan = plan_of(how)
    if plan.refresh is not None or plan.patience or plan.early:
        raise ValueError("get_many_or_set has no refresh, no patience and no early; get_or_set has")
    return plan


def _checked(keys: Iterable[str], most: int) -> dict[str, None]:
    if isinstance(keys, str):
        raise TypeError(f"keys are many, not one text: {keys!r}")
    if isinstance(most, bool) or not isinstance(most, int):
        raise TypeError(f"most must be a whole number, not {most!r}")
    if most < 1:
        raise ValueError(f"most must be 1 or more, not {most!r}")
    checked = dict.fromkeys(check_value_key(key) for key in keys)
    if len(checked) > _LONGEST_LIST:
        raise ValueError(f"{len(checked):,} keys are too many at once; ask for up to {_LONGEST_LIST:,}")
    return checked
