"""The rules of single flight, written once: who computes, who waits, and what each of them gets.

As in `protocol.py`, everything is a coroutine over what it is given: the flights in Redis, the values in a cache, the
computation. Nothing here knows of Redis, Django, asyncio, threads or clocks. How and why: docs/internals.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .exceptions import LockBusy, LockUnavailable, PopulateFailed, RetryLater, ServerTrouble
from .gates import Gate
from .protocol import caution, once_more, until_next_probe
from .records import NO_REPLY, Follows, Leads, News, NoReply, Paused
from .tokens import read_holder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from .flight_store import FlightStore
    from .gates import Guest
    from .names import FlightNames

OnError = Literal["share", "retry", "stale"]
OnTimeout = Literal["stale_or_raise", "raise", "compute"]

LANDS_WITHIN = 1.0
"""Seconds that one who voids a flight waits for a value that is already on its way into the cache."""
BREATH = 0.05
"""Seconds before Redis is asked again, where listening to it failed."""


class Missing:
    """No value: `None` is one."""

    def __repr__(self) -> str:
        return "<not in the cache>"


MISSING = Missing()


class Values(Protocol):
    """One entry of a cache, and a copy of it that lives longer."""

    async def fresh(self) -> Any:
        """The value, or `MISSING`. Trouble with the cache is logged, and counts as missing."""

    async def old(self) -> Any:
        """The copy, which may be out of date, or `MISSING`. Trouble as above."""

    async def put(self, value: Any) -> None:
        """Store both. Trouble is logged."""

    async def drop(self) -> None:
        """Delete both."""

    def copier(self, value: Any) -> Callable[[], Any]:
        """What makes copies of a value, as if each were read from the cache."""


class Flying(Protocol):
    """The flight that we lead while we compute."""

    @property
    def held(self) -> bool:
        """Is it surely still ours?"""


class Call(NamedTuple):
    """What one caller wants. Seconds; `until` is local monotonic time."""

    key: str
    names: FlightNames
    token: bytes
    values: Values
    compute: Callable[[], Awaitable[Any]]
    fly: Callable[[float], AbstractContextManager[Flying]]
    """Renews the lease of a flight of ours that has this deadline, for as long as the block lasts."""
    warn: Callable[[str, Exception], None]
    lease: float
    until: float
    keeps_old: bool
    error_ttl: float
    on_error: OnError
    on_timeout: OnTimeout


# ---- what becomes of a call


class Value(NamedTuple):
    """The value. `for_guests`: not where it is out of date already. `computed`: by this caller, not found."""

    value: Any
    for_guests: bool = True
    computed: bool = False


class Copies(NamedTuple):
    """The value, for guests."""

    copy: Callable[[], Any]


class Failed(NamedTuple):
    """The computation failed. `error`: for the one who computed. `remembered`: it failed some time ago."""

    kind: str
    message: str
    error: Exception | None = None
    remembered: bool = False


class Later(NamedTuple):
    """Nobody may compute before this local monotonic time. `error`: for the one who was told so."""

    at: float
    error: RetryLater | None = None


class TimeOver(NamedTuple):
    """The wait ended before the flight did."""

    leader: str = ""
    left: float | None = None


class ServeOld(NamedTuple):
    """Somebody else is at it, and there is an old value to go on with."""


class LookAgain(NamedTuple):
    """Nothing is to be had from this flight: start anew."""


Outcome = Value | Copies | Failed | Later | TimeOver | ServeOld | LookAgain


class Obtained(NamedTuple):
    """The value, and how the caller came by it."""

    value: Any
    how: Literal["computed", "shared", "old"]


async def obtain(flights: FlightStore, call: Call) -> Obtained:
    """The value, computed by exactly one caller of the fleet while all the others wait for it.

    The cache has just been asked, in vain. Raises what `compute` raises, `PopulateFailed` where it failed elsewhere,
    `RetryLater`, or `LockBusy` at the end of the wait. Trouble with Redis never raises: then one caller of each process
    computes.
    """
    old = await call.values.old() if call.keeps_old else MISSING
    while True:
        gate = flights.gates.come_to(call.names.lock)
        if isinstance(gate, Gate):
            outcome = await _host(flights, call, gate, has_old=old is not MISSING)
        elif old is not MISSING:
            return Obtained(old, "old")
        else:
            outcome = await _said_to(gate, call)
        if isinstance(outcome, Value):
            return Obtained(outcome.value, "computed" if outcome.computed else "shared")
        if isinstance(outcome, Copies):
            return Obtained(outcome.copy(), "shared")
        if _starts_anew(call, outcome):
            if flights.now() < call.until:
                continue
            outcome = TimeOver() if isinstance(outcome, LookAgain) else outcome
        if old is not MISSING and _serves_old(call, outcome):
            if isinstance(outcome, Failed) and outcome.error is not None:
                call.warn("the old value of %r is served, for a new one could not be computed", outcome.error)
            return Obtained(old, "old")
        if isinstance(outcome, TimeOver) and call.on_timeout == "compute":
            return Obtained(await call.compute(), "computed")  # not stored: whoever leads stores what he brings home
        raise _error(flights, call, outcome)


async def _said_to(guest: Guest, call: Call) -> Outcome:
    outcome: Outcome | None = await guest.outcome(call.until)
    if outcome is None:
        return TimeOver()
    # A value that was read before we asked may have been invalidated in between.
    return LookAgain() if isinstance(outcome, Copies) and guest.is_late else outcome


def _starts_anew(call: Call, outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return call.on_error == "retry" and outcome.error is None and not outcome.remembered
    return isinstance(outcome, LookAgain)


def _serves_old(call: Call, outcome: Outcome) -> bool:
    if isinstance(outcome, Failed):
        return call.on_error == "stale"
    if isinstance(outcome, TimeOver):
        return call.on_timeout == "stale_or_raise"
    return True


def _error(flights: FlightStore, call: Call, outcome: Outcome) -> Exception:
    if isinstance(outcome, Failed):
        return outcome.error or PopulateFailed(call.key, outcome.kind, outcome.message)
    if isinstance(outcome, Later):
        return outcome.error or RetryLater(max(0.0, outcome.at - flights.now()))
    assert isinstance(outcome, TimeOver)
    return LockBusy(call.key, read_holder(outcome.leader) if outcome.leader else None, outcome.left)


# ---- the host of a gate: one caller of the process, who asks Redis for all of them


async def _host(flights: FlightStore, call: Call, gate: Gate, *, has_old: bool) -> Outcome:
    told: Outcome = LookAgain()  # what guests hear if we are interrupted
    try:
        outcome = await _take_part(flights, call, gate, has_old=has_old)
        told = _for_guests(call, gate, outcome)
        return outcome
    except BaseException:
        if not gate.lands:
            await flights.sheltered(_withdraw(flights, call))
        raise
    finally:
        # Ctrl-C may hit this, too: guests of a gate that nobody closes wait for nothing.
        try:
            gate.close(told)
        except BaseException:
            gate.close(told)
            raise


def _for_guests(call: Call, gate: Gate, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Value):
        # Copied before we go on: the value is ours then, to do with as we like.
        wanted = outcome.for_guests and gate.has_guests
        return Copies(call.values.copier(outcome.value)) if wanted else LookAgain()
    if isinstance(outcome, (Failed, Later)):
        return outcome._replace(error=None)
    return LookAgain()  # the host's patience is not theirs


async def _withdraw(flights: FlightStore, call: Call) -> None:
    """Whatever became of it: it is not our flight any more, and those who wait for it elect another leader."""
    try:
        await once_more(flights.land, call.names, call.token, News("void"))
    except LockUnavailable:
        pass  # it ends with its lease


async def _take_part(flights: FlightStore, call: Call, gate: Gate, *, has_old: bool) -> Outcome:
    try:
        answer: Leads | Follows | Paused | Outcome = await once_more(flights.join, call.names, call.token, call.lease)
        if isinstance(answer, Follows) and not has_old:
            answer = await _follow(flights, call, gate, answer)
    except LockUnavailable as trouble:
        gate.begin_to_look()
        found = await call.values.fresh()  # others of this process may have computed it meanwhile
        if found is not MISSING:
            return Value(found)
        gate.found_nothing()
        call.warn("Redis cannot say who computes %r: computing it in this process, too", trouble)
        outcome = await _computed(flights, call)
        if isinstance(outcome, Value):
            await call.values.put(outcome.value)
        return outcome
    if isinstance(answer, Leads):
        return await _lead(flights, call, gate, answer)
    if isinstance(answer, Paused):
        return _outcome_of(flights, answer.news, answer)
    return ServeOld() if isinstance(answer, Follows) else answer


async def _follow(flights: FlightStore, call: Call, gate: Gate, seen: Follows) -> Leads | Paused | Outcome:
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
                    answer = await flights.join(call.names, call.token, call.lease)
                    if not isinstance(answer, Follows):
                        return answer
                    seen = answer
            finally:
                await listener.leave()
        except ServerTrouble:
            # Ask again who leads; where that fails, too, we are on our own.
            await flights.sleep(BREATH)
            return LookAgain()
        if news is not None:
            if news.what != "landed":
                return _outcome_of(flights, news)
            gate.begin_to_look()
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


async def _lead(flights: FlightStore, call: Call, gate: Gate, leads: Leads) -> Outcome:
    # Somebody may have landed between our look into the cache and our asking to lead.
    gate.begin_to_look()
    found = await call.values.fresh()
    if found is not MISSING:
        await _land(flights, call, News("landed"))
        return Value(found)
    gate.found_nothing()
    with call.fly(leads.sent + call.lease - caution(call.lease)) as flying:
        outcome = await _computed(flights, call)
    if isinstance(outcome, Value):
        gate.begin_to_look()
        gate.lands = True
        # A cache goes on storing what it has begun to store. So do we then, and end the flight when it is done.
        return await flights.sheltered(_bring_home_or_withdraw(flights, call, outcome, held=flying.held))
    if isinstance(outcome, Later):
        seconds = max(0.0, outcome.at - flights.now())
        await _land(flights, call, News("later", "", f"{seconds:.3f}"), seconds)
    elif isinstance(outcome, Failed):
        await _land(flights, call, News("failed", outcome.kind, outcome.message), call.error_ttl)
    return outcome


async def _computed(flights: FlightStore, call: Call) -> Value | Failed | Later:
    try:
        value = await call.compute()
    except RetryLater as later:
        return Later(flights.now() + later.seconds, later)
    except Exception as error:
        kind = type(error)
        return Failed(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."), _text(error), error)
    return Value(value, computed=True)


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "its text cannot be made"  # which must not hide the error itself


async def _bring_home_or_withdraw(flights: FlightStore, call: Call, value: Value, *, held: bool) -> Value:
    try:
        return await _bring_home(flights, call, value, held=held)
    except BaseException:
        await _withdraw(flights, call)
        raise


async def _bring_home(flights: FlightStore, call: Call, value: Value, *, held: bool) -> Value:
    """Store the value, unless the flight was voided, or ran out of its lease, meanwhile. It is never lost to us."""
    out_of_date = value._replace(for_guests=False)
    try:
        if not await once_more(flights.landing, call.names, call.token):
            return out_of_date
    except LockUnavailable as trouble:
        call.warn("Redis cannot say whether the value of %r is still wanted", trouble)
        if not held:
            return out_of_date
    await call.values.put(value.value)
    if await _land(flights, call, News("landed")):
        return value
    try:
        await call.values.drop()  # it took so long that others may have begun anew
    except Exception as trouble:
        call.warn("the cache keeps a value of %r that is out of date", trouble)
    return out_of_date


async def _land(flights: FlightStore, call: Call, news: News, pause: float = 0.0) -> bool:
    """End our flight, and tell everybody. `False` if it was surely not ours any more."""
    try:
        return await flights.land(call.names, call.token, news, pause)
    except (ServerTrouble, LockUnavailable) as error:
        trouble: Exception | None = error
    if isinstance(trouble, ServerTrouble) and not trouble.mute:
        try:
            # "Not ours", after a lost reply, may well mean that the first request did its work.
            await flights.land(call.names, call.token, news, pause)
            trouble = None
        except (ServerTrouble, LockUnavailable) as error:
            trouble = error
    if trouble is not None:
        call.warn("the flight of %r could not be ended, and ends with its lease", trouble)
    return True


# ---- voiding


async def void(flights: FlightStore, names: FlightNames, values: Values) -> None:
    """Delete the value, and see that a computation that is under way does not bring the old one back.

    Raises `LockUnavailable`: the value is deleted, but a computation under way may store what it began with.
    """
    try:
        since = await once_more(flights.void, names, False)
        if since is not None:
            await _wait_for_landing(flights, names, since)
            await once_more(flights.void, names, True)
    finally:
        await values.drop()


async def _wait_for_landing(flights: FlightStore, names: FlightNames, since: bytes) -> None:
    until = flights.now() + LANDS_WITHIN
    try:
        while flights.now() < until:
            listener = await flights.listen(names, since, until - flights.now())
            try:
                news: News | NoReply | None = NO_REPLY
                while isinstance(news, NoReply) and flights.now() < until:
                    news = await listener.news_within(until - flights.now())
                if isinstance(news, News):
                    return
            finally:
                await listener.leave()
    except ServerTrouble:
        pass  # the next request will tell
