"""The straight path: a lock that is free is taken, and one that is held is given back, without a coroutine.

For threads, and for what happens nearly always: by way of `locks.py` it would take half as long again. Whatever else
comes of the one request, or in the middle of it, goes on there, where the rules are.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypeVar

from ..local.queues import Ticket
from ..redis.messages import Granted
from . import locks
from .locks import Begun, surely_until
from .sync_bridge import run_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..local.queues import LocalQueues
    from ..redis.lock_store import LockStore
    from ..redis.messages import Attempt, Busy

T = TypeVar("T")


def acquire(
    store: LockStore, queues: LocalQueues, attempt: Attempt, hold: Callable[[int, float, float], T]
) -> T | Busy:
    """As `locks.acquire`."""
    now = store.now()
    ticket = answer = None
    try:
        if attempt.wait:
            ticket = attempt.place = Ticket(queues, attempt.names.lock)
        if ticket is None or ticket.enter():
            answer = store.try_now(attempt, now)
            if isinstance(answer, Granted):
                held = hold(answer.fence, answer.sent, surely_until(store, attempt, answer))
                if ticket is not None:
                    ticket.leave()
                return held
        begun = Begun(now, ticket, answer)
    except BaseException as error:
        begun = Begun(now, ticket, error=error)
    return run_sync(locks.acquire(store, queues, attempt, hold, begun))


def release(store: LockStore, attempt: Attempt, deadline: float = inf) -> bool:
    """As `locks.release`."""
    begun = None
    try:
        freed = store.release_now(attempt)
        if freed is not None:
            return freed
    except BaseException as error:
        begun = Begun(0.0, error=error)
    return run_sync(locks.release(store, attempt, deadline, begun))
