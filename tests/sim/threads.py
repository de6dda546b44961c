"""Threads that take turns: each is a real one, of which only that runs whose turn it is; the loop gives the turns.

So code that blocks (locks, conditions, sleeps, sockets) runs as it is, in virtual time, and always in the same order.
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from .loop import VirtualLoop, here

if TYPE_CHECKING:
    from collections.abc import Callable

_current = threading.local()


class Killed(BaseException):
    """The process of this thread has been killed: nothing that it still does has any effect."""


class SimThread:
    """One thread, of the process that starts it."""

    def __init__(
        self, target: Callable[..., Any], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True
    ) -> None:
        self._target = target
        self._args = args
        self.name = name
        self.machine = here.get()
        self.loop: VirtualLoop
        self._turn = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._wakes = 0
        self._woken = False
        self._pending: BaseException | None = None
        self.is_over = False
        self.error: BaseException | None = None

    def start(self) -> None:
        """At the next turn of the loop."""
        from .machine import world_now

        self.loop = world_now().loop
        context = copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name=self.name, daemon=True)
        self._thread.start()
        if self.machine is not None:
            self.machine.threads[self] = None
        self.loop.call_soon(self.give_turn)

    def _run(self) -> None:
        _current.thread = self
        self._turn.acquire()
        try:
            if not self._is_dead:
                self._target(*self._args)
        except Killed:
            pass
        except BaseException as error:  # told by whoever looks
            self.error = error
        finally:
            self.is_over = True
            if self.machine is not None:
                self.machine.threads.pop(self, None)
            self._back.release()

    @property
    def _is_dead(self) -> bool:
        return self.machine is not None and self.machine.is_dead

    def give_turn(self) -> None:
        """For the loop: it runs until it blocks, or ends."""
        if self.is_over:
            return
        self._turn.release()
        self._back.acquire()

    def end(self) -> None:
        """Its process is dead: have it unwind."""
        while not self.is_over:
            self.give_turn()
        self._thread.join()

    # ---- for the thread itself

    def block(self, seconds: float | None) -> bool:
        """Until `wake`, or so long; `False`: the time is over."""
        self.raise_what_is_pending()
        self._wakes += 1
        self._woken = False
        number = self._wakes
        timer = None if seconds is None else self.loop.call_later(max(0.0, seconds), self._time_is_over, number)
        self._back.release()
        self._turn.acquire()
        if timer is not None:
            timer.cancel()
        self.raise_what_is_pending()
        return self._woken

    def raise_what_is_pending(self) -> None:
        """Where signals come to a thread."""
        if self._is_dead:
            raise Killed
        pending, self._pending = self._pending, None
        if pending is not None:
            raise pending

    def interrupt(self, error: BaseException) -> None:
        """Have this raised in it, where it blocks."""
        self._pending = error
        self.wake()

    def _time_is_over(self, number: int) -> None:
        if number == self._wakes and not self._woken:
            self._wakes += 1
            self.give_turn()

    def wake(self) -> None:
        """From another thread, or the loop: it goes on at the next turn."""
        if not self._woken:
            self._woken = True
            self.loop.call_soon(self._go_on, self._wakes, context=self._context())

    def _context(self) -> Any:
        context = copy_context()
        context.run(here.set, self.machine)
        return context

    def _go_on(self, number: int) -> None:
        if number == self._wakes:
            self.give_turn()


def current() -> SimThread:
    """The thread that asks."""
    thread: SimThread = _current.thread
    return thread


def in_thread() -> bool:
    """Does a simulated thread ask?"""
    return getattr(_current, "thread", None) is not None


class SimLock:
    """`threading.Lock`, as one waiter uses it."""

    def __init__(self) -> None:
        self._is_locked = False
        self._waiting: list[SimThread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        while self._is_locked:
            thread = current()
            self._waiting.append(thread)
            try:
                if not thread.block(None if timeout < 0 else timeout):
                    return False
            finally:
                if thread in self._waiting:
                    self._waiting.remove(thread)
        self._is_locked = True
        return True

    def release(self) -> None:
        self._is_locked = False
        if self._waiting:
            self._waiting.pop(0).wake()

    def locked(self) -> bool:
        return self._is_locked


class SimCondition:
    """`threading.Condition`, whose lock nobody else can want: only one thread runs at a time."""

    def __init__(self, lock: Any = None) -> None:
        self._waiting: list[SimThread] = []

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        thread = current()
        self._waiting.append(thread)
        try:
            return thread.block(timeout)
        finally:
            if thread in self._waiting:
                self._waiting.remove(thread)

    def notify(self) -> None:
        if self._waiting:
            self._waiting.pop(0).wake()


class Threading:
    """What stands for the module `threading` in the modules of the package that block."""

    Lock = SimLock
    Condition = SimCondition
    Thread = SimThread
    RLock = staticmethod(threading.RLock)
    current_thread = staticmethod(threading.current_thread)
