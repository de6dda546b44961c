"""A call of `get_or_set` that missed the value: what the rules of single flight are given, and what is told of it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

from .. import clock, signals
from ..exceptions import LockBusy, LockReentered, RetryLater
from ..policy import flights
from ..policy.flight_outcomes import Call
from ..redis.key_names import encode
from ..runtime.options import Unset
from ..tokens import new_token
from . import said_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..redis.key_names import FlightNames
    from ..runtime.contexts import Context
    from ..runtime.options import Rules
    from ..runtime.runtime import Runtime
    from .flight_options import Plan

logger = logging.getLogger("django_locksmith.flight")


class RunningComputation:
    """A computation, as the code that runs in it knows it, and the tasks that this code has begun."""

    def __init__(self, place: tuple[object, bytes]) -> None:
        self.place = place
        self.over = False


_running: ContextVar[tuple[RunningComputation, ...]] = ContextVar("django_locksmith_running", default=())
"""The computations that the code that runs now is a part of, or was begun by."""


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
    if not signals.flight.wanted:
        return (await flights.obtain(context.flights, context.local_flights, call)).value
    started = clock.now()

    async def tell(outcome: str) -> None:
        waited = clock.now() - started
        await context.tell(signals.flight, key=call.key, template=template, outcome=outcome, waited=waited)

    try:
        obtained = await flights.obtain(context.flights, context.local_flights, call)
    except Exception as error:
        await tell({RetryLater: "postponed", LockBusy: "busy"}.get(type(error), "failed"))
        raise
    await tell(obtained.how)
    return obtained.value


def flight_name(cache: str, made_key: str) -> str:
    """What no other value has, in whichever cache: `made_key` is the key as that cache makes it."""
    return f"{cache}:{made_key}"


def call_of(runtime: Runtime, context: Context, plan: Plan, values: Any, compute: Callable[[], Any]) -> Call:
    """What the rules need to know of this call. Raises `LockReentered` if a computation asks for its own value."""
    if "{" in values.key and not plan.template:
        said_once.warn_of_braces(values.key)
    names = context.flights.names(flight_name(values.alias, values.name))
    place = (runtime, names.lock)
    if any(each.place == place and not each.over for each in _running.get()):
        raise LockReentered(values.key)
    rules = runtime.rules_for(plan.options)
    wait = runtime.settings.blocking_timeout if isinstance(plan.wait, Unset) else plan.wait
    token = encode(new_token())

    async def compute_marked() -> Any:
        running = RunningComputation(place)
        before = _running.set((*_running.get(), running))
        try:
            return await compute()
        finally:
            running.over = True  # tasks that it has begun, and did not wait for, know it for as long as they run
            _running.reset(before)

    @contextmanager
    def keep_alive(deadline: float) -> Iterator[RenewedFlight]:
        flight = RenewedFlight(names, token, rules, deadline)
        runtime.renewer().add(flight)
        try:
            yield flight
        finally:
            runtime.renewer().remove(flight)

    return Call(
        key=values.key,
        names=names,
        token=token,
        values=values,
        compute=compute_marked,
        keep_alive=keep_alive,
        warn=lambda text, error: logger.warning(text + ": %s", values.key, error),
        lease=rules.timeout,
        until=inf if wait is None else clock.now() + wait,
        keeps_old=values.keeps_old,
        error_ttl=plan.error_ttl,
        on_error=plan.on_error,
        on_timeout=plan.on_timeout,
    )
