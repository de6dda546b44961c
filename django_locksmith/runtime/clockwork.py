"""A thread that does what is due when it is due: for renewal, for telling of losses, for giving back late."""

from __future__ import annotations

import logging
import os
import threading
from math import inf
from typing import TYPE_CHECKING

from .. import clock

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("django_locksmith.renewal")

_IDLE_FOR = 30.0
"""Seconds without work after which the thread ends."""
_AFTER_A_FAILURE = 1.0
"""Seconds until it tries again, where its work failed."""


class Clockwork:
    """Calls `work` whenever its time has come; it returns when that will be next (by `clock.now()`; `inf` = never).

    The thread is started at the first need, and again where it is gone: it could not be started once, the process was
    forked (also by C code, which runs no hook of Python), or there was nothing to do. It never keeps the process alive.
    An error of `work` is logged, and does not end it.
    """

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._name = name
        self._work = work
        self._wakes_at = inf
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._over = False

    def due_at(self, when: float) -> None:
        """There is something to do at this time, maybe before what was known of so far."""
        with self._changed:
            if when < self._wakes_at:
                self._wakes_at = when
                self._changed.notify()
            if self._thread is None or self._pid != os.getpid():
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The next call tries again. What was to be done is not forgotten meanwhile, but may come late.
            logger.error("the thread %r could not be started, and will be tried again: %s", self._name, error)
            return
        self._thread = thread
        self._pid = os.getpid()

    @property
    def is_over(self) -> bool:
        """Was it ended?"""
        return self._over

    def end(self) -> None:
        """Do nothing any more."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _run(self) -> None:
        while self._wait():
            try:
                when = self._work()
            except Exception:
                # Much depends on this thread: it reports, and goes on.
                logger.exception("%s failed unexpectedly; trying again", self._name)
                when = clock.now() + _AFTER_A_FAILURE
            with self._changed:
                self._wakes_at = min(self._wakes_at, when)

    def _wait(self) -> bool:
        """Until something is due; `False`: end."""
        idle_until = clock.now() + _IDLE_FOR
        with self._changed:
            while not self._over:
                now = clock.now()
                if self._wakes_at <= now:
                    self._wakes_at = inf
                    return True
                if self._wakes_at == inf and now >= idle_until:
                    break
                self._changed.wait((idle_until if self._wakes_at == inf else self._wakes_at) - now)
            self._thread = None
        return False
