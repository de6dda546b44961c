"""Signals for those who watch locks. Sent robustly: a receiver that fails is logged and changes nothing.

There is no sender. `lost` may be sent from a thread of this package, the others come from the caller's.

`acquired(lease, waited)`  a lock was acquired after `waited` seconds
`busy(key, error)`         the wait ended without the lock; `error` is the `LockBusy` with holder and retry_after
`released(lease, held_for)` a lease was given back after `held_for` seconds
`lost(lease, why)`         a lease ended against its holder's will
`cleared(info)`            a lock was taken from its holder by `locksmith.clear()`; `info` is the `LockInfo` seen before
"""

from __future__ import annotations

from django.dispatch import Signal

acquired = Signal()
busy = Signal()
released = Signal()
lost = Signal()
cleared = Signal()
