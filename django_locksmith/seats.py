"""One seat for each lock in a process (or event loop): only who sits in it waits in Redis, the others wait for it.

So the connections that waiting takes grow with processes and contended locks, not with threads and tasks; and within a
process the order is the order of arrival.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .wires import Bell, Wires

_LOOK_EVERY = 1.0
"""Seconds after which a waiter looks by itself: a thread that is interrupted while it leaves may fail to ring."""


class Seats:
    """The queues of one process or event loop."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._rows: dict[bytes, list[Place]] = {}
        self._mutex = threading.Lock()


class Place:
    """One caller's place in the queue for one lock, not yet taken."""

    __slots__ = ("_bell", "_lock", "_row", "_seats")

    def __init__(self, seats: Seats, lock: bytes) -> None:
        self._seats = seats
        self._lock = lock
        self._row: list[Place] | None = None
        self._bell: Bell | None = None

    def enter(self) -> bool:
        """Queue up: is the seat ours at once?"""
        seats = self._seats
        with seats._mutex:
            row = seats._rows.get(self._lock)
            if row is None:
                self._row = seats._rows[self._lock] = [self]
                return True
            row.append(self)
            self._row = row
            self._bell = seats._wires.bell()
        return False

    async def wait(self, until: float) -> bool:
        """Wait for the seat; `False` if it was not ours `until` (monotonic seconds)."""
        row, bell = self._row, self._bell
        assert row is not None
        assert bell is not None
        while row[0] is not self:
            left = until - self._seats._wires.now()
            if left <= 0:
                return False
            await bell.wait(min(left, _LOOK_EVERY))
        return True

    def leave(self) -> None:
        """Give up the seat or the place, whichever it is; harmless where it is neither."""
        row = self._row
        if row is None:
            return
        with self._seats._mutex:
            self._row = None
            try:
                row.remove(self)
            except ValueError:
                return
            if not row:
                self._seats._rows.pop(self._lock, None)
            elif row[0]._bell is not None:
                row[0]._bell.ring()
