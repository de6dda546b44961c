"""Where values come from: functions that a test holds while they compute."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from tests.helpers import servers


class Origin:
    """Where values come from: counts its calls, and holds each of them until it is let go.

    The first call has the first outcome, and so on; the last outcome is that of all further calls. An exception is
    raised.
    """

    def __init__(self, *outcomes: Any, held: bool = False) -> None:
        self._outcomes = outcomes
        self._ways: dict[int, threading.Event] = {}
        self._all = threading.Event()
        self._mutex = threading.Lock()
        self.calls = 0
        self.inside = 0
        self.most_at_once = 0
        self.at: list[float] = []
        if not held:
            self.let_all_go()

    def _way(self, number: int) -> threading.Event:
        with self._mutex:
            if self._all.is_set():
                return self._all
            return self._ways.setdefault(number, threading.Event())

    def let_go(self, number: int) -> None:
        """Let the call of this number go on, whether it has begun or not."""
        self._way(number).set()

    def let_all_go(self) -> None:
        with self._mutex:
            self._all.set()
            for way in self._ways.values():
                way.set()

    def __call__(self) -> Any:
        with self._mutex:
            self.calls = number = self.calls + 1
            self.at.append(time.monotonic())
            self.inside += 1
            self.most_at_once = max(self.most_at_once, self.inside)
        try:
            assert self._way(number).wait(30), "nobody let it go"
        finally:
            with self._mutex:
                self.inside -= 1
        outcome = self._outcomes[min(number, len(self._outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def begun(self, number: int = 1) -> None:
        """Return when it has been called so many times."""
        servers.poll(lambda: self.calls >= number)


class TaskOrigin:
    """As `Origin`, for the tasks of one loop: all calls are held until `held` is set."""

    def __init__(self, value: Any = "value") -> None:
        self._value = value
        self.calls = 0
        self.called = asyncio.Semaphore(0)
        self.held = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.called.release()
        await self.held.wait()
        return self._value

    async def begun(self) -> None:
        """Return when it has been called once more."""
        await asyncio.wait_for(self.called.acquire(), 10)
