"""The messages of Celery's tasks: what they tell of former tries, and how a task is sent again, for later."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

HEADER = "locksmith_busy"
"""The header of a message that was sent again: since when its lock is busy (Unix time), and how many retries the task
had then. A retry of the task's own counts one more: the lock was had in between, and the time starts again."""

PLACE = "locksmith_place"
"""The header of a message that was sent again for its place in a rate limit: the limit's name, the number of the place,
how many retries the task had then, and since when it waits (Unix time)."""

LONGEST = 60.0
SHORTEST = 0.5
_SPREAD = 0.25
"""Of the time that has gone by: until the next try. Of a countdown that was asked for: how much longer it may be."""
USUALLY_VISIBLE = 3600.0
"""Seconds after which a broker delivers again what was not acknowledged, where nothing else is said."""


class Booked(NamedTuple):
    """A place that the task of this message has in a rate limit."""

    limit: str
    number: int
    since: float


def busy_since(request: Any) -> float | None:
    """Since when the lock of the task is busy (Unix time), as its message tells; `None` if this is its first try."""
    match (request.headers or {}).get(HEADER):
        case [float(since), int(retries)] if retries == request.retries:
            return since
    return None


def place_of(request: Any) -> Booked | None:
    """The place that the message says it was sent for."""
    match (request.headers or {}).get(PLACE):
        case [str(limit), int(number), int(retries), float(since)] if retries == request.retries:
            return Booked(limit, number, since)
    return None


def sent_again(task: Any, seconds: float, error: Exception, text: str, headers: dict[str, Any]) -> Retry:
    """What ends this run, as `Task.retry` would end it, but with no retry counted."""
    request = task.request
    again = task.signature_from_request(request, countdown=seconds, retries=request.retries)
    kept = {name: value for name, value in (again.options.get("headers") or {}).items() if name not in (HEADER, PLACE)}
    again.options["headers"] = {**kept, **headers}
    try:
        again.apply_async(add_to_parent=False)  # it is the same task, and no child of itself
    except OperationalError as failure:
        if task.acks_late:
            raise Reject(failure, requeue=True) from failure
        raise
    return Retry(f"{text}; sent again, for in {seconds:.1f} s", exc=error, when=seconds, sig=again)


def pause(busy_for: float, left: float | None, longest: float = LONGEST, wanted: float | None = None) -> float:
    """Seconds until a task is to try again, whose lock has been busy for so many.

    `left`: of the holder's lease, `None` = no end in sight. `wanted`: what is asked for instead.
    """
    if wanted is not None:
        return min(wanted * random.uniform(1, 1 + _SPREAD), longest)
    # Most holders are done long before their leases end. In proportion to the time that has gone by: a lock that is
    # wanted by many is seldom idle, and one that is held for long is not asked for often.
    soon = max(1.0, busy_for * _SPREAD) * random.uniform(1, 2)
    if left is not None:
        soon = min(soon, max(left, SHORTEST) + random.uniform(0, SHORTEST))
    return min(soon, longest)


def longest(task: Any) -> float:
    """Seconds for which a message may have to wait, at most."""
    # A message with a countdown lies with a worker, unacknowledged: when the visibility timeout is over, the broker
    # would deliver it once more, and each copy would be sent again.
    visible = (task.app.conf.broker_transport_options or {}).get("visibility_timeout")
    return min(LONGEST, visible / 2) if visible else LONGEST


def is_copy(request: Any) -> bool:
    """Was this message delivered before, or sent again?"""
    again = busy_since(request) is not None or place_of(request) is not None
    return again or bool((request.delivery_info or {}).get("redelivered"))


def mark(request: Any) -> str:
    """What the label of a holder ends with, for whom this is a run."""
    return f"[{request.id}]"


def hard_limit(task: Any) -> float | None:
    """Seconds after which the worker kills this run, if there is such a limit."""
    of_this_run = (task.request.timelimit or (None, None))[0]
    limit: float | None = of_this_run or task.time_limit or task.app.conf.task_time_limit
    return limit or None
