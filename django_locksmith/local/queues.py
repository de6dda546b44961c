"""One queue for each lock in a process (or event loop): only its first caller waits in Redis, the others behind it.

So the connections that waiting takes grow with processes and contended locks, not with threads and tasks; and within a
process the order is the order of arrival.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .events import Event

_LOOK_EVERY = 1.0
"""Seconds after which a waiter looks by itself: a thread that is interrupted while it leaves may fail to wake it."""


class LocalQueues:
    """The queues of one process or event loop. `now`: the clock to wait by, monotonic seconds."""

    def __init__(self, event: type[Event], now: Callable[[], float]) -> None:
        self._event = event
        self._now = now
        self._queues: dict[bytes, list[Ticket]] = {}
        # A signal handler may come in between, and take a lock, too.
        self._mutex = threading.RLock()


class Ticket:
    """One caller's place in the queue for one lock; at first not yet in it."""

    __slots__ = ("_event", "_lock", "_queue", "_queues")

    def __init__(self, queues: LocalQueues, lock: bytes) -> None:
        self._queues = queues
        self._lock = lock
        self._queue: list[Ticket] | None = None
        self._event: Event | None = None

    def enter(self) -> bool:
        """Join the queue, if we are not in it yet: are we its first?"""
        if self._queue is not None:
            return self._queue[0] is self
        queues = self._queues
        # First we know the queue, then we are in it: whenever Ctrl-C comes, `leave` finds us.
        self._queue = mine = [self]
        if queues._queues.setdefault(self._lock, mine) is mine:
            return True  # the usual case: one step, that nothing can come between
        with queues._mutex:  # nobody leaves meanwhile
            queue = queues._queues.setdefault(self._lock, mine)
            if queue is mine:
                return True
            self._event = queues._event()
            self._queue = queue
            queue.append(self)
            return False

    async def wait(self, until: float) -> bool:
        """Wait until we are the first; `False` if we were not by then (monotonic seconds)."""
        queue, event = self._queue, self._event
        assert queue is not None
        assert event is not None
        while queue[0] is not self:
            left = until - self._queues._now()
            if left <= 0:
                return False
            await event.wait(min(left, _LOOK_EVERY))
        return True

    def leave(self) -> None:
        """Leave the queue, from whichever place; harmless where we are not in it."""
        queue = self._queue
        if queue is None:
            return
        with self._queues._mutex:
            if self in queue:
                queue.remove(self)
            self._queue = None
            if not queue:
                if self._queues._queues.get(self._lock) is queue:
                    del self._queues._queues[self._lock]
            elif queue[0]._event is not None:
                queue[0]._event.set()
