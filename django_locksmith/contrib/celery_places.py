"""The rate limit of a Celery task: a worker never sleeps until its place has come, the message does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from ..api.turns import Turn
from ..exceptions import RetryLater
from .celery_messages import PLACE, longest, place_of, sent_again

if TYPE_CHECKING:
    from ..api.rate_limit import RateLimit
    from ..redis.rate_store import Place

_MOMENT = 1.0
"""Seconds that a worker does sleep for a place: messages do not come to the second."""


class TaskPlace:
    """That of one run. `patience`: seconds for which a task waits at most, all its runs together; `None` = for ever."""

    def __init__(self, task: Any, limit: RateLimit, patience: float | None) -> None:
        self._task = task
        self._limit = limit
        self._patience = patience
        self._turn = Turn(limit)
        booked = place_of(task.request)
        self._booked = booked if booked and booked.limit == limit.name else None
        now = time.time()
        self._since = min(self._booked.since, now) if self._booked else now  # a clock may have been set back

    def come(self) -> None:
        """Return when it has come. Raises what ends this run if that is more than a moment away."""
        place = self._turn.find(self._booked.number) if self._booked else None
        if place is None:
            place = self._turn.book(self._left)
        if place.left > _MOMENT:
            self._come_again(place, place.left, RetryLater(place.left))
        moved = self._turn.wait(place, 2 * _MOMENT)
        if moved is not None:
            self._come_again(place, moved, RetryLater(moved))

    def later(self, error: RetryLater) -> NoReturn:
        """The API wants to be left alone: so says the task. It is sent again for a place after that."""
        self._turn.pause(error.seconds)
        try:
            place = self._turn.book(self._left)
        except RetryLater:
            raise error from None
        self._come_again(place, place.left, error)

    @property
    def _left(self) -> float | None:
        return None if self._patience is None else max(0.0, self._since + self._patience - time.time())

    def _come_again(self, place: Place, left: float, error: RetryLater) -> NoReturn:
        # A little early: what is left then is slept.
        seconds = min(max(0.0, left - _MOMENT / 2), longest(self._task))
        header = [self._limit.name, place.number, self._task.request.retries, self._since]
        text = f"its place in the rate limit {self._limit.name!r} comes in {left:.1f} s"
        raise sent_again(self._task, seconds, error, text, {PLACE: header})
