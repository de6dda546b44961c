"""Gives back, in the background, what could not be given back while Redis gave no answer.

A lock that nobody works under any more would block the others for the rest of its lease. So a release that meets a
server in trouble is repeated until the server has answered, or the lease has ended; and so is the end of an attempt
whose requests may have been granted without a reply.
"""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING

from .. import clock
from ..exceptions import LockUnavailable, ServerTrouble
from ..policy.sync_bridge import run_sync
from .clockwork import Clockwork

if TYPE_CHECKING:
    from ..redis.lock_store import GivesBack, LockStore

_MOST = 1000
"""Of more, the oldest are left to end with their leases."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class GivingBack:
    """What threads and tasks of one service leave in Redis, and nobody needs any more."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self._left: dict[GivesBack, float] = {}  # until when Redis may know it, monotonic seconds
        self._pause = _FIRST_PAUSE
        self._mutex = threading.RLock()
        self._clockwork = Clockwork("locksmith-giving-back", self._give_back)

    def add(self, work: GivesBack, seconds: float) -> None:
        """Do this, as soon as Redis answers; in so many seconds it has ended by itself."""
        now = clock.now()
        with self._mutex:
            self._left[work] = now + seconds
            while len(self._left) > _MOST:
                del self._left[next(iter(self._left))]
        self._clockwork.due_at(now + _FIRST_PAUSE)

    def end(self) -> None:
        """Give nothing back any more."""
        self._clockwork.end()

    def _give_back(self) -> float:
        now = clock.now()
        with self._mutex:
            left = list(self._left.items())
        for work, until in left:
            if self._clockwork.is_over:
                break
            if until > now:
                try:
                    run_sync(work(self._store))
                except LockUnavailable:
                    continue  # refused, for now: a full server may have room again
                except ServerTrouble:
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                    return clock.now() + self._pause
            with self._mutex:
                self._left.pop(work, None)
        self._pause = _FIRST_PAUSE
        return clock.now() + _LONGEST_PAUSE if self._left else inf
