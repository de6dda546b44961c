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

_LOOK_EVERY = 1.0
"""Seconds after which a follower looks by itself: a leader that is interrupted while it ends may fail to wake it."""


class LocalFlights:
    """The flights of one process or event loop. `now`: the clock to wait by, monotonic seconds."""

    def __init__(self, event: type[Event], now: Callable[[], float]) -> None:
        self._event = event
        self._now = now
        self._flights: dict[bytes, LocalFlight] = {}
        self._mutex = threading.Lock()

    def join(self, name: bytes) -> LocalFlight | LocalFollower:
        """The flight of this name, to be led by us if nobody does yet; else our place among its followers."""
        with self._mutex:
            flight = self._flights.get(name)
            if flight is None:
                flight = self._flights[name] = LocalFlight(self, name)
                return flight
            return flight.follow(self._event())


class LocalFlight:
    """What the local leader has in hand: it ends the flight, and says with what outcome."""

    def __init__(self, flights: LocalFlights, name: bytes) -> None:
        self._flights = flights
        self._name = name
        self._events: list[Event] = []
        self._in_time: int | None = None
        self.outcome: Any = None
        self.lands = False
        """Is a value on its way into the cache? Then its flight in Redis ends by itself."""

    @property
    def has_followers(self) -> bool:
        """Does anybody wait for the outcome?"""
        return bool(self._events)

    def follow(self, event: Event) -> LocalFollower:
        """One more follower, who is woken by this event."""
        self._events.append(event)
        return LocalFollower(self, event, len(self._events), self._flights._now)

    def is_late(self, number: int) -> bool:
        """Did the follower of this number come when the outcome was already being looked at?"""
        return self._in_time is not None and number > self._in_time

    def begin_to_look(self) -> None:
        """Whatever is found from here on may be out of date for those who come from here on."""
        with self._flights._mutex:
            self._in_time = len(self._events)

    def found_nothing(self) -> None:
        """There will be another look."""
        self._in_time = None

    def end(self, outcome: Any) -> None:
        """The outcome for all followers; who comes later begins another flight. Harmless if repeated."""
        with self._flights._mutex:
            if self._flights._flights.get(self._name) is self:
                del self._flights._flights[self._name]
            self.outcome = outcome
            self._events.reverse()  # first come, first woken
        for _ in range(self._flights._event.wake_first or len(self._events)):
            self.wake_next()

    def wake_next(self) -> None:
        """Wake one more follower, if there is one."""
        with suppress(IndexError):
            self._events.pop().set()


class LocalFollower:
    """One who waits for the outcome of a local flight."""

    def __init__(self, flight: LocalFlight, event: Event, number: int, now: Callable[[], float]) -> None:
        self._flight = flight
        self._event = event
        self._number = number
        self._now = now

    @property
    def is_late(self) -> bool:
        """Is the outcome older than this follower?"""
        return self._flight.is_late(self._number)

    async def outcome(self, until: float) -> Any:
        """What the leader says; `None` if that was not known by then (monotonic seconds)."""
        flight = self._flight
        try:
            while flight.outcome is None:
                left = until - self._now()
                if left <= 0:
                    return None
                await self._event.wait(min(left, _LOOK_EVERY))
            return flight.outcome
        finally:
            if flight.outcome is not None:
                flight.wake_next()
