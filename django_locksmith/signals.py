"""Signals about locks, flights and rate limits. Sent robustly: a receiver that fails is logged and changes nothing.

There is no sender. `lost` may be sent from a thread of this package, the others come from the caller's.

`acquired(lease, waited)`  a lock was acquired after `waited` seconds
`busy(key, template, error)` the wait ended without the lock; `error` is the `LockBusy` with holder and retry_after
`unavailable(key, template, error)` Redis gave an acquire no usable answer; `error` is the `LockUnavailable`
`released(lease, held_for)` a lease was given back after `held_for` seconds
`lost(lease, why)`         a lease ended against its holder's will
`cleared(info)`            a lock was taken from its holder by `locksmith.clear()`; `info` is the `LockInfo` seen before
`flight(key, template, outcome, waited)`  a caller of `get_or_set` who missed the value has an answer after `waited`
                           seconds: "computed" it, "shared" what another computed, "old" (served the old value),
                           "failed" (the computation did), "postponed" (`RetryLater`), "busy" (the wait was over)
`limited(name, template, outcome, waited)`  a caller of a rate limit has had his answer after `waited` seconds: "taken"
                           (his place has come), "alone" (the same, by the memory of this process, for Redis gave no
                           answer), "refused" (`RetryLater`: it is further away than he would wait)
`paused(name, template, seconds)`  this process has told all others that a rate limit is paused for so long

Receivers that are not `async def` keep a task waiting, for Django runs them in a thread: see `Signal.observe`.

`template` is what is the same for all keys of a kind (`import:{account_id}`), for metrics; "" where there is none. A
lease has its own. That of a rate limit which the settings know is its name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from django import dispatch

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("django_locksmith.signals")


class Signal(dispatch.Signal):
    """Django's, with observers beside its receivers.

    For each synchronous receiver, Django has a task wait for a thread, which may be busy with other work for tasks. An
    observer is called on the spot, by threads and tasks alike: it must do no I/O and not wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observers: tuple[Callable[..., None], ...] = ()

    def observe(self, observer: Callable[..., None]) -> None:
        """Call it, with the named arguments alone, whenever the signal is sent."""
        self.observers = (*self.observers, observer)

    def ignore(self, observer: Callable[..., None]) -> None:
        """Call it no more."""
        self.observers = tuple(each for each in self.observers if each != observer)

    @property
    def wanted(self) -> bool:
        """Would anybody hear it?"""
        return bool(self.receivers or self.observers)

    def send_robust(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        self._tell_observers(named)
        return super().send_robust(sender, **named)

    async def asend_robust(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        self._tell_observers(named)
        return await super().asend_robust(sender, **named)

    def _tell_observers(self, named: dict[str, Any]) -> None:
        for observer in self.observers:
            try:
                observer(**named)
            except Exception:  # noqa: PERF203  # each is told, whatever became of the others
                logger.exception("an observer of locks failed: %r", observer)


acquired = Signal()
busy = Signal()
unavailable = Signal()
released = Signal()
lost = Signal()
cleared = Signal()
flight = Signal()
limited = Signal()
paused = Signal()
