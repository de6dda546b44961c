"""One flight for each value in a process (or event loop): its first caller asks Redis, the others wait for the outcome.

So a stampede costs Redis one request for each process, not for each thread; and where Redis cannot be asked, one caller
still computes for all of its process. The first caller is the local leader, the others are local followers; who leads
in the whole fleet, Redis decides.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .events import Event

_MANY = 10_000
"""Refreshes that are remembered; from then on those that are over are forgotten."""
_LOOK_EVERY = 1.0
"""Seconds after which a follower looks by itself: a leader that is interrupted while it ends may fail to wake it."""


class LocalFlights:
    """The flights of one process or event loop. `now`: the clock to wait by, monotonic seconds."""

    def __init__(self, event: type[Event], now: Callable[[], float]) -> None:
        self._event = event
        self._now = now
        self._flights: dict[bytes, _Shared] = {}
        self._refreshing: dict[bytes, _Refresh] = {}
        # A signal handler may come in between, and ask for a value, too.
        self._mutex = threading.RLock()

    def join(self, name: bytes) -> LocalFlight | LocalFollower:
        """The flight of this name, to be led by us if nobody does yet; else our place among its followers."""
        with self._mutex:
            flight = self._flights.get(name)
            if flight is None:
                mine = LocalFlight(_Shared(self, name))
                self._flights[name] = mine.shared
                return mine
            return flight.follow(self._event())

    # A refresh in the background. What is kept of it is a hint: it spares requests, and decides nothing.

    def begin_refresh(self, name: bytes, seconds: float) -> bool:
        """Is it up to us to have it refreshed? Then nobody else of this process does, for so many seconds at most."""
        now = self._now()
        with self._mutex:
            known = self._refreshing.get(name)
            if known is not None and known.until > now:
                return False
            if len(self._refreshing) >= _MANY:
                self._refreshing = {each: known for each, known in self._refreshing.items() if known.until > now}
            self._refreshing[name] = _Refresh(now + seconds, now + _LOOK_EVERY)
            return True

    def end_refresh(self, name: bytes, pause: float = 0.0) -> None:
        """It has ended; nobody of this process is to try again for so many seconds."""
        now = self._now()
        with self._mutex:
            if pause:
                self._refreshing[name] = _Refresh(now + pause, now + pause)
            else:
                self._refreshing.pop(name, None)

    def is_refreshing(self, name: bytes) -> bool:
        """Is it on its way, so that there is nothing new yet? Now and then somebody is to look all the same."""
        known = self._refreshing.get(name)
        if known is None:
            return False
        now = self._now()
        if now < known.look_at:
            return True
        known.look_at = now + _LOOK_EVERY
        return False


class _Refresh:
    """Until when nobody else is to begin one, and when somebody is to look whether there is a new value after all."""

    __slots__ = ("look_at", "until")

    def __init__(self, until: float, look_at: float) -> None:
        self.until = until
        self.look_at = look_at


ABANDONED = object()
"""The outcome of a flight whose leader has gone without a word: it was interrupted where no code could see it."""


class _Shared:
    """What the leader and the followers of one flight have in common."""

    def __init__(self, flights: LocalFlights, name: bytes) -> None:
        self.flights = flights
        self.name = name
        self.events: list[Event] = []
        self.followers = 0
        self.in_time: int | None = None
        self.outcome: Any = None

    def follow(self, event: Event) -> LocalFollower:
        """One more follower, who is woken by this event."""
        self.events.append(event)
        self.followers += 1
        return LocalFollower(self, event, self.followers, self.flights._now)

    def end(self, outcome: Any) -> None:
        with self.flights._mutex:
            if self.flights._flights.get(self.name) is self:
                del self.flights._flights[self.name]
            if self.outcome is not None:
                return
            self.outcome = outcome
            self.events.reverse()  # first come, first woken
        for _ in range(self.flights._event.wake_first or len(self.events)):
            self.wake_next()

    def wake_next(self) -> None:
        """Wake one more follower, if there is one."""
        with suppress(IndexError):
            self.events.pop().set()


class LocalFlight:
    """What the local leader has in hand: it ends the flight, and says with what outcome.

    Only the leader has it. A leader that loses it without an end, by an interrupt between two lines, abandons the
    flight: its followers begin another.
    """

    def __init__(self, shared: _Shared) -> None:
        self.shared = shared
        self.lands = False
        """Is a value on its way into the cache? Then its flight in Redis ends by itself."""

    def __del__(self) -> None:
        shared = getattr(self, "shared", None)  # Ctrl-C may have hit its own making: then nobody knows of it
        if shared is not None and shared.outcome is None:
            shared.end(ABANDONED)

    @property
    def has_followers(self) -> bool:
        """Does anybody wait for the outcome?"""
        return bool(self.shared.events)

    def begin_to_look(self) -> None:
        """Whatever is found from here on may be out of date for those who come from here on."""
        with self.shared.flights._mutex:
            self.shared.in_time = self.shared.followers

    def found_nothing(self) -> None:
        """There will be another look."""
        self.shared.in_time = None

    def end(self, outcome: Any) -> None:
        """The outcome for all followers; who comes later begins another flight. Harmless if repeated."""
        self.shared.end(outcome)


class LocalFollower:
    """One who waits for the outcome of a local flight."""

    def __init__(self, flight: _Shared, event: Event, number: int, now: Callable[[], float]) -> None:
        self._flight = flight
        self._event = event
        self._number = number
        self._now = now

    @property
    def is_late(self) -> bool:
        """Is the outcome older than this follower?"""
        return self._flight.in_time is not None and self._number > self._flight.in_time

    async def outcome(self, until: float) -> Any:
        """What the leader says, or `ABANDONED`; `None` if that was not known by then (monotonic seconds)."""
        flight = self._flight
        try:
            while flight.outcome is None:
                left = until - self._now()
                if left <= 0:
                    return None
                await self._event.wait(min(left, _LOOK_EVERY))
            return flight.outcome
        finally:
            with flight.flights._mutex:
                # Who gives up is not woken in place of another.
                woken = self._event not in flight.events
                if not woken:
                    flight.events.remove(self._event)
            if flight.outcome is not None:
                flight.wake_next()
