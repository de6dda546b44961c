"""What one process knows of its rate limits: enough to keep to them, by itself, while Redis gives no answer."""

from __future__ import annotations

import threading
from bisect import insort
from typing import TYPE_CHECKING

from .sleepers import Sleepers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .events import Event

_MANY = 1000


class LocalSchedule:
    """The places of one rate limit that callers of this process have had or will have; monotonic seconds."""

    def __init__(self, event: type[Event]) -> None:
        self.sleepers = Sleepers(event)
        self._places: list[float] = []
        self._paused_until = 0.0
        self._mutex = threading.RLock()

    def note(self, place: float, cost: int, most: int) -> None:
        """Redis has given us this place. `most`: how many are of use at all."""
        with self._mutex:
            for _ in range(cost):
                insort(self._places, place)
            del self._places[:-most]

    def forget(self, place: float, cost: int) -> None:
        """It was given back."""
        with self._mutex:
            for _ in range(cost):
                if place in self._places:
                    self._places.remove(place)

    def book(self, now: float, windows: Sequence[tuple[int, float]], cost: int, wait: float) -> tuple[float, bool]:
        """The next place of ours, and whether it is booked: not if it is further away than `wait` seconds."""
        with self._mutex:
            place = max([now, self._paused_until, *self._places[-1:]])
            for calls, seconds in windows:
                if len(self._places) > calls - cost:
                    place = max(place, self._places[cost - 1 - calls] + seconds)
            if place - now > wait:
                return place, False
            self.note(place, cost, max(calls for calls, _ in windows))
            return place, True

    def pause(self, until: float) -> None:
        """No place before that."""
        with self._mutex:
            self._paused_until = max(self._paused_until, until)

    def is_over(self, now: float) -> bool:
        """Does it tell nothing about what is to come?"""
        with self._mutex:
            return max([self._paused_until, *self._places[-1:]]) < now


class LocalSchedules:
    """Those of one process or event loop, by the names in Redis."""

    def __init__(self, event: type[Event]) -> None:
        self._event = event
        self._known: dict[bytes, LocalSchedule] = {}

    def of(self, name: bytes, now: float) -> LocalSchedule:
        """The one of this name."""
        schedule = self._known.get(name)
        if schedule is None:
            if len(self._known) >= _MANY:
                for other, known in list(self._known.items()):
                    if known.is_over(now):
                        self._known.pop(other, None)
            schedule = self._known.setdefault(name, LocalSchedule(self._event))
        return schedule
