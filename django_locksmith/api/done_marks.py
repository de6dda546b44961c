"""Marks that some work was done, for queues that deliver a message twice. They end by themselves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..exceptions import LockUnavailable
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..redis import marks

if TYPE_CHECKING:
    from .service import Locksmith


def set_mark(service: Locksmith, name: str, seconds: float) -> LockUnavailable | None:
    """Say that the work of this name is done, for so many seconds; or what kept us from it."""
    store = service.runtime().threads().store
    try:
        run_sync(lock_policy.once_more(marks.put, store, name, f"{time.time():.3f}", int(seconds * 1000)))
    except LockUnavailable as trouble:
        return trouble
    return None


def marked_at(service: Locksmith, name: str) -> float | None:
    """When it was done (Unix time, by the clock of whoever did it); `None` if nobody says so.

    Raises `LockUnavailable`.
    """
    said = run_sync(lock_policy.once_more(marks.get, service.runtime().threads().store, name))
    try:
        return None if said is None else float(said)
    except ValueError:
        return None  # somebody else's
