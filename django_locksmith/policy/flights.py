"""The rules of single flight, written once: who computes, who waits, and what each of them gets.

As in `locks.py`, everything is a coroutine over what it is given: the flights in Redis, the values in a cache, the
computation. Nothing here knows of Redis, Django, asyncio, threads or clocks. How and why: docs/internals.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exceptions import LockBusy, LockUnavailable, PopulateFailed, RetryLater, ServerTrouble
from ..local.flights import ABANDONED, LocalFlight
from ..redis.messages import Follows, Leads, News, NoReply, Paused
from ..tokens import read_holder
from .flight_outcomes import MISSING, Copies, Failed, Later, LookAgain, NoPlace, Obtained, ServeOld, TimeOver, Value
from .landing import failed_by, land, postpone, put, store_or_withdraw, withdraw
from .locks import caution, once_more, until_next_probe

if TYPE_CHECKING:
    from ..local.flights import LocalFlights, LocalFollower
    from ..redis.flight_store import FlightStore
    from .flight_outcomes import Call, Outcome

REPLICA_LAGS = (0.002, 0.005, 0.02, 0.05)
"""Seconds between the looks for a value that has just been stored: the cache may be read from replicas."""
BREATH = 0.05
"""Seconds before Redis is asked again, where listening to it failed."""


async def obtain(flights: FlightStore, local_flights: LocalFlights, call: Call) -> Obtained:
    """The value, computed by exactly one caller of the fleet while all the others wait for it.

    The cache has just been asked, in vain. Raises what `compute` raises, `PopulateFailed` where it failed elsewhere,
    `RetryLater`, or `LockBusy` at the end of the wait. Trouble with Redis never raises: then one caller of each process
    computes.
    """
    old = await call.values.old() if call.keeps_old else MISSING
    if old is not MISSING:
        if call.in_background:
            call.refresh()
            return Obtained(old, "old")
        if call.values.old_lives:  # it is as good as a new one
            call = call._replace(on_error="stale", on_timeout="stale_or_raise")
        call = _with_patience(call, flights.now())
    waits = old is MISSING or call.patience > 0
    while True:
        local = local_flights.join(call.names.lock)
        if isinstance(local, LocalFlight):
            outcome = await _lead_locally(flights, call, local, waits=waits)
        elif not waits:
            return Obtained(old, "old")
        else:
            outcome = await _follow_locally(local, call)
        if isinstance(outcome, Value):
            return Obtained(outcome.value, "computed" if outcome.computed else "shared")
        if isinstance(outcome, Copies):
            return Obtained(outcome.copy(), "shared")
        if _starts_again(call, outcome):
            if flights.now() < call.until:
                continue
            outcome = TimeOver() if isinstance(outcome, LookAgain) else outcome
        if old is not MISSING and _serves_old(call, outcome):
            if isinstance(outcome, Failed) and outcome.error is not None:
                call.warn("the old value of %r is served, for a new one could not be computed", outcome.error)
            if isinstance(outcome, NoPlace):
                call.refresh()
            return Obtained(old, "old")
        if isinstance(outcome, TimeOver) and call.on_timeout == "compute":
            outcome = await placed(flights, call) or await _computed(flights, call)
            if isinstance(outcome, Value):
                return Obtained(outcome.value, "computed")  # not stored: whoever leads stores its own
            if isinstance(outcome, Later):
                await postpone(flights, outcome, call)
        raise error_of(flights, call, outcome)


async def refresh(flights: FlightStore, local_flights: LocalFlights, call: Call) -> Obtained | None:
    """Compute in the background, unless somebody in the fleet does (`None`). Raises as `obtain`."""
    local = local_flights.join(call.names.lock)
    if not isinstance(local, LocalFlight):
        await local.outcome(flights.now())  # he does not wait
        return None
    outcome = await _lead_locally(flights, call, local, waits=False)
    if isinstance(outcome, Value):
        return Obtained(outcome.value, "computed" if outcome.computed else "shared")
    if isinstance(outcome, (Failed, Later, NoPlace)):
        raise error_of(flights, call, outcome)
    return None


def _with_patience(call: Call, now: float) -> Call:
    """For a caller who has an old value to go on with."""
    place_until = min(call.place_until, now + call.patience)
    if not call.patience:
        return call._replace(place_until=place_until)
    return call._replace(place_until=place_until, until=min(call.until, place_until), on_timeout="stale_or_raise")


async def _follow_locally(follower: LocalFollower, call: Call) -> Outcome:
    outcome: Any = await follower.outcome(call.until)
    if outcome is None:
        return TimeOver()
    if outcome is ABANDONED:
        return LookAgain()
    # A value that was read before we asked may have been invalidated in between.
    return LookAgain() if isinstance(outcome, Copies) and follower.is_late else outcome


def _starts_again(call: Call, outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return call.on_error == "retry" and outcome.error is None and not outcome.remembered
    return isinstance(outcome, LookAgain)


def _serves_old(call: Call, outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return call.on_error == "stale"
    if isinstance(outcome, TimeOver):
        return call.on_timeout == "stale_or_raise"
    return True


def error_of(flights: FlightStore, call: Call, outcome: Outcome) -> Exception:
    """What is raised for an outcome that is no value."""
    if isinstance(outcome, Failed):
        return outcome.error or PopulateFailed(call.key, outcome.kind, outcome.message)
    if isinstance(outcome, (Later, NoPlace)):
        return outcome.error or RetryLater(max(0.0, outcome.at - flights.now()))
    assert isinstance(outcome, TimeOver)
    return LockBusy(call.key, read_holder(outcome.leader) if outcome.leader else None, outcome.left)


# ---- the local leader: one caller of the process, who asks Redis for all of them


async def _lead_locally(flights: FlightStore, call: Call, local: LocalFlight, *, waits: bool) -> Outcome:
    told: Outcome = LookAgain()  # what the followers hear if we are interrupted
    try:
        outcome = await _take_part(flights, call, local, waits=waits)
        told = for_followers(call, local, outcome)
        return outcome
    except BaseException:
        if not local.lands:
            await flights.shielded(withdraw(flights, call))
        raise
    finally:
        # Ctrl-C may hit this, too: the followers of a flight that nobody ends wait for nothing.
        try:
            local.end(told)
        except BaseException:
            local.end(told)
            raise


def for_followers(call: Call, local: LocalFlight, outcome: Outcome) -> Outcome:
    """What the local followers hear."""
    if isinstance(outcome, Value):
        # Copied before our caller gets the value, and may change it.
        if not (outcome.for_followers and local.has_followers):
            return LookAgain()
        try:
            return Copies(outcome.copy or call.values.copier(outcome.value))
        except TypeError:
            return LookAgain()  # a cache that does not pickle what it keeps: each looks for itself
    if isinstance(outcome, (Failed, Later)):
        return outcome._replace(error=None)
    return LookAgain()  # the leader's patience is not theirs, nor how long he would wait for a place


async def _take_part(flights: FlightStore, call: Call, local: LocalFlight, *, waits: bool) -> Outcome:
    try:
        answer: Leads | Follows | Paused | Outcome = await join(flights, call)
        if isinstance(answer, Follows) and waits:
            answer = await _follow(flights, call, local, answer)
    except LockUnavailable as trouble:
        local.begin_to_look()
        found = await call.values.fresh()  # others of this process may have computed it meanwhile
        if found is not MISSING:
            return Value(found)
        local.found_nothing()
        call.warn("Redis cannot say who computes %r: computing it in this process, too", trouble)
        outcome = await placed(flights, call) or await _computed(flights, call)
        if isinstance(outcome, Value):
            return await put(call, outcome, None) or outcome
        if isinstance(outcome, Later):
            await postpone(flights, outcome, call)
        return outcome
    if isinstance(answer, Leads):
        return await _lead(flights, call, local, answer)
    if isinstance(answer, Paused):
        return _outcome_of(flights, answer.news, answer)
    return ServeOld() if isinstance(answer, Follows) else answer


async def join(flights: FlightStore, call: Call) -> Leads | Follows | Paused:
    """As `once_more`, of the one request that may make us the leader without our hearing of it."""
    sent = False

    async def ask() -> Leads | Follows | Paused:
        nonlocal sent
        try:
            return await flights.join(call.names, call.token, call.lease)
        except ServerTrouble as trouble:
            sent = sent or trouble.sent
            raise

    try:
        return await once_more(ask)
    except LockUnavailable:
        if sent:
            flights.give_back_later(call.names, call.token, call.lease)
        raise


async def _follow(flights: FlightStore, call: Call, local: LocalFlight, seen: Follows) -> Leads | Paused | Outcome:
    """Wait for the news of somebody else's flight, and look on the side whether its leader has died."""
    since = seen.since
    while True:
        try:
            listener = await flights.listen(call.names, since, call.until - flights.now())
            try:
                while True:
                    news = await listener.news_within(until_next_probe(flights, call.until, seen))
                    if not isinstance(news, NoReply):
                        break
                    if flights.now() >= call.until:
                        return TimeOver(seen.leader, seen.left)
                    answer = await join(flights, call)
                    if not isinstance(answer, Follows):
                        return answer
                    seen = answer
            finally:
                await listener.leave()
        except ServerTrouble:
            # Ask again who leads; where that fails, too, this process computes for itself.
            await flights.sleep(BREATH)
            return LookAgain()
        if news is not None:
            if news.what != "landed":
                return _outcome_of(flights, news)
            local.begin_to_look()
            value = await call.values.fresh()
            for pause in REPLICA_LAGS:
                if value is not MISSING:
                    break
                await flights.sleep(pause)
                value = await call.values.fresh()
            return LookAgain() if value is MISSING else Value(value)
        if flights.now() >= call.until:
            return TimeOver(seen.leader, seen.left)


