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

    @property
    def shared(self) -> bool:
        """May there be more than one of this name?"""


L = TypeVar("L", bound=Keyed)


class HeldLeases(Generic[L]):
    """The leases of one set of settings, by name: weakly, for a lease that is dropped may simply run out."""

    def __init__(self) -> None:
        self._leases: dict[bytes, weakref.ref[L]] = {}
        self._shared: dict[bytes, list[weakref.ref[L]]] = {}
        """All of each name of which there may be more than one; the latest of them is in `_leases`, too."""
        self._sweep_at = _FEW

    def add(self, lease: L) -> None:
        """This lease is now the latest of its name."""
        self._leases[lease.name] = known = weakref.ref(lease)
        if lease.shared:
            # A list is replaced, never changed: other threads may be in the middle of it.
            self._shared[lease.name] = [*(each for each in self._shared.get(lease.name, ()) if each()), known]
        if len(self._leases) > self._sweep_at:
            self._sweep()

    def remove(self, lease: L) -> None:
        """This lease has ended."""
        known = self._leases.get(lease.name)
        if known is not None and known() is lease:
            self._leases.pop(lease.name, None)
        if lease.shared:
            others = [each for each in self._shared.pop(lease.name, ()) if each() not in (lease, None)]
            if others:
                self._shared[lease.name] = others
                self._leases.setdefault(lease.name, others[-1])

    def latest(self, name: bytes) -> L | None:
        """The latest lease of this name that somebody in this process still has."""
        known = self._leases.get(name)
        return None if known is None else known()

    def of(self, name: bytes) -> list[L]:
        """All of this name, the latest first."""
        one = self._leases.get(name)
        known = self._shared.get(name) or ([] if one is None else [one])
        return [lease for each in reversed(known) if (lease := each()) is not None]

    def all(self) -> list[L]:
        """All that somebody still has."""
        return [lease for name in list(self._leases) for lease in self.of(name)]

    def _sweep(self) -> None:
        # References to dropped leases stay until there are as many as others: cheaper than a callback for each.
        for name, known in self._leases.copy().items():  # other threads take and give back meanwhile
            if known() is None and self._leases.get(name) is known:
                self._leases.pop(name, None)
                if others := [each for each in self._shared.pop(name, ()) if each() is not None]:
                    self._shared[name] = others
                    self._leases[name] = others[-1]
        self._sweep_at = max(_FEW, 2 * len(self._leases))
