"""Which blocks stand around the code that runs: by its context, which threads and tasks that it starts inherit.

Code that waits for a lock that its own caller holds waits for itself, across `sync_to_async`, `async_to_sync`, `gather`
and `to_thread`, too: asgiref and asyncio carry the context there. A thread pool does not.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from django.core.exceptions import SynchronousOnlyOperation

if TYPE_CHECKING:
    from .lease_state import LeaseState

_MANY = 16

# Weakly: a lease that nobody has any more, for its block was interrupted, is given back by its end.
_around: ContextVar[tuple[weakref.ref[LeaseState], ...]] = ContextVar("django_locksmith_blocks", default=())


def begin(lease: LeaseState) -> None:
    """A block begins, which holds this lease."""
    around = _around.get()
    if len(around) >= _MANY:  # some may have ended in another context, as those of async generators do
        around = tuple(each for each in around if (known := each()) is not None and known.held)
    _around.set((*around, weakref.ref(lease)))


def end(lease: LeaseState) -> None:
    """It is over."""
    around = _around.get()
    if around and around[-1]() is lease:
        _around.set(around[:-1])
    elif around:
        _around.set(tuple(each for each in around if each() is not lease))


def around_us(name: bytes, many: int = 1) -> LeaseState | None:
    """The lease of a block around us that holds the lock of this name (in Redis); of one in so many that do."""
    for known in reversed(_around.get()):
        lease = known()
        if lease is not None and lease.name == name and lease.held and not lease.detached:
            many -= 1
            if not many:
                return lease
    return None


def no_loop(instead: str) -> None:
    """Raises Django's `SynchronousOnlyOperation` in an event loop, which would stand still, as its ORM does.

    DJANGO_ALLOW_ASYNC_UNSAFE allows it. `instead`: what to use.
    """
    if asyncio._get_running_loop() is not None and not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise SynchronousOnlyOperation(
            f"this would stop the event loop that it is called in; use {instead}, or call it by sync_to_async"
        )
