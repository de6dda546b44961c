"""What was taken through one `Lock` object, and by whom: the end of a `with` block, and redis-py's words, need it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ..exceptions import LockLost

if TYPE_CHECKING:
    from ..runtime.contexts import Context
    from .lease import Lease

_MANY = 16


class Taken:
    """The leases that threads and tasks have taken through one `Lock`, which may be shared by all of them.

    `with` blocks find their lease here by their end, by the settings it was taken with: settings may be overridden, or
    put back, in the middle of the block. Who called `acquire()` and dropped the lease, as code for redis-py does, finds
    it here by `release()`.
    """

    __slots__ = ("_acquired", "_entered")

    def __init__(self) -> None:
        self._entered: list[Lease] = []  # by blocks, also within blocks
        self._acquired: list[Lease] = []

    def add(self, lease: Lease) -> None:
        """It was taken by a call."""
        if len(self._acquired) >= _MANY:
            self._acquired = [each for each in self._acquired if each.held]
        self._acquired.append(lease)

    def enter(self, lease: Lease) -> None:
        """It was taken by a block."""
        self._entered.append(lease)

    def exit(self, *, task: bool) -> Lease:
        """The lease of a block that ends: the latest of this task, or thread."""
        if len(self._entered) == 1:
            return self._entered.pop(0)  # not the last: others who share this object come and go meanwhile
        entered = self._entered[::-1]
        # If nobody of them is the caller, an async generator, say, is finished by another task than began it.
        caller: object = asyncio.current_task() if task else threading.current_thread()
        lease = next((each for each in entered if each.owner is caller), entered[0])
        self._entered.remove(lease)
        return lease

    def forget(self, lease: Lease) -> None:
        """Nobody got it."""
        for leases in (self._entered, self._acquired):
            if lease in leases:
                leases.remove(lease)

    def latest(self, context: Context) -> Lease | None:
        """What the calling thread or task took last, and has not given back, or, if there is none, has."""
        mine = [each for each in (*self._entered, *self._acquired) if context.is_caller(each.owner)]
        live = [each for each in mine if not each.over]
        return next(reversed(live or mine), None)

    def mine(self, context: Context, key: str) -> Lease:
        """As `latest`. Raises `LockLost` if there is none, or it is known to be over."""
        lease = self.latest(context)
        if lease is None:
            raise LockLost(
                key,
                "this thread or task has taken nothing through this Lock object; use the object, or the lease, by which"
                " it was taken",
            )
        if lease.over:
            lease.ensure_held()  # raises, and says why
        return lease
