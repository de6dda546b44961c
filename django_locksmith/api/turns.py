"""Places of a rate limit that others book and keep: single flight, and tasks whose messages wait instead of them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ..exceptions import RetryLater
from ..policy import rate_limits as policy
from ..policy.sync_bridge import run_sync

if TYPE_CHECKING:
    from ..redis.rate_store import Place
    from .rate_limit import RateLimit


class Allowance:
    """One call of a rate limit, for a computation of single flight."""

    def __init__(self, limit: RateLimit, *, in_loop: bool) -> None:
        self._limit = limit
        self._context, _ = limit.where(in_loop=in_loop)
        self._has_place = False

    async def place(self, seconds: float) -> None:
        """Return when its place has come; at once, if it has come and was not spent. `RetryLater`: it is further."""
        if not self._has_place:
            terms = self._limit.terms(1, True, None if seconds == inf else seconds)
            await self._limit.take_on(self._context, terms)
            self._has_place = True

    def spend(self) -> None:
        """The call goes out."""
        self._has_place = False

    async def pause(self, seconds: float) -> bool:
        """No call by anybody for so long; `False` if nobody could be told."""
        return await self._limit.pause_if_told(self._context, seconds)


class Turn:
    """A place that is booked ahead, for threads: its caller goes away, and comes back for it, maybe elsewhere."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._context, self._names = limit.where()

    def book(self, seconds: float | None) -> Place:
        """The next place, however far away; `None`: without limit.

        Raises `RetryLater` if it is further away than so many seconds, and `LockUnavailable`: then nothing is booked.
        """
        return run_sync(policy.book(self._context.rates, self._names, self._limit.terms(1, True, seconds)))

    def find(self, number: int) -> Place | None:
        """The place of this number, as it is now; `None` if it is over, or Redis has forgotten it.

        It is over as soon as somebody else's place may rest on its having been used in time.
        """
        return run_sync(policy.find(self._context.rates, self._names, number, self._limit.caution))

    def wait(self, place: Place, longest: float) -> float | None:
        """Return when it has come; or, after so many seconds at most, how far it has been moved by a pause."""
        rates = self._context.rates
        memory = self._context.schedules.of(self._names.lock, rates.now())
        terms = self._limit.terms(1, True, longest)
        try:
            taken = run_sync(policy.take_booked(rates, memory, self._names, terms, place))
        except RetryLater as moved:
            return moved.seconds
        run_sync(self._limit.tell(self._context, "taken", taken.waited))
        return None

    def pause(self, seconds: float) -> None:
        """No call by anybody for so long, if that can be told."""
        run_sync(self._limit.pause_if_told(self._context, seconds))
