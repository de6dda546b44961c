"""The rules of rate limits, written once: book a place, sleep until it has come, give it back.

As in `locks.py`, everything is a coroutine over a store that is given to it. The place is worked out by one script, on
the server's clock; whoever has it sleeps once, and asks once more as he wakes: an API may have asked for a pause.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import LockUnavailable, RetryLater
from .locks import once_more

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..local.schedules import LocalSchedule
    from ..redis.key_names import RateNames
    from ..redis.rate_store import Place, RateStore

_LONGEST = 365 * 86400.0


class Terms(NamedTuple):
    """What is asked for. `windows`: calls and seconds, caution included; `wait`: seconds, `None` = without limit."""

    windows: Sequence[tuple[int, float]]
    cost: int
    wait: float | None

    @property
    def most(self) -> int:
        """How many places are looked back to."""
        return max(calls for calls, _ in self.windows)


class Taken(NamedTuple):
    """A place that has come: `server_time` of it, after so many seconds of waiting; `None` if Redis gave no answer."""

    waited: float
    server_time: float | None


async def take(
    rates: RateStore,
    memory: LocalSchedule,
    names: RateNames,
    terms: Terms,
    warn: Callable[[LockUnavailable], None],
) -> Taken:
    """Book the next place, and return when it has come.

    Raises `RetryLater` if it is further away than the caller would wait, or a pause moves it there: then nothing is
    booked. Interrupted or cancelled, the place is given back, if it is the last. Trouble with Redis never raises: each
    process then keeps to the rate by itself.
    """
    began = rates.now()
    until = inf if terms.wait is None else began + terms.wait
    try:
        place = await once_more(rates.book, names, terms.windows, terms.cost, terms.wait)
    except LockUnavailable as trouble:
        warn(trouble)
        return await _take_by_memory(rates, memory, terms, began, until)
    if not place.number:
        raise RetryLater(min(place.left, _LONGEST))
    memory.note(place.received + place.left, terms.cost, terms.most)
    try:
        await _until_it_has_come(rates, names, place, until)
    except BaseException:
        memory.forget(place.received + place.left, terms.cost)
        await rates.shielded(_unbook(rates, names, place, terms.cost))
        raise
    return Taken(rates.now() - began, place.server_time + place.left)


async def _until_it_has_come(rates: RateStore, names: RateNames, place: Place, until: float) -> None:
    left = place.received + place.left - rates.now()
    if place.left <= 0:
        return
    while left > 0:
        await rates.sleep(left)
        try:
            left = await once_more(rates.place, names, place.number)
        except LockUnavailable:
            return  # it was ours when we were last told
        if rates.now() + left > until:
            raise RetryLater(min(left, _LONGEST))


async def _unbook(rates: RateStore, names: RateNames, place: Place, cost: int) -> None:
    try:
        await rates.unbook(names, place.number, cost)
    except Exception:  # it costs a place, and the schedule goes on; see unbook: never twice
        pass


async def _take_by_memory(rates: RateStore, memory: LocalSchedule, terms: Terms, began: float, until: float) -> Taken:
    now = rates.now()
    place, booked = memory.book(now, terms.windows, terms.cost, max(0.0, until - now))
    if not booked:
        raise RetryLater(min(place - now, _LONGEST))
    try:
        if place > now:
            await rates.sleep(place - now)
    except BaseException:
        memory.forget(place, terms.cost)
        raise
    return Taken(rates.now() - began, None)


async def reschedule(
    rates: RateStore,
    memory: LocalSchedule,
    names: RateNames,
    windows: Sequence[tuple[int, float]],
    pause: float,
    counted: int = 0,
    age: float = 0.0,
) -> float:
    """What an API says of itself, for all who book; the seconds until the next place. Raises `LockUnavailable`."""
    if pause:
        memory.pause(rates.now() + pause)
    return await once_more(rates.reschedule, names, windows, pause, counted, age)
