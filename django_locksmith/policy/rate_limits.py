"""The rules of rate limits, written once: book a place, sleep until it has come, give it back.

As in `locks.py`, everything is a coroutine over a store that is given to it. The place is worked out by one script, on
the server's clock; whoever has it sleeps once. Should an API ask for a pause meanwhile, places are moved: of those who
sleep in this process one listens for all, and who sleeps alone asks once more as he wakes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import LockUnavailable, RetryLater, ServerTrouble
from ..redis.key_names import encode
from ..redis.messages import NoReply
from ..redis.rate_store import Place
from ..tokens import new_token
from .locks import once_more

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..local.schedules import LocalSchedule
    from ..local.sleepers import Sleeper, Sleepers
    from ..rates import Rate
    from ..records import RateInfo
    from ..redis.key_names import RateNames
    from ..redis.rate_store import RateStore

_LONGEST = 365 * 86400.0
_LISTENS_FOR = 5.0
"""Seconds for which Redis is asked for news at a time: a connection that has gone silent is found out so soon."""
_LISTENS_FROM = 0.3
"""Seconds to the farthest place, from which on it is worth it."""


class Terms(NamedTuple):
    """What is asked for. `rate`: its caution included. `wait`: seconds, `None` = without limit."""

    rate: Rate
    cost: int
    wait: float | None

    @property
    def most(self) -> int:
        """How many places are looked back to."""
        return max(calls for calls, _ in self.rate.windows)


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
    by = encode(new_token())
    place: Place | None = None
    came_at: float | None = None
    try:
        place = await once_more(rates.book, names, terms.rate, terms.cost, terms.wait, by)
        if place.number:
            memory.note(place.received + place.left, terms.cost, terms.most)
            came_at = await _until_it_has_come(rates, memory.sleepers, names, place, until)
    except BaseException as error:
        if place is None and isinstance(error, LockUnavailable):
            warn(error)
            return await _take_by_memory(rates, memory, terms, began, until)
        if place is not None:
            memory.forget(place.received + place.left, terms.cost)
        await rates.shielded(_unbook(rates, names, place, terms.cost, by))
        raise
    if not place.number:
        raise RetryLater(min(place.left, _LONGEST))
    return Taken(rates.now() - began, came_at)


# ---- booked by one call, waited for by another


async def book(rates: RateStore, names: RateNames, terms: Terms) -> Place:
    """Book the next place, and do not wait for it. Raises `RetryLater` if it is too far away, and `LockUnavailable`."""
    by = encode(new_token())
    place: Place = await once_more(rates.book, names, terms.rate, terms.cost, terms.wait, by)
    if not place.number:
        raise RetryLater(min(place.left, _LONGEST))
    return place


async def find(rates: RateStore, names: RateNames, number: int, late: float) -> Place | None:
    """The place of this number as it is now; `None` if it came more than so many seconds ago, or is forgotten."""
    left, at = await once_more(rates.place, names, number)
    if at is None or left < -late:
        return None
    return Place(rates.now(), max(0.0, left), at, number, 0)


async def take_booked(rates: RateStore, memory: LocalSchedule, names: RateNames, terms: Terms, place: Place) -> Taken:
    """Return when it has come. Raises `RetryLater` if a pause moves it further than the caller waits: it stays ours."""
    began = rates.now()
    memory.note(place.received + place.left, terms.cost, terms.most)
    until = inf if terms.wait is None else began + terms.wait
    at = await _until_it_has_come(rates, memory.sleepers, names, place, until)
    return Taken(rates.now() - began, at)


async def _until_it_has_come(
    rates: RateStore, sleepers: Sleepers, names: RateNames, place: Place, until: float
) -> float:
    """Sleep, and hear of it if the place is moved meanwhile. When it came, by the server's clock."""
    at, server_time = place.received + place.left, place.at
    if place.left <= 0:
        return server_time
    sleeper = sleepers.join(place.moved, at)
    try:
        while True:
            now = rates.now()
            if sleeper.has_news or (at <= now and not sleeper.is_covered):
                sleeper.saw_to_it()
                moved_to: float | None = None
                try:
                    left, moved_to = await once_more(rates.place, names, place.number)
                except LockUnavailable:
                    left = max(0.0, at - now)  # it was ours when we were last told
                server_time = moved_to or server_time
                at = sleeper.until = rates.now() + left
                if left <= 0:  # also where it was moved too far, and this process has stood still until then
                    return server_time
                if at > until:
                    raise RetryLater(min(left, _LONGEST))
            elif at <= now:
                return server_time
            elif sleeper.begin_to_listen(now + _LISTENS_FROM):
                await _listen(rates, sleepers, sleeper, names, at)
            else:
                await sleeper.sleep(at - now)
    finally:
        if line := sleeper.leave():
            await rates.shielded(line.leave())


async def _listen(rates: RateStore, sleepers: Sleepers, sleeper: Sleeper, names: RateNames, at: float) -> None:
    """Be the one who listens, until his place comes, or there are news."""
    try:
        news = await _news(rates, sleepers, sleeper, names, at)
    except (ServerTrouble, LockUnavailable):
        sleeper.end_listening(hand_on=False)  # then each looks as he wakes; and the next who books tries it again
        await sleeper.sleep(max(0.0, at - rates.now()))
        return
    if isinstance(news, int):
        sleepers.hear(news)
    sleeper.end_listening()


async def _news(
    rates: RateStore, sleepers: Sleepers, sleeper: Sleeper, names: RateNames, at: float
) -> int | NoReply | None:
    news: int | NoReply | None = None
    try:
        if sleepers.line is None:
            sleepers.line = await rates.listen(names, sleeper.saw_to_it(), _LISTENS_FOR)
        news = await sleepers.line.news_within(max(0.0, at - rates.now()))
        if isinstance(news, NoReply):
            sleepers.read_until = at
        return news
    finally:
        # Only what has not answered yet is of use to the next one; not what was interrupted in the middle of a reply.
        if not isinstance(news, NoReply):
            line, sleepers.line = sleepers.line, None
            if line is not None:
                await rates.shielded(line.leave())


async def _unbook(rates: RateStore, names: RateNames, place: Place | None, cost: int, by: bytes) -> None:
    try:
        await rates.unbook(names, place.number if place else 0, cost, by)
    except Exception:  # it costs a place, and the schedule goes on; see unbook: never twice
        pass


async def _take_by_memory(rates: RateStore, memory: LocalSchedule, terms: Terms, began: float, until: float) -> Taken:
    now = rates.now()
    place, booked = memory.book(now, terms.rate.windows, terms.cost, max(0.0, until - now))
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
    rate: Rate,
    pause: float,
    counted: int = 0,
    age: float = 0.0,
) -> float:
    """What an API says of itself, for all who book; the seconds until the next place. Raises `LockUnavailable`."""
    if pause:
        memory.pause(rates.now() + pause)
    return await once_more(rates.reschedule, names, rate, pause, counted, age)


async def list_limits(rates: RateStore, wanted: Callable[[str], bool]) -> list[RateInfo]:
    """All limits whose name is wanted, by name. Raises `LockUnavailable`."""

    async def find() -> list[RateInfo]:
        found = [await rates.look(rates.names(name)) for name in await rates.all_names() if wanted(name)]
        return [info for info in found if info is not None]

    return await once_more(find)
