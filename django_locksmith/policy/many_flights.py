"""Many values at once: those that nobody computes are computed by one call, and who computes the others is told.

An API that answers for a hundred things at a time has a hundred times the allowance. Each value keeps its own flight,
so that whoever wants only one of them waits for it as for any other.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from ..exceptions import LockUnavailable, RetryLater
from ..local.flights import LocalFlight
from ..redis.messages import Leads, News
from .flight_outcomes import Failed, Later, LookAgain, Value
from .flights import for_followers, join, placed
from .landing import failed_by, land, postpone, put, store_or_withdraw, withdraw
from .locks import caution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..local.flights import LocalFlights
    from ..redis.flight_store import FlightStore
    from .flight_outcomes import Call, LedFlight, Outcome


class Led(NamedTuple):
    """One that is ours to compute. `flight`: `None` where Redis cannot say whose it is. `kept`: renews its lease."""

    call: Call
    local: LocalFlight
    flight: LedFlight | None
    kept: ExitStack


class Absent(NamedTuple):
    """The computation has nothing to say of it."""


async def lead_many(
    flights: FlightStore,
    local_flights: LocalFlights,
    calls: Sequence[Call],
    look: Callable[[list[Call]], Awaitable[dict[str, Any]]],
    compute: Callable[[list[Call]], Awaitable[dict[str, Any]]],
    most: int,
) -> dict[str, Outcome | Absent]:
    """What became of those that nobody else computes, by their keys; each call computes so many at `most`.

    Those that somebody else computes are not waited for, and not among them. The cache has just been asked, in vain;
    `look` asks it once more. No call is made after one that has failed: what that would have computed shares its
    outcome. Trouble with Redis never raises: then each process computes.
    """
    outcomes: dict[str, Outcome | Absent] = {}
    mine: dict[str, LocalFlight] = {}
    with ExitStack() as kept:
        try:
            left = await _ours(flights, local_flights, calls, mine, kept)
            left = await _not_there(flights, left, look, mine, outcomes)
            while left:
                part, left = left[:most], left[most:]
                failure = await _compute(flights, part, compute, mine, outcomes)
                if failure is not None:
                    outcomes.update((led.call.key, failure) for led in left)
                    break
        finally:
            for call in calls:
                local = mine.get(call.key)
                if local is not None:  # interrupted, or not asked for any more: somebody else may lead
                    if not local.lands:
                        await flights.shielded(withdraw(flights, call))
                    local.end(LookAgain())
    return outcomes


async def _not_there(
    flights: FlightStore,
    led: list[Led],
    look: Callable[[list[Call]], Awaitable[dict[str, Any]]],
    mine: dict[str, LocalFlight],
    outcomes: dict[str, Outcome | Absent],
) -> list[Led]:
    """Those that nobody has landed between our look into the cache and our asking to lead."""
    for each in led:
        each.local.begin_to_look()
    found = await look([each.call for each in led]) if led else {}
    missing = []
    for each in led:
        if each.call.key in found:
            await land(flights, each.call, News("landed"))
            _end(mine, each, outcomes, Value(found[each.call.key]))
        else:
            each.local.found_nothing()
            missing.append(each)
    return missing


async def _ours(
    flights: FlightStore,
    local_flights: LocalFlights,
    calls: Sequence[Call],
    mine: dict[str, LocalFlight],
    kept: ExitStack,
) -> list[Led]:
    """Those that we lead, their leases renewed for as long as they are kept."""
    led = []
    trouble: LockUnavailable | None = None
    for call in calls:
        local = local_flights.join(call.names.lock)
        if not isinstance(local, LocalFlight):
            await local.outcome(flights.now())  # we do not wait now
            continue
        mine[call.key] = local
        keeping = ExitStack()
        kept.callback(keeping.close)
        if trouble is None:
            try:
                answer = await join(flights, call)
            except LockUnavailable as error:
                trouble = error
                call.warn("Redis cannot say who computes %r, and others: computing them in this process, too", error)
            else:
                if isinstance(answer, Leads):
                    deadline = answer.sent + call.lease - caution(call.lease)
                    led.append(Led(call, local, keeping.enter_context(call.keep_alive(deadline)), keeping))
                else:
                    del mine[call.key]
                    local.end(LookAgain())
                continue
        led.append(Led(call, local, None, keeping))
    return led


def _end(
    mine: dict[str, LocalFlight], led: Led, outcomes: dict[str, Outcome | Absent], outcome: Outcome | Absent
) -> None:
    led.kept.close()
    outcomes[led.call.key] = outcome
    told = LookAgain() if isinstance(outcome, Absent) else for_followers(led.call, led.local, outcome)
    led.local.end(told)
    mine.pop(led.call.key, None)


async def _compute(
    flights: FlightStore,
    part: list[Led],
    compute: Callable[[list[Call]], Awaitable[dict[str, Any]]],
    mine: dict[str, LocalFlight],
    outcomes: dict[str, Outcome | Absent],
) -> Outcome | None:
    """One call. How it has failed, if it has: so would the next one."""
    first = part[0].call
    outcome: Outcome | None = await placed(flights, first)
    values: dict[str, Any] = {}
    if outcome is None:
        if first.allowance is not None:
            first.allowance.spend()
        try:
            values = await compute([led.call for led in part])
        except RetryLater as later:
            outcome = Later(flights.now() + later.seconds, later)
        except Exception as error:
            outcome = failed_by(error)
    if outcome is None:
        for led in part:
            _end(mine, led, outcomes, await _landed(flights, led, values))
    else:
        await _tell(flights, [led.call for led in part], outcome)
        for led in part:
            _end(mine, led, outcomes, outcome)
    return outcome


async def _landed(flights: FlightStore, led: Led, values: dict[str, Any]) -> Outcome | Absent:
    call = led.call
    if call.key not in values:
        await land(flights, call, News("void"))
        return Absent()
    try:
        value = Value(values[call.key], computed=True, copy=call.values.copier(values[call.key]))
    except TypeError as error:
        failed = failed_by(error)
        await land(flights, call, News("failed", failed.kind, failed.message), call.error_ttl(error))
        return failed
    led.local.begin_to_look()
    led.local.lands = True
    if led.flight is None:
        return await put(call, value, None) or value
    return await flights.shielded(store_or_withdraw(flights, call, value, held=led.flight.held))


async def _tell(flights: FlightStore, calls: list[Call], outcome: Outcome) -> None:
    if isinstance(outcome, Later):
        await postpone(flights, outcome, *calls)
        return
    for call in calls:
        if isinstance(outcome, Failed):
            await land(flights, call, News("failed", outcome.kind, outcome.message), call.error_ttl(outcome.error))
        else:  # its place is too far away
            await land(flights, call, News("void"))
