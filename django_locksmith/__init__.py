"""Locks that hold across every server of a Django project, on the Redis it already has.

    from django_locksmith import locksmith

    with locksmith("report:42"):
        ...

The way in, for readers of the code (imports point down only, tests/test_layers.py proves it):

    edge     apps.py  checks.py  survey.py  management/  warden.py  Django's own places
             decorators.py  middleware.py  view_keys.py  answers.py
             admin.py  overview.py  models.py  wording.py
             contrib/  testing.py  pytest_plugin.py        other people's software
    public   service.py  compute_once.py  values.py        what users hold in their hands
             fencing.py  lock.py  lease.py  key_templates.py
             workshop.py  renewal.py  watch.py  transactions.py   what they share
    policy   flights.py  protocol.py  bridge.py            every rule, once, for threads and tasks
    store    flight_store.py  store.py -> lua/*.lua        requests and replies
             packing.py  names.py  gates.py  seats.py
             sync_wires.py  async_wires.py -> wires.py     how bytes travel
             connections.py -> conf.py                     where to
    ground   records.py  tokens.py  exceptions.py  signals.py
"""

from __future__ import annotations

from .exceptions import (
    LockBusy,
    LockLost,
    LockReentered,
    LocksmithError,
    LockUnavailable,
    PopulateFailed,
    RetryLater,
    StaleFence,
)
from .lease import Lease
from .lock import Lock
from .records import Holder, LockInfo, Skipped
from .service import Locksmith, locksmith

__all__ = [
    "Holder",
    "Lease",
    "Lock",
    "LockBusy",
    "LockInfo",
    "LockLost",
    "LockReentered",
    "LockUnavailable",
    "Locksmith",
    "LocksmithError",
    "PopulateFailed",
    "RetryLater",
    "Skipped",
    "StaleFence",
    "locksmith",
    "single_flight",
]

single_flight = locksmith.single_flight
