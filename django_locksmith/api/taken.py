"""What was taken through one `Lock` object, and by whom: the end of a `with` block, and redis-py's words, need it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..exceptions import LockLost

if TYPE_CHECKING:
    from ..runtime.contexts import Context
    from .lease import Lease

_MANY = 16


class Taken(list["Lease"]):
    """The leases that threads and tasks have taken through one `Lock`, which may be shared by all of them.

    As a list: those of blocks, also of blocks within blocks. It is made for each lock, and nothing is cheaper to make.

    `with` blocks find their lease here by their end, by the settings it was taken with: settings may be overridden, or
    put back, in the middle of the block. Who called `acquire()` and dropped the lease, as code for redis-py does, finds
    it here by `release()`.
    """

    # Those of calls, by whom: what a thread or task leaves behind that is gone, nobody can give back by our words.
    _acquired: WeakKeyDictionary[object, list[Lease]] | None = None

    def add(self, lease: Lease) -> None:
        """It was taken by a call."""
        if self._acquired is None:
            self._acquired = WeakKeyDictionary()
        acquired = self._acquired.setdefault(lease.owner, [])
        if len(acquired) >= _MANY:
            acquired[:] = [each for each in acquired if each.held]
        acquired.append(lease)

    def enter(self, lease: Lease) -> None:
        """It was taken by a block."""
        self.append(lease)

    def of_block(self, *, task: bool) -> Lease:
        """The lease of a block that ends: the latest of this task, or thread."""
        if len(self) == 1:
            return self[0]
        entered = self[::-1]
        # If nobody of them is the caller, an async generator, say, is finished by another task than began it.
        caller: object = asyncio.current_task() if task else threading.current_thread()
        return next((each for each in entered if each.owner is caller), entered[0])

    def exit(self, lease: Lease) -> None:
        """Its block has ended."""
        self.remove(lease)

    def forget(self, lease: Lease) -> None:
        """Nobody got it, or it is over."""
        for leases in (self, *(self._acquired or {}).values()):
            if lease in leases:
                leases.remove(lease)

    def latest(self, context: Context) -> Lease | None:
        """What the calling thread or task took last, and has not given back, or, if there is none, has."""
        mine = [each for each in self if context.is_caller(each.owner)]
        for owner, leases in list((self._acquired or {}).items()):
            if context.is_caller(owner):
                mine += leases
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