def _outcome_of(flights: FlightStore, news: News, pause: Paused | None = None) -> Outcome:
    if news.what == "failed":
        return Failed(news.kind, news.message, remembered=pause is not None)
    if news.what == "later":
        return Later(flights.now() + (float(news.message) if pause is None else pause.left))
    return LookAgain()


# ---- the leader


async def _lead(flights: FlightStore, call: Call, local: LocalFlight, leads: Leads) -> Outcome:
    # Somebody may have landed between our look into the cache and our asking to lead.
    local.begin_to_look()
    found = await call.values.fresh()
    if found is not MISSING:
        await land(flights, call, News("landed"))
        return Value(found)
    local.found_nothing()
    with call.keep_alive(leads.sent + call.lease - caution(call.lease)) as flight:
        outcome: Outcome | None = await placed(flights, call)
        if outcome is None:
            # It may have been a long wait: who leads now has the next place.
            outcome = await _computed(flights, call) if call.allowance is None or flight.held else LookAgain()
    if isinstance(outcome, Value):
        local.begin_to_look()
        local.lands = True
        # A cache goes on storing what it has begun to store. So we go on, too, and end the flight when it is stored.
        return await flights.shielded(store_or_withdraw(flights, call, outcome, held=flight.held))
    if isinstance(outcome, Later):
        await postpone(flights, outcome, call)
    elif isinstance(outcome, Failed):
        await land(flights, call, News("failed", outcome.kind, outcome.message), call.error_ttl(outcome.error))
    elif isinstance(outcome, NoPlace):
        await land(flights, call, News("void"))
    return outcome


async def placed(flights: FlightStore, call: Call) -> NoPlace | None:
    """Wait for a place of the rate limit, where there is one; or hear that it is too far away."""
    if call.allowance is None:
        return None
    try:
        await call.allowance.place(max(0.0, call.place_until - flights.now()))
    except RetryLater as later:
        return NoPlace(flights.now() + later.seconds, later)
    return None


async def _computed(flights: FlightStore, call: Call) -> Value | Failed | Later:
    if call.allowance is not None:
        call.allowance.spend()
    try:
        value = await call.compute()
    except RetryLater as later:
        return Later(flights.now() + later.seconds, later)
    except Exception as error:
        return failed_by(error)
    try:
        return Value(value, computed=True, copy=call.values.copier(value))
    except TypeError as error:
        return failed_by(error)
