"""A lock around a Celery task, with what only Celery can do: a task that finds its lock busy is sent again, for later.

    @shared_task(acks_late=True)
    @lock_task("import:{account_id}", timeout=60, on_busy="retry")
    def import_account(account_id): ...

The lock is a plain `locksmith(...)`, made for each call; this file has only what the task's message adds to it.
"""

from __future__ import annotations

import inspect
import logging
import random
import time
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, overload

from celery import Task, current_task
from celery.exceptions import Ignore, Reject, Retry
from django.core import checks
from kombu.exceptions import OperationalError

from .. import conf
from ..api import done_marks
from ..api.functions import dotted_name, is_async
from ..api.key_templates import key_maker
from ..api.service import Locksmith, locksmith
from ..records import Skipped
from ..runtime.options import UNSET, Unset
from .celery_checks import check_visibility_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Unpack

    from ..api.lease import Lease
    from ..exceptions import LockBusy

__all__ = ["lock_task"]

logger = logging.getLogger("django_locksmith.celery")

F = TypeVar("F", bound="Callable[..., Any]")
P = ParamSpec("P")
R = TypeVar("R")

HEADER = "locksmith_busy"
"""The header of a message that was sent again: since when its lock is busy (Unix time), and how many retries the task
had then. A retry of the task's own counts one more: the lock was had in between, and the time starts again."""

_LONGEST = 60.0
_SHORTEST = 0.5
_SPREAD = 0.25
"""Of the time that has gone by: until the next try. Of a countdown that was asked for: how much longer it may be."""
_USUALLY_VISIBLE = 3600.0
"""Seconds after which a broker delivers again what was not acknowledged, where nothing else is said."""
_DAY = 86400.0


class _TaskOptions(TypedDict, total=False):  # as `lock_task` has them
    timeout: conf.Seconds | Unset
    blocking: bool | Unset
    blocking_timeout: conf.Seconds | Unset | None
    renew: bool | Unset
    max_hold: conf.Seconds | Unset | None
    busy_for: conf.Seconds | None
    countdown: conf.Seconds | None
    on_lost: Literal["raise", "log"] | Callable[[Lease], Any]
    label: str
    release: Literal["now", "commit"]
    slots: int | Sequence[str]
    template: str
    service: Locksmith


@overload
def lock_task(
    key: str = "", /, *, on_busy: Literal["skip"], **options: Unpack[_TaskOptions]
) -> Callable[[Callable[P, R]], Callable[P, R | Skipped]]: ...


@overload
def lock_task(
    key: str = "",
    /,
    *,
    on_busy: Literal["retry", "raise"] | Callable[[LockBusy], Any] = "retry",
    **options: Unpack[_TaskOptions],
) -> Callable[[F], F]: ...


