"""Locks that hold across every server of a Django project, on the Redis it already has.

    from django_locksmith import locksmith

    with locksmith("report:42"):
        ...

The way in, for readers of the code (imports point down only, `lint-imports` proves it):

    edge      apps.py  admin.py  models.py  checks/  management/         where Django looks
              decorators.py  middleware.py  views/  admin_page/
              contrib/  fencing.py  testing/  pytest_plugin.py           for other software, for rows, for tests
    api/      service.py  lock.py  lease.py -> lease_state.py            what users hold in their hands
              acquisition.py  inspection.py
              single_flight.py -> many_values.py
              flight_options.py  flight_calls.py
              rate_limit.py  turns.py  api_headers.py
              cached_values.py  computed.py  computing.py  decorating.py
              key_templates.py  functions.py  redis_py_words.py  taken.py  blocks.py  done_marks.py
              said_once.py  loss.py  stable_texts.py
    runtime/  runtime.py  contexts.py  options.py  held_leases.py        what the locks of one process share
              renewal.py  expiry.py -> clockwork.py  giving_back.py  background.py  transactions.py
    policy/   straight.py -> locks.py  flights.py -> landing.py          every rule, once, for threads and tasks
              many_flights.py  flight_outcomes.py  rate_limits.py  sync_bridge.py
    local/    queues.py  flights.py  events.py                           how callers of one process wait for each other
              schedules.py -> sleepers.py
    redis/    flight_store.py -> lock_store.py -> look_store.py          requests and replies
              -> store.py -> lua/*.lua
              messages.py  key_names.py  packing.py  lock_requests.py  marks.py
              rate_store.py -> listening.py -> lock_store.py
              sync_transport.py  async_transport.py -> transport.py      how bytes travel
              wire.py
              connections.py -> errands.py  node.py  server_clock.py     where to
              outage.py
    ground    conf.py  signals.py  exceptions.py  records.py  tokens.py  formatting.py  forks.py  clock.py
              rates.py
"""

from __future__ import annotations

from .api.lease import Lease
from .api.lock import Lock
from .api.rate_limit import Booking, RateLimit
from .api.service import Locksmith, locksmith
from .exceptions import (
    LockBusy,
    LockLost,
    LockReentered,
    LocksmithError,
    LockUnavailable,
    PopulateFailed,
    RetryLater,
    SlotsDiffer,
    StaleFence,
)
from .records import NOT_MODIFIED, Holder, LockInfo, NotModified, RateInfo, Skipped, WindowInfo

__all__ = [
    "NOT_MODIFIED",
    "Booking",
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
    "NotModified",
    "PopulateFailed",
    "RateInfo",
    "RateLimit",
    "RetryLater",
    "Skipped",
    "SlotsDiffer",
    "StaleFence",
    "WindowInfo",
    "locksmith",
    "single_flight",
]

single_flight = locksmith.single_flight
