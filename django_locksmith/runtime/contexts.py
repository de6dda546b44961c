"""The two worlds that callers come from: threads, and the tasks of one event loop.

What the policy needs of each of them is the same: where to send requests, who waits already, how to tell receivers of
signals, and who it is that calls.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..local.events import LoopEvent, ThreadEvent
from ..local.flights import LocalFlights
from ..local.queues import LocalQueues
from ..local.schedules import LocalSchedules
from ..policy.sync_bridge import run_sync
from ..redis.flight_store import FlightStore
from ..redis.rate_store import RateStore
from .background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from django.dispatch import Signal

    from ..local.events import Event
    from ..redis.lock_store import LockStore

logger = logging.getLogger("django_locksmith.lock")


class Context:
    """The world as a thread or a task sees it: the store to talk to, how to tell receivers of signals, who one is."""

    may_be_in_transaction: bool
    event: ClassVar[type[Event]]

    def __init__(self, store: LockStore) -> None:
        self.store = store
        self.queues = LocalQueues(self.event, store.now)
        self.flights = FlightStore(store)
        self.local_flights = LocalFlights(self.event, store.now)
        self.rates = RateStore(store)
        self.schedules = LocalSchedules(self.event)

    async def tell(self, signal: Signal, **named: Any) -> None:
        """Send a signal; a receiver that fails is logged and changes nothing."""
        raise NotImplementedError

    def in_background(self, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Have this done, by a thread or task of its own; `False` if that cannot be."""
        raise NotImplementedError

    def callable_of(self, work: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], object]:
        """A function that does this, for users to call: it blocks, or is a coroutine function."""
        raise NotImplementedError

    def soon(self, work: Callable[[], object]) -> None:
        """Have this done where it wakes those who wait here: at once for threads, as soon as a loop comes to it."""
        raise NotImplementedError

    def caller(self) -> object:
        """The thread or task that calls."""
        raise NotImplementedError

    def is_caller(self, owner: object) -> bool:
        """Is it this thread or task that calls?"""
        return owner is self.caller()


class ThreadContext(Context):
    """For synchronous callers."""

    may_be_in_transaction = True
    event = ThreadEvent

    def __init__(self, store: LockStore) -> None:
        super().__init__(store)
        self._background = Background()

    def in_background(self, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        # What depends on the caller (a prefix of his tenant, say) is to be the same there.
        return self._background.start(partial(copy_context().run, self.callable_of(work)))

    def callable_of(self, work: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], object]:
        return lambda: run_sync(work())

    def soon(self, work: Callable[[], object]) -> None:
        work()

    async def tell(self, signal: Signal, **named: Any) -> None:
        try:
            signal.send_robust(None, **named)
        except RuntimeError:
            # Django runs asynchronous receivers for synchronous senders, but not inside a running event loop.
            logger.exception("asynchronous receivers of a signal could not be called from synchronous code in a task")

    def caller(self) -> object:
        return threading.current_thread()

    def is_caller(self, owner: object) -> bool:
        # Synchronous code may run inside a task, and would block its loop waiting for it.
        return owner is threading.current_thread() or (isinstance(owner, asyncio.Task) and owner is _task_here())


def _task_here() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


class LoopContext(Context):
    """For the tasks of one event loop."""

    may_be_in_transaction = False  # Django's transactions belong to threads
    event = LoopEvent

    def __init__(self, store: LockStore) -> None:
        super().__init__(store)
        self.loop = asyncio.get_running_loop()
        self._background: set[asyncio.Task[object]] = set()

    def in_background(self, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        task = asyncio.ensure_future(work())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return True

    def callable_of(self, work: Callable[[], Coroutine[Any, Any, object]]) -> Callable[[], object]:
        return work

    async def tell(self, signal: Signal, **named: Any) -> None:
        await signal.asend_robust(None, **named)

    def caller(self) -> object:
        return asyncio.current_task()

    def soon(self, work: Callable[[], object]) -> None:
        try:
            self.loop.call_soon_threadsafe(work)
        except RuntimeError:
            pass  # the loop is closed, and whoever waited in it is gone

    def close(self) -> None:
        """Close the connections, as soon as the loop comes to it."""
        self.soon(lambda: self.loop.create_task(self.store.transport.close()))