def lock_task(
    key: str = "",
    /,
    *,
    timeout: conf.Seconds | Unset = UNSET,
    blocking: bool | Unset = UNSET,
    blocking_timeout: conf.Seconds | Unset | None = UNSET,
    renew: bool | Unset = UNSET,
    max_hold: conf.Seconds | Unset | None = UNSET,
    on_busy: Literal["retry", "skip", "raise"] | Callable[[LockBusy], Any] = "retry",
    busy_for: conf.Seconds | None = 3600.0,
    countdown: conf.Seconds | None = None,
    on_lost: Literal["raise", "log"] | Callable[[Lease], Any] = "raise",
    label: str = "",
    release: Literal["now", "commit"] = "now",
    slots: int | Sequence[str] = 1,
    template: str = "",
    service: Locksmith = locksmith,
) -> Any:
    """Decorate the function of a Celery task, below `@shared_task`: each run of the task holds the lock.

    Where there is no message to send again (the function called directly, `apply()`, `task_always_eager`), "retry" is
    "raise". What is not said below means what it means to `locksmith(...)`.

    Args:
        key: a template over the arguments (`"import:{account_id}"`), the task of `bind=True` not among them; default
            the function's dotted name.
        blocking: default the worker does not wait.
        blocking_timeout: seconds for which it waits.
        on_busy: what a task does whose lock is busy. "retry": it is sent again, with its `max_retries` untouched, until
            the lock has been busy for `busy_for`; then `LockBusy` is raised. "skip": it ends at once, its result a
            falsy `Skipped` (as JSON `{"skipped": key, "holder": ...}`); but a task that a worker has had before and
            that is delivered again does as for "retry", or it would be lost with the worker that died in it. "raise":
            `LockBusy`. Or a callable that gets the `LockBusy`, whose result is the task's.
        busy_for: seconds, for "retry"; `None` = without limit.
        countdown: seconds after which it is sent again, and up to a quarter more. Default a second or two at first, and
            then a quarter to a half of the time for which the lock has been busy; no longer than until the holder's
            lease ends, or 60 s.
        max_hold: default, and with `renew`, the task's hard time limit, if it has one (the lease, if that is longer).
        label: default the task's name. In `locksmith_list` it is followed by the task's id.
        service: whose settings count; default those of `settings.LOCKSMITH`.

    Raises:
        TypeError, ValueError: name the argument at fault, when the task is decorated.
        LockBusy, LockLost: in a run of the task.
        LockUnavailable: in a run of the task, where Redis gave no usable answer.

        When the broker does not take the message that is sent again, a task with `acks_late` goes back into its queue;
        another one fails with the error of the broker.
    """
    if not isinstance(key, str):
        raise TypeError(f"lock_task takes the key of a lock, a str, not {key!r}; without a key, write @lock_task()")
    if not isinstance(service, Locksmith):
        raise TypeError(f"service must be a Locksmith, not {service!r}")
    if not (callable(on_busy) or on_busy in ("retry", "skip", "raise")):
        raise ValueError(f"on_busy must be 'retry', 'skip', 'raise' or a callable, not {on_busy!r}")
    patience = conf.wait_seconds("busy_for", busy_for)
    pause = None if countdown is None else conf.lease_seconds("countdown", countdown)
    if blocking is UNSET and blocking_timeout is UNSET:
        blocking = False
    options = {
        "timeout": timeout,
        "blocking": blocking,
        "blocking_timeout": blocking_timeout,
        "renew": renew,
        "max_hold": max_hold,
        "on_lost": on_lost,
        "label": label,
        "release": release,
        "slots": slots,
        "template": template,
    }

    def decorate(function: F) -> F:
        task_lock = TaskLock(service, key, function, options, on_busy, patience, pause)

        @wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            return task_lock.run(args, kwargs)

        locked.task_locks = (task_lock, *locks_of(function))  # type: ignore[attr-defined]  # functions take attributes
        return locked  # type: ignore[return-value]  # wraps() keeps the signature; the types cannot say so

    return decorate


