"""Threads that compute values in the background, while readers have the old ones. They never keep the process alive."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("django_locksmith.flight")

MOST_THREADS = 20
"""That work at one time; some of them may sleep until a place in a rate limit has come."""
_MOST_WAITING = 1000


class Background:
    """Those of one process: each does one piece of work after the other, and ends when there is none."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._mutex = threading.RLock()

    def start(self, work: Callable[[], object]) -> bool:
        """Have it done; `False` if too much is to be done already, or no thread can be started."""
        with self._mutex:
            if len(self._waiting) >= _MOST_WAITING:
                return False
            self._waiting.append(work)
            if self._threads >= MOST_THREADS:
                return True
            self._threads += 1
        try:
            threading.Thread(target=self._run, name="locksmith-refresh", daemon=True).start()
        except RuntimeError as error:  # no memory, no more threads, or the interpreter ends
            with self._mutex:
                self._threads -= 1
                alone = not self._threads
                if alone and work in self._waiting:
                    self._waiting.remove(work)
            logger.warning("no thread could be started to compute a value in the background: %s", error)
            return not alone
        return True

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._waiting:
                    self._threads -= 1
                    return
                work = self._waiting.popleft()
            try:
                work()
            except BaseException:
                logger.exception("a computation in the background has failed")
            finally:
                connections.close_all()  # those of this thread: nobody else would
