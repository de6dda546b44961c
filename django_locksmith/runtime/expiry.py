"""Tells leases in time that they have come to their end. Needs no I/O, so that a silent server cannot delay it."""

from __future__ import annotations

import threading
import time
import weakref
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def tell_in_thread(news: Sequence[Callable[[], None]]) -> None:
    """Call them in a thread of their own: they are functions of users, and may take long."""

    def tell_all() -> None:
        for tell in news:
            tell()

    threading.Thread(target=tell_all, name="locksmith-lost", daemon=True).start()


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
        self._wakes_at = inf
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Expiring) -> None:
        """Watch this lease; also to be called when its deadline moves nearer."""
        with self._changed:
            self._leases[id(lease)] = weakref.ref(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="locksmith-watch", daemon=True)
                self._thread.start()
            if lease.deadline < self._wakes_at:
                self._wakes_at = lease.deadline
                self._changed.notify()

    def remove(self, lease: Expiring) -> None:
        """Watch it no more."""
        with self._changed:
            self._leases.pop(id(lease), None)

    def _run(self) -> None:
        while True:
            self._tell_next()

    def _tell_next(self) -> None:
        # A function of its own, so that the thread holds no lease while it sleeps in the next call.
        news = [tell for lease in self._wait_for_due() if (tell := lease.expire())]
        # One thread for all that ended together, not one each: a hundred threads take long to start.
        if news:
            tell_in_thread(news)

    def _wait_for_due(self) -> list[Expiring]:
        with self._changed:
            while True:
                due, self._wakes_at = self._look(time.monotonic())
                if due:
                    return due
                self._changed.wait(None if self._wakes_at == inf else max(0.0, self._wakes_at - time.monotonic()))

    def _look(self, now: float) -> tuple[list[Expiring], float]:
        due: list[Expiring] = []
        nearest = inf
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