class TaskLock:
    """The lock of a task: what all its runs have in common."""

    def __init__(
        self,
        service: Locksmith,
        key: str,
        function: Callable[..., Any],
        options: dict[str, Any],
        on_busy: Any,
        busy_for: float | None,
        countdown: float | None,
    ) -> None:
        service(key, **options)(function)  # bad options, or a bad key, raise now, and not in the first run
        if is_async(function):
            raise TypeError(f"{dotted_name(function)} is a coroutine function, and Celery awaits none")
        self._service = service
        self._key = key
        self._function = function
        self._options = options | {"template": options["template"] or key or dotted_name(function)}
        self._on_busy = on_busy
        self._busy_for = busy_for
        self._countdown = countdown
        if next(iter(inspect.signature(function).parameters), "") == "self":
            _ = self._key_without_task  # says so if the template names it

    @cached_property
    def _key_of_all(self) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
        return key_maker(self._key, self._function)

    @cached_property
    def _key_without_task(self) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
        # The task of bind=True would put the address of an object into the key, another one in each process.
        return key_maker(self._key, partial(self._function, None))

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the function, which holds the lock."""
        if args and isinstance(args[0], Task):
            key = self._key_without_task(args[1:], kwargs)
        else:
            key = self._key_of_all(args, kwargs)
        task = self._running_task()
        lock = self._service(key, **self._options_of(task))
        if task is None or task.request.is_eager:
            return lock.run(lambda release: self._function(*args, **kwargs))

        def once(release: Callable[[], bool]) -> Any:
            self._stop_if_done(task.request)
            result = self._function(*args, **kwargs)
            self._remember(task)
            return result

        return lock.run(once)

    def _running_task(self) -> Any:
        """The task that is being run by this call; `None` for a call like that of any other function."""
        task = current_task._get_current_object()
        # Within a task, other functions may be called that have locks of their own.
        if task is None or task.request.called_directly or self not in locks_of(task.run):
            return None
        return task

    def _options_of(self, task: Any) -> dict[str, Any]:
        on_busy = self._on_busy
        if task is None:
            return self._options | {"on_busy": "raise" if on_busy == "retry" else on_busy}
        if task.request.is_eager:
            on_busy = "raise" if on_busy == "retry" else on_busy
        elif on_busy in ("retry", "skip"):
            on_busy = partial(self._skip_or_send_again, task)
        return self._options | {
            "on_busy": on_busy,
            "label": f"{self._options['label'] or task.name}{_mark(task.request)}",
            "max_hold": self._max_hold(task),
        }

    # ---- whether it was done already

    def _stop_if_done(self, request: Any) -> None:
        """A message that a broker delivers twice, for the work took longer than its patience, is work that was done."""
        if not _is_copy(request):
            return
        done_at = done_marks.marked_at(self._service, request.id)
        since = busy_since(request)
        # Some send a task again by an id of their own: that one found its lock busy when the one before was done.
        if done_at is not None and (since is None or since <= done_at):
            logger.info("%s was done already; this copy of its message is not needed", request.id)
            raise Ignore

    def _remember(self, task: Any) -> None:
        """Only what is acknowledged late is delivered again while it runs."""
        if not task.acks_late:
            return
        visible = (task.app.conf.broker_transport_options or {}).get("visibility_timeout") or _USUALLY_VISIBLE
        seconds = 2 * (visible + _LONGEST) + min(self._busy_for or _DAY, _DAY)
        if trouble := done_marks.set_mark(self._service, task.request.id, seconds):
            logger.warning("%s is done, and may be done again if it is delivered twice: %s", task.request.id, trouble)

    # ---- how long it may be held

    def _max_hold(self, task: Any) -> Any:
        given, settings = self._options["max_hold"], self._service.settings
        if given is not UNSET or settings.max_hold is not None or not self.renews:
            return given
        hard_limit = _hard_limit(task)
        return UNSET if hard_limit is None else max(hard_limit, self._lease)

    @property
    def renews(self) -> bool:
        """Is the lease kept alive?"""
        renew: bool | Unset = self._options["renew"]
        return self._service.settings.renew if isinstance(renew, Unset) else renew

    @property
    def _lease(self) -> float:
        timeout = self._options["timeout"]
        return self._service.settings.timeout if timeout is UNSET else conf.lease_seconds("timeout", timeout)

    def longest_hold(self, task: Any) -> float | None:
        """For how many seconds a run of this task may hold the lock; `None` = without limit."""
        if not self.renews:
            return self._lease
        longest = self._max_hold(task)
        return self._service.settings.max_hold if longest is UNSET else conf.hold_seconds("max_hold", longest)

    # ---- when it is busy

    def _was_begun(self, request: Any, busy: LockBusy) -> bool:
        """May this task have been begun by a worker that died, and be forgotten if it is skipped now?"""
        return self._is_held_by_itself(request, busy) or _is_copy(request)

    def _is_held_by_itself(self, request: Any, busy: LockBusy) -> bool:
        """Does another run of this very task have the lock?"""
        holders = [busy.holder] if busy.slots == 1 else [each.holder for each in self._service.holders(busy.key)]
        return any(holder is not None and holder.label.endswith(_mark(request)) for holder in holders)

    def _skip_or_send_again(self, task: Any, busy: LockBusy) -> Skipped:
        self._stop_if_done(task.request)
        if self._on_busy == "skip" and not self._was_begun(task.request, busy):
            return Skipped(busy.key, busy.holder)
        raise self._sent_again(task, busy)

    def _sent_again(self, task: Any, busy: LockBusy) -> Retry:
        """What ends this run, as `Task.retry` would end it, but with no retry counted."""
        request, now = task.request, time.time()
        since = min(busy_since(request) or now, now)  # a clock may have been set back
        left = None if self._busy_for is None else since + self._busy_for - now
        if self._is_held_by_itself(request, busy):
            left = None  # what becomes of the task is that run's to say
        if left is not None and left <= 0:
            raise busy
        seconds = pause(now - since, busy.retry_after, _longest(task), self._countdown)
        if left is not None:
            seconds = min(seconds, max(left, _SHORTEST))  # the last try is made when the time is over
        again = task.signature_from_request(request, countdown=seconds, retries=request.retries)
        again.options["headers"] = {**(again.options.get("headers") or {}), HEADER: [since, request.retries]}
        try:
            again.apply_async(add_to_parent=False)  # it is the same task, and no child of itself
        except OperationalError as error:
            if task.acks_late:
                raise Reject(error, requeue=True) from error
            raise
        return Retry(f"{busy.details}; sent again, for in {seconds:.1f} s", exc=busy, when=seconds, sig=again)


def locks_of(function: Any) -> tuple[TaskLock, ...]:
    """The locks that `lock_task` put around a function, from the outside in."""
    locks: tuple[TaskLock, ...] = getattr(function, "task_locks", ())
    return locks


def busy_since(request: Any) -> float | None:
    """Since when the lock of the task is busy (Unix time), as its message tells; `None` if this is its first try."""
    match (request.headers or {}).get(HEADER):
        case [float(since), int(retries)] if retries == request.retries:
            return since
    return None


def pause(busy_for: float, left: float | None, longest: float = _LONGEST, wanted: float | None = None) -> float:
    """Seconds until a task is to try again, whose lock has been busy for so many.

    `left`: of the holder's lease, `None` = no end in sight. `wanted`: what is asked for instead.
    """
    if wanted is not None:
        return min(wanted * random.uniform(1, 1 + _SPREAD), longest)
    # Most holders are done long before their leases end. In proportion to the time that has gone by: a lock that is
    # wanted by many is seldom idle, and one that is held for long is not asked for often.
    soon = max(1.0, busy_for * _SPREAD) * random.uniform(1, 2)
    if left is not None:
        soon = min(soon, max(left, _SHORTEST) + random.uniform(0, _SHORTEST))
    return min(soon, longest)


def _longest(task: Any) -> float:
    # A message with a countdown lies with a worker, unacknowledged: when the visibility timeout is over, the broker
    # would deliver it once more, and each copy would be sent again.
    visible = (task.app.conf.broker_transport_options or {}).get("visibility_timeout")
    return min(_LONGEST, visible / 2) if visible else _LONGEST


def _is_copy(request: Any) -> bool:
    """Was this message delivered before, or sent again?"""
    return bool((request.delivery_info or {}).get("redelivered")) or busy_since(request) is not None


def _mark(request: Any) -> str:
    return f"[{request.id}]"


def _hard_limit(task: Any) -> float | None:
    of_this_run = (task.request.timelimit or (None, None))[0]
    limit: float | None = of_this_run or task.time_limit or task.app.conf.task_time_limit
    return limit or None


checks.register(check_visibility_timeout)
