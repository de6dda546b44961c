"""What is measured, whatever the software: which signal gives which observation."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Literal

from .. import forks, signals

if TYPE_CHECKING:
    from ..api.lease import Lease

OTHER: Final = "other"
"""The name of all locks, values and rate limits without a template."""

SECONDS: Final = (
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    900.0,
    3600.0,
)
"""Bounds of histograms: from a lock that is free to a job of an hour."""

Counted = Literal["acquisition", "lost", "cleared", "flight", "limited", "paused"]
Timed = Literal["wait", "hold", "flight", "limited"]


class Sink(ABC):
    """Where observations go. `name` is that of a kind of locks or values, never a key: there may be too many."""

    @abstractmethod
    def count(self, what: Counted, name: str, outcome: str = "") -> None:
        """It happened once more."""

    @abstractmethod
    def time(self, what: Timed, name: str, seconds: float) -> None:
        """It took so long."""

    def held(self, name: str, leases: int) -> None:  # noqa: B027  # some ask `Observer.held` instead, when they want to know
        """So many locks of this name are held in this process now."""


class Observer:
    """Listens to the signals for one sink, from `start` to `stop`. Its methods may be called by any thread."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.start_again()
        _observers.add(self)
        self._listeners = (
            (signals.acquired, self._on_acquired),
            (signals.busy, self._on_busy),
            (signals.unavailable, self._on_unavailable),
            (signals.released, self._on_released),
            (signals.lost, self._on_lost),
            (signals.cleared, self._on_cleared),
            (signals.flight, self._on_flight),
            (signals.limited, self._on_limited),
            (signals.paused, self._on_paused),
        )

    def start(self) -> None:
        """Listen."""
        for signal, listener in self._listeners:
            signal.observe(listener)

    def stop(self) -> None:
        """Listen no more."""
        for signal, listener in self._listeners:
            signal.ignore(listener)

    def start_again(self) -> None:
        """In a forked child, which holds nothing."""
        # What one thread does here may be interrupted by the end of a block that the garbage collector closes.
        self._mutex = threading.RLock()
        self._held: dict[str, weakref.WeakSet[Lease]] = {}

    def held(self) -> dict[str, int]:
        """How many locks of each name are held in this process now; a name stays, with 0, when they are given back."""
        with self._mutex:
            return {name: len(leases) for name, leases in self._held.items()}

    # What is held is kept by weak reference, not as a number: a lease that is dropped without a release tells nobody.

    def _take(self, lease: Lease, name: str) -> None:
        with self._mutex:
            leases = self._held.setdefault(name, weakref.WeakSet())
            leases.add(lease)
            self._sink.held(name, len(leases))

    def _give_back(self, lease: Lease, name: str) -> None:
        with self._mutex:
            leases = self._held.get(name)
            if leases is not None:
                leases.discard(lease)
                self._sink.held(name, len(leases))

    def _on_acquired(self, lease: Lease, waited: float, **kwargs: Any) -> None:
        name = lease.template or OTHER
        self._sink.count("acquisition", name, "acquired")
        self._sink.time("wait", name, waited)
        self._take(lease, name)

    # Who did not get it was not timed: a wait that ends without the lock is as long as it was allowed to be.

    def _on_busy(self, template: str, **kwargs: Any) -> None:
        self._sink.count("acquisition", template or OTHER, "busy")

    def _on_unavailable(self, template: str, **kwargs: Any) -> None:
        self._sink.count("acquisition", template or OTHER, "unavailable")

    def _on_released(self, lease: Lease, held_for: float, **kwargs: Any) -> None:
        name = lease.template or OTHER
        self._sink.time("hold", name, held_for)
        self._give_back(lease, name)

    def _on_lost(self, lease: Lease, **kwargs: Any) -> None:
        name = lease.template or OTHER
        self._sink.count("lost", name)
        self._give_back(lease, name)

    def _on_cleared(self, **kwargs: Any) -> None:
        self._sink.count("cleared", "")  # who clears a lock knows its key, and not its template

    def _on_flight(self, template: str, outcome: str, waited: float, **kwargs: Any) -> None:
        name = template or OTHER
        self._sink.count("flight", name, outcome)
        self._sink.time("flight", name, waited)

    def _on_limited(self, template: str, outcome: str, waited: float, **kwargs: Any) -> None:
        name = template or OTHER
        self._sink.count("limited", name, outcome)
        if outcome != "refused":  # as with locks: who was refused was not timed
            self._sink.time("limited", name, waited)

    def _on_paused(self, template: str, **kwargs: Any) -> None:
        self._sink.count("paused", template or OTHER)


_observers: weakref.WeakSet[Observer] = weakref.WeakSet()


def _start_again() -> None:
    for observer in list(_observers):
        observer.start_again()


forks.in_child(_start_again)
