"""Who holds which lock in this process."""

from __future__ import annotations

import weakref
from typing import Generic, Protocol, TypeVar

_FEW = 64


class Keyed(Protocol):
    """What is held under a key."""

    @property
    def name(self) -> bytes:
        """What the lock is called in Redis: of two tenants, say, two locks may have one key."""


L = TypeVar("L", bound=Keyed)


class HeldLeases(Generic[L]):
    """The leases of one set of settings, by name: weakly, for a lease that is dropped may simply run out."""

    def __init__(self) -> None:
        self._leases: dict[bytes, weakref.ref[L]] = {}
        self._sweep_at = _FEW

    def add(self, lease: L) -> None:
        """This lease is now the one for its name."""
        self._leases[lease.name] = weakref.ref(lease)
        if len(self._leases) > self._sweep_at:
            self._sweep()

    def remove(self, lease: L) -> None:
        """This lease has ended."""
        known = self._leases.get(lease.name)
        if known is not None and known() is lease:
            self._leases.pop(lease.name, None)

    def latest(self, name: bytes) -> L | None:
        """The latest lease of this name that somebody in this process still has."""
        known = self._leases.get(name)
        return None if known is None else known()

    def all(self) -> list[L]:
        """All that somebody still has."""
        return [lease for known in list(self._leases.values()) if (lease := known()) is not None]

    def _sweep(self) -> None:
        # References to dropped leases stay until there are as many as others: cheaper than a callback for each.
        for name, known in self._leases.copy().items():  # other threads take and give back meanwhile
            if known() is None and self._leases.get(name) is known:
                self._leases.pop(name, None)
        self._sweep_at = max(_FEW, 2 * len(self._leases))
