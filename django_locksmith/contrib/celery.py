"""A lock around a Celery task, with what only Celery can do: a task that finds its lock busy is sent again, for later.

    @shared_task(acks_late=True)
    @lock_task("import:{account_id}", timeout=60, on_busy="retry")
    def import_account(account_id): ...

The lock is a plain `locksmith(...)`, made for each call; this file has only what the task's message adds to it.
"""

from __future__ import annotations

import inspect
import logging
import time
from contextlib import nullcontext
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, overload

from celery import Task, current_task
from celery.exceptions import Ignore
from django.core import checks

from .. import conf
from ..api import done_marks
from ..api.functions import dotted_name, is_async
from ..api.key_templates import key_maker
from ..api.service import Locksmith, locksmith
from ..exceptions import RetryLater
from ..records import Skipped
from ..runtime.options import UNSET, Unset
from .celery_checks import check_visibility_timeout
from .celery_messages import (
    HEADER,
    LONGEST,
    SHORTEST,
    USUALLY_VISIBLE,
    busy_since,
    hard_limit,
    is_copy,
    longest,
    mark,
    pause,
    sent_again,
)
from .celery_places import TaskPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery.exceptions import Retry
    from typing_extensions import Unpack

    from ..api.lease import Lease
    from ..api.rate_limit import RateLimit
    from ..exceptions import LockBusy

__all__ = ["lock_task"]

logger = logging.getLogger("django_locksmith.celery")

F = TypeVar("F", bound="Callable[..., Any]")
P = ParamSpec("P")
R = TypeVar("R")

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
    rate_limit: RateLimit | str | None
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
    rate_limit: RateLimit | str | None = None,
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
        rate_limit: what `rate_limit()` makes, its name a template over the arguments, too; or a name in
            `LOCKSMITH["RATE_LIMITS"]`. Each run takes a place, with the lock in hand. If that is more than a moment
            away the task is sent again for it, until it has waited for `busy_for`; then `RetryLater` is raised. A
            `RetryLater` of the function pauses the limit, and the task is sent again for a place after that.
        max_hold: default, and with `renew`, the task's hard time limit, if it has one (the lease, if that is longer).
        label: default the task's name. In `locksmith_list` it is followed by the task's id.
        service: whose settings count; default those of `settings.LOCKSMITH`.

    Raises:
        TypeError, ValueError: name the argument at fault, when the task is decorated.
        LockBusy, LockLost, RetryLater: in a run of the task.
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
    wanted = None if countdown is None else conf.lease_seconds("countdown", countdown)
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
        task_lock = TaskLock(service, key, function, options, on_busy, patience, wanted, rate_limit)

        @wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            return task_lock.run(args, kwargs)

        locked.task_locks = (task_lock, *locks_of(function))  # type: ignore[attr-defined]  # functions take attributes
        return locked  # type: ignore[return-value]  # wraps() keeps the signature; the types cannot say so

    return decorate


class _TextOfCall:
    """What a template makes of the arguments of a task, that of `bind=True` not among them.

    Raises `ValueError`, when it is made, where it names what is no argument.
    """

    def __init__(self, template: str, function: Callable[..., Any]) -> None:
        self._template = template
        self._function = function
        bound = next(iter(inspect.signature(function).parameters), "") == "self"
        _ = self._without_task if bound else self._of_all

    @cached_property
    def _of_all(self) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
        return key_maker(self._template, self._function)

    @cached_property
    def _without_task(self) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
        # The task of bind=True would put the address of an object into the text, another one in each process.
        return key_maker(self._template, partial(self._function, None))

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if args and isinstance(args[0], Task):
            return self._without_task(args[1:], kwargs)
        return self._of_all(args, kwargs)


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
        rate_limit: RateLimit | str | None,
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
        self._limit = service.limit_of(rate_limit)
        self._make_key = _TextOfCall(key, function)
        self._make_name = _TextOfCall("" if self._limit is None else self._limit.name, function)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the function, which holds the lock."""
        task = self._running_task()
        lock = self._service(self._make_key(args, kwargs), **self._options_of(task))
        limit = None if self._limit is None else self._limit.named(self._make_name(args, kwargs))
        if task is None or task.request.is_eager:

            def alone(release: Callable[[], bool]) -> Any:
                with limit or nullcontext():  # there is no message that could wait in its stead
                    return self._function(*args, **kwargs)

            return lock.run(alone)

        def once(release: Callable[[], bool]) -> Any:
            self._stop_if_done(task.request)
            place = None if limit is None else TaskPlace(task, limit, self._busy_for)
            if place is not None:
                place.come()
            try:
                result = self._function(*args, **kwargs)
            except RetryLater as later:
                if place is None:
                    raise
                place.later(later)
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
            "label": f"{self._options['label'] or task.name}{mark(task.request)}",
            "max_hold": self._max_hold(task),
        }

    # ---- whether it was done already

    def _stop_if_done(self, request: Any) -> None:
        """A message that a broker delivers twice, for the work took longer than its patience, is work that was done."""
        if not is_copy(request):
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
        visible = (task.app.conf.broker_transport_options or {}).get("visibility_timeout") or USUALLY_VISIBLE
        seconds = 2 * (visible + LONGEST) + min(self._busy_for or _DAY, _DAY)
        if trouble := done_marks.set_mark(self._service, task.request.id, seconds):
            logger.warning("%s is done, and may be done again if it is delivered twice: %s", task.request.id, trouble)

    # ---- how long it may be held

    def _max_hold(self, task: Any) -> Any:
        given, settings = self._options["max_hold"], self._service.settings
        if given is not UNSET or settings.max_hold is not None or not self.renews:
            return given
        limit = hard_limit(task)
        return UNSET if limit is None else max(limit, self._lease)

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
        return self._is_held_by_itself(request, busy) or is_copy(request)

    def _is_held_by_itself(self, request: Any, busy: LockBusy) -> bool:
        """Does another run of this very task have the lock?"""
        holders = [busy.holder] if busy.slots == 1 else [each.holder for each in self._service.holders(busy.key)]
        return any(holder is not None and holder.label.endswith(mark(request)) for holder in holders)

    def _skip_or_send_again(self, task: Any, busy: LockBusy) -> Skipped:
        self._stop_if_done(task.request)
        if self._on_busy == "skip" and not self._was_begun(task.request, busy):
            return Skipped(busy.key, busy.holder)
        raise self._sent_again(task, busy)

    def _sent_again(self, task: Any, busy: LockBusy) -> Retry:
        """For when the lock may be free."""
        request, now = task.request, time.time()
        since = min(busy_since(request) or now, now)  # a clock may have been set back
        left = None if self._busy_for is None else since + self._busy_for - now
        if self._is_held_by_itself(request, busy):
            left = None  # what becomes of the task is that run's to say
        if left is not None and left <= 0:
            raise busy
        seconds = pause(now - since, busy.retry_after, longest(task), self._countdown)
        if left is not None:
            seconds = min(seconds, max(left, SHORTEST))  # the last try is made when the time is over
        return sent_again(task, seconds, busy, busy.details, {HEADER: [since, request.retries]})


def locks_of(function: Any) -> tuple[TaskLock, ...]:
    """The locks that `lock_task` put around a function, from the outside in."""
    locks: tuple[TaskLock, ...] = getattr(function, "task_locks", ())
    return locks


checks.register(check_visibility_timeout)
