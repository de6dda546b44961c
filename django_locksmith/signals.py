"""Signals for those who watch locks. Sent robustly: a receiver that fails is logged and changes nothing.

There is no sender. `lost` may be sent from a thread of this package, the others come from the caller's.

`acquired(lease, waited)`  a lock was acquired after `waited` seconds
`busy(key, template, error)` the wait ended without the lock; `error` is the `LockBusy` with holder and retry_after
`unavailable(key, template, error)` Redis gave an acquire no usable answer; `error` is the `LockUnavailable`
`released(lease, held_for)` a lease was given back after `held_for` seconds
`lost(lease, why)`         a lease ended against its holder's will
`cleared(info)`            a lock was taken from its holder by `locksmith.clear()`; `info` is the `LockInfo` seen before
`flight(key, template, outcome, waited)`  a caller of `get_or_set` who missed the value has an answer after `waited`
                           seconds: "computed" it, "shared" what another computed, "old" (served the old value),
                           "failed" (the computation did), "postponed" (`RetryLater`), "busy" (the wait was over)

`template` is what is the same for all keys of a kind (`import:{account_id}`), for metrics; "" where there is none. A
lease has its own.
"""

from __future__ import annotations

from django.dispatch import Signal

acquired = Signal()
busy = Signal()
unavailable = Signal()
released = Signal()
lost = Signal()
cleared = Signal()
flight = Signal()
