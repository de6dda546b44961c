"""A call of `get_or_set` that missed the value: what the rules of single flight are given, and what is told of it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from .. import clock, conf, signals
from ..exceptions import LockBusy, LockReentered, RetryLater
from ..policy import flights
from ..policy.flight_outcomes import MISSING, Call
from ..redis.key_names import encode
from ..runtime.contexts import LoopContext
from ..runtime.options import Unset
from ..tokens import new_token
from . import said_once
from .turns import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from ..policy.flight_outcomes import Obtained
    from ..redis.key_names import FlightNames
    from ..runtime.contexts import Context
    from ..runtime.options import Rules
    from ..runtime.runtime import Runtime
    from .flight_options import Plan
    from .rate_limit import RateLimit

logger = logging.getLogger("django_locksmith.flight")


IN_BACKGROUND = 60.0
"""Seconds that a thread waits in the background for a place in a rate limit; then others have their turn."""
REFRESH_AGAIN = 1.0
"""Seconds until a process tries again to have a value computed that another one computes, or that cannot be had."""


class RunningComputation:
    """A computation, as the code that runs in it knows it, and the tasks that this code has begun."""

    def __init__(self, place: tuple[object, bytes]) -> None:
        self.place = place
        self.over = False


_running: ContextVar[tuple[RunningComputation, ...]] = ContextVar("django_locksmith_running", default=())
"""The computations that the code that runs now is a part of, or was begun by."""


@contextmanager
def computing(runtime: Runtime, values: Iterable[FlightNames]) -> Iterator[None]:
    """The code in this block computes these values."""
    running = [RunningComputation((runtime, names.lock)) for names in values]
    before = _running.set((*_running.get(), *running))
    try:
        yield
    finally:
        for each in running:
            each.over = True  # tasks that it has begun, and did not wait for, know it for as long as they run
        _running.reset(before)


class RenewedFlight:
    """A flight that we lead: what the renewer keeps alive while we compute. Times are monotonic seconds."""

    renew_at = inf
    changes = 0  # nobody but the renewer moves its end

    def __init__(self, names: FlightNames, token: bytes, rules: Rules, deadline: float) -> None:
        self.names = names
        self.token = token
        self.timeout = rules.timeout
        self.hold_until = inf if rules.max_hold is None else clock.now() + rules.max_hold
        self._deadline = deadline
        self._lost = False

    @property
    def attempt(self) -> RenewedFlight:
        """What Redis knows it by."""
        return self

    @property
    def held(self) -> bool:
        """Is it surely still ours?"""
        return not self._lost and clock.now() < self._deadline

    def prolong(self, deadline: float, changes: int) -> None:
        """It was renewed."""
        self._deadline = deadline

    def lose(self, why: str) -> None:
        """It was voided, or its lease ran out: what we compute will not be stored."""
        self._lost = True
        logger.info("the flight of %r is not ours any more: %s", self.names.key, why)


async def obtain(context: Context, call: Call, template: str) -> Any:
    """The value, from a computation of ours or of somebody else; receivers of the signal hear how."""
    obtained = await _told(context, call, template, flights.obtain(context.flights, context.local_flights, call))
    assert obtained is not None
    return obtained.value


async def _told(
    context: Context, call: Call, template: str, work: Coroutine[Any, Any, Obtained | None]
) -> Obtained | None:
    if not signals.flight.wanted:
        return await work
    started = clock.now()

    async def tell(outcome: str) -> None:
        waited = clock.now() - started
        await context.tell(signals.flight, key=call.key, template=template, outcome=outcome, waited=waited)

    try:
        obtained = await work
    except Exception as error:
        await tell({RetryLater: "postponed", LockBusy: "busy"}.get(type(error), "failed"))
        raise
    if obtained is not None:
        await tell(obtained.how)
    return obtained


class Refresher:
    """Has a value computed in the background, while its readers have the old one. At most once for each process."""

    def __init__(self, context: Context, plan: Plan, make_call: Callable[[], Call]) -> None:
        self._context = context
        self._plan = plan
        self._make_call = make_call

    def __call__(self) -> None:
        call = self._make_call()
        local = self._context.local_flights
        if not local.begin_refresh(call.names.lock, call.lease):
            return
        work = partial(self._refresh, call)
        how = self._plan.refresh
        if how is None or how == "thread":
            begun = self._context.in_background(work)
        else:
            try:
                how(self._context.callable_of(work))
                begun = True
            except Exception as error:
                call.warn("%r could not be given away to be computed, and its old value is served", error)
                begun = False
        if not begun:
            local.end_refresh(call.names.lock, REFRESH_AGAIN)

    async def _refresh(self, call: Call) -> None:
        context, template = self._context, self._plan.template
        # It may begin long after it was asked for: there are so many threads, and queues of other software.
        until = clock.now() + IN_BACKGROUND
        call = call._replace(until=until, place_until=until)
        pause = REFRESH_AGAIN
        before = _running.set(())  # whoever asked for it may compute something else, and does not wait for this
        work = flights.refresh(context.flights, context.local_flights, call)
        try:
            obtained = await _told(context, call, template, work)
            pause = 0.0 if obtained else pause  # else somebody else is at it
        except RetryLater as later:
            logger.info("%r is not computed now: %s", call.key, later)
        except Exception as error:
            call.warn("the old value of %r is served, for a new one could not be computed", error)
        finally:
            _running.reset(before)
            context.local_flights.end_refresh(call.names.lock, pause)


async def look(values: Any, plan: Plan, find_context: Callable[[], Context]) -> Any:
    """What there is in the cache, or `MISSING`.

    While this process has the value refreshed, the old copy is all there is: to look for the other first would cost
    each reader a second request.
    """
    if plan.refresh is not None and values.keeps_old:
        context = find_context()
        flight = context.flights.names(flight_name(values.alias, values.name)).lock
        if context.local_flights.is_refreshing(flight):
            old = await values.old()
            if old is not MISSING:
                return old
        found = await values.fresh()
        if found is not MISSING:
            context.local_flights.end_refresh(flight)
        return found
    return await values.fresh()


def flight_name(cache: str, made_key: str) -> str:
    """What no other value has, in whichever cache: `made_key` is the key as that cache makes it."""
    return f"{cache}:{made_key}"


def call_of(
    runtime: Runtime, context: Context, plan: Plan, values: Any, compute: Callable[[], Any], limit: RateLimit | None
) -> Call:
    """What the rules need to know of this call. Raises `LockReentered` if a computation asks for its own value."""
    if "{" in values.key and not plan.template:
        said_once.warn_of_braces(values.key)
    names = context.flights.names(flight_name(values.alias, values.name))
    place = (runtime, names.lock)
    if any(each.place == place and not each.over for each in _running.get()):
        raise LockReentered(values.key)
    rules = runtime.rules_for(plan.options)
    wait = runtime.settings.blocking_timeout if isinstance(plan.wait, Unset) else plan.wait

    async def compute_marked() -> Any:
        with computing(runtime, [names]):
            return await compute()

    @contextmanager
    def keep_alive(token: bytes, deadline: float) -> Iterator[RenewedFlight]:
        flight = RenewedFlight(names, token, rules, deadline)
        runtime.renewer().add(flight)
        try:
            yield flight
        finally:
            runtime.renewer().remove(flight)

    def error_ttl(error: Exception | None) -> float:
        if not callable(plan.error_ttl):
            return plan.error_ttl
        try:
            return conf.wait_seconds("what error_ttl() returns", plan.error_ttl(error or Exception())) or 0.0
        except Exception as trouble:
            logger.exception(
                "error_ttl of %r has failed, so that its failure is not remembered: %s", values.key, trouble
            )
            return 0.0

    def make_call(wait: float | None) -> Call:
        token = encode(new_token())
        until = inf if wait is None else clock.now() + wait
        return Call(
            key=values.key,
            names=names,
            token=token,
            values=values,
            compute=compute_marked,
            keep_alive=partial(keep_alive, token),
            warn=lambda text, error: logger.warning(text + ": %s", values.key, error),
            lease=rules.timeout,
            until=until,
            keeps_old=values.keeps_old,
            error_ttl=error_ttl,
            on_error=plan.on_error,
            on_timeout=plan.on_timeout,
            allowance=Allowance(limit, in_loop=isinstance(context, LoopContext)) if limit else None,
            place_until=until,
            patience=plan.patience,
            in_background=plan.refresh is not None,
            refresh=Refresher(context, plan, lambda: make_call(IN_BACKGROUND)),
        )

    return make_call(wait)
