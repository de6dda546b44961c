"""What one local waiter waits for, and another caller sets: an event for threads, and one for tasks."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from typing import ClassVar


class Event(ABC):
    """Belongs to one waiter. A wait may end early, where somebody interrupts it."""

    wake_first: ClassVar[int | None] = None
    """How many to wake where many wait for one outcome, each of whom wakes the next; `None` = all at once."""

    @abstractmethod
    def set(self) -> None:
        """Wake the waiter, now or as soon as it waits. Harmless if repeated."""

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Return when the event is set, or after so many seconds."""


class ThreadEvent(Event):
    """For a thread, which is blocked. A plain lock: `threading.Event` costs several times as much."""

    wake_first = 2  # threads that wake up together only wait for the interpreter

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        # Nobody but the one waiter acquires, so a locked lock stays locked between the two lines.
        if self._lock.locked():
            self._lock.release()

    async def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=seconds)


class LoopEvent(Event):
    """For a task of the running event loop."""

    def __init__(self) -> None:
        self._is_set = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._is_set.done():
            self._is_set.set_result(None)

    async def wait(self, seconds: float) -> None:
        await asyncio.wait([self._is_set], timeout=seconds)
