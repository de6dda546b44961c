"""Tells leases in time that they have come to their end. Needs no I/O, so that a silent server cannot delay it."""

from __future__ import annotations

import logging
import threading
import weakref
from math import inf
from typing import TYPE_CHECKING, Protocol

from .. import clock
from .clockwork import Clockwork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("django_locksmith.lock")


def tell_in_thread(news: Sequence[Callable[[], None]]) -> None:
    """Call them in a thread of their own: they are functions of users, and may take long."""

    def tell_all() -> None:
        for tell in news:
            try:
                tell()
            except Exception:  # noqa: PERF203  # one receiver's failure is not the others'
                logger.exception("a loss could not be told of")

    try:
        threading.Thread(target=tell_all, name="locksmith-lost", daemon=True).start()
    except RuntimeError:  # no more threads: late is better than never
        tell_all()


class Expiring(Protocol):
    """What can be watched."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds; may move."""

    def expire(self) -> Callable[[], None] | None:
        """Called soon after the deadline, unless that has moved. Returns what another thread is then to call."""


class Watch:
    """One thread for all leases of the process that somebody wants to hear of.

    It sleeps until the earliest deadline it was told of. A lease that is released or renewed before does not wake it:
    it finds out when it wakes. Holds leases weakly: of one that nobody has any more, nobody wants to hear.
    """

    def __init__(self) -> None:
        self._leases: dict[int, weakref.ref[Expiring]] = {}
        self._mutex = threading.RLock()
        self._clockwork = Clockwork("locksmith-watch", self._tell_of_the_due)

    def add(self, lease: Expiring) -> None:
        """Watch this lease; also to be called when its deadline moves nearer."""
        with self._mutex:
            self._leases[id(lease)] = weakref.ref(lease)
        self._clockwork.due_at(lease.deadline)

    def remove(self, lease: Expiring) -> None:
        """Watch it no more."""
        with self._mutex:
            self._leases.pop(id(lease), None)

    def _tell_of_the_due(self) -> float:
        due, nearest = self._look(clock.now())
        # One thread for all that ended together, not one each: a hundred threads take long to start.
        if news := [tell for lease in due if (tell := lease.expire())]:
            tell_in_thread(news)
        return nearest

    def _look(self, now: float) -> tuple[list[Expiring], float]:
        due: list[Expiring] = []
        nearest = inf
        with self._mutex:
            for name, reference in list(self._leases.items()):
                lease = reference()
                if lease is None:
                    del self._leases[name]
                elif lease.deadline <= now:
                    del self._leases[name]
                    due.append(lease)
                else:
                    nearest = min(nearest, lease.deadline)
        return due, nearest
