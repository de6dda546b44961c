"""The clock that leases are counted by: that of `time.monotonic()`, which goes on while the machine is suspended.

The monotonic clock of Linux stands still then, and the lease in Redis does not. Its own clock for this costs many times
as much to read as any other; so it is read only where the wall clock has moved against the monotonic one, as it does
after each suspend.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MOVED = 0.1
"""Seconds."""


class Clock:
    """`boot`: a clock that does not stop; `None` where the system has none.

    Attributes:
        now: seconds; the same as `time.monotonic()` on a machine that has not been suspended.
        suspended: seconds for which it has been, as far as that was noticed.
    """

    def __init__(
        self, monotonic: Callable[[], float], wall: Callable[[], float], boot: Callable[[], float] | None
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._boot = boot
        self._offset = wall() - monotonic()
        self._begun = boot() - monotonic() if boot else 0.0
        self.suspended = 0.0

        def now() -> float:
            seconds = monotonic()
            if not -_MOVED < wall() - seconds - self._offset < _MOVED:
                self._look()
            return seconds + self.suspended

        self.now = now  # on the way of each request: a method would take half as long again

    def _look(self) -> None:
        # Somebody has set the wall clock, or it was slewed for long, or nobody looked while we slept.
        self._offset = self._wall() - self._monotonic()
        if self._boot is not None:
            self.suspended = max(self.suspended, self._boot() - self._monotonic() - self._begun)


_clock = Clock(
    time.monotonic,
    time.time,
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None,
)
now = _clock.now
