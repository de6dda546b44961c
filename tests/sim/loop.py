"""An event loop whose time is virtual: when nobody has anything to do, it is later."""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from .machine import Machine

here: ContextVar[Machine | None] = ContextVar("here", default=None)
"""The simulated process that runs now; `None`: the world itself."""


class Stuck(AssertionError):
    """Somebody waits, and nothing will ever happen."""


class _Handle(events.Handle):
    """One that a stopped process comes to when it goes on, and a killed one never."""

    def _run(self) -> None:
        machine = self._context.get(here)  # type: ignore[attr-defined]  # what asyncio calls it in
        if machine is None or machine.runs_now(self):
            super()._run()


class _Timer(events.TimerHandle):
    def _run(self) -> None:
        machine = self._context.get(here)  # type: ignore[attr-defined]
        if machine is None or machine.runs_now(self):
            super()._run()


class VirtualLoop(asyncio.BaseEventLoop):
    """Calls what is due in order, then lets the time pass until the next thing is."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector: Any = self
        self.steps = 0
        self.after_step: Callable[[], None] = lambda: None
        self.dial: Any = None
        """Makes the two ends of a connection."""
        self._error: BaseException | None = None
        self.set_exception_handler(self._remember)

    def _remember(self, loop: Any, context: dict[str, Any]) -> None:
        # Of a callback: the errors of tasks come to whoever waits for them.
        if context.get("handle") is not None:
            self._error = self._error or context.get("exception")

    def time(self) -> float:
        return self._now

    # ---- what asyncio wants of a loop

    def select(self, timeout: float | None) -> list[Any]:
        """Nothing comes from outside: it is later."""
        self.steps += 1
        if self._error is not None:
            raise self._error
        self.after_step()
        if timeout is None:
            raise Stuck("nobody has anything to do, ever")
        self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> events.Handle:
        return self._call_soon(callback, args, context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> events.Handle:
        return self._call_soon(callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def again(self, handle: events.Handle) -> None:
        """Of a process that goes on."""
        self._ready.append(handle)  # type: ignore[attr-defined]

    async def create_connection(self, protocol_factory: Any, *args: Any, **more: Any) -> Any:  # type: ignore[override]
        """To a server of the simulation, whatever its address is."""
        protocol = protocol_factory()
        transport = await self.dial(protocol)
        return transport, protocol

    def run_in_executor(self, executor: Any, work: Any, *args: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError("no threads but those of the simulation")
