"""What is held, and losing it: for tests over any Redis."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ..api.lease import Lease
from ..api.service import locksmith
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..runtime.runtime import process
from .substitute import said_of, substitute_in_force

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..api.service import Locksmith
    from ..records import LockInfo

_TOLD_WITHIN = 10.0
"""Seconds for which `lose_now` waits for the functions that it calls: one of them may wait for its caller."""


def assert_locked(key: str = "", *, by: Lease | None = None, service: Locksmith = locksmith) -> None:
    """Fail unless somebody holds this lock of the service.

    Args:
        key: the lock's key.
        by: the lease that it is to be held with.
        service: whose lock it is.
    """
    info = service.info(key)
    if info is None:
        raise AssertionError(f"the lock {key!r} is not held; {_told(service.locks())}")
    if by is not None and (info.holder is None or info.holder.token != by.token):
        raise AssertionError(f"the lock {said_of(info)}, not by {by!r}")


def assert_not_locked(key: str = "", *, service: Locksmith = locksmith) -> None:
    """Fail if somebody holds this lock of the service."""
    info = service.info(key)
    if info is not None:
        raise AssertionError(f"the lock {said_of(info)}")


def assert_no_locks_left(service: Locksmith | None = None) -> None:
    """Fail if any lock of the service is held; within `override_locks`, and without `service`: of any service.

    Those that are only `busy` do not count.
    """
    substitute = substitute_in_force()
    left = substitute.held() if substitute and service is None else (service or locksmith).locks()
    if substitute:
        left = [info for info in left if not substitute.is_stand_in(info)]
    if left:
        raise AssertionError(f"locks were not given back; {_told(left)}")


def _told(held: list[LockInfo]) -> str:
    return "held are: " + "; ".join(map(said_of, held)) if held else "no lock is held"


# ---- losing it


def lose_now(lease: Lease | str) -> None:
    """Let a lease be lost now, as if it had run out: in Redis, and for its holder, who is told.

    From here on `lease.held` is false, and `LockLost` is raised at the end of its block. `on_lost` and the signal
    `lost` have been called when this returns; but `on_lost` of a task that belongs to the running event loop is called
    there, with the next await.

    Args:
        lease: the lease, or the key of a lock that is held by this process.

    Raises:
        AssertionError: it is not held here.
        ValueError: a key names locks of several services.
        LockUnavailable: Redis gave no usable answer; the holder has been told all the same.
    """
    if isinstance(lease, str):
        lease = _lease_of(lease)
    elif not isinstance(lease, Lease):
        raise TypeError(f"lose_now takes a Lease or a key, not {lease!r}")
    if not lease.held:
        raise AssertionError(f"{lease!r} cannot be lost: it is not held")
    news: list[Callable[[], None]] = []
    # The holder first: two must never believe in the same lock.
    lease.lose(f"its lease of {lease.timeout:g} s ran out (lose_now)", news.extend)
    try:
        run_sync(lock_policy.clear(lease.runtime.threads().store, lease.key, lease.token, slot=lease.shared))
    finally:
        _tell(news, lease.owner)


def _lease_of(key: str) -> Lease:
    substitute = substitute_in_force()
    here = {runtime.latest_lease(key) for runtime in list(process.runtimes) if runtime.substitute is substitute}
    # Of a lease that an earlier test has forgotten, Redis knows nothing any more.
    held: list[Lease] = [lease for lease in here if lease is not None and lease.held and _is_in_redis(lease)]
    if not held:
        raise AssertionError(
            f"nobody in this process holds {key!r}, so nobody can lose it;"
            f" {_told(substitute.held() if substitute else locksmith.locks())}"
        )
    if len(held) > 1:
        raise ValueError(f"{key!r} is held here by several services; give lose_now the lease")
    return held[0]


def _is_in_redis(lease: Lease) -> bool:
    infos = run_sync(lock_policy.look(lease.runtime.threads().store, lease.attempt.names))
    return lease.token in [info.holder.token for info in infos if info.holder is not None]


def _tell(news: list[Callable[[], None]], owner: object) -> None:
    def tell_all() -> None:
        for tell in news:
            tell()

    # In a thread of their own, as whenever a lease is lost.
    thread = threading.Thread(target=tell_all, name="locksmith-lost", daemon=True)
    thread.start()
    thread.join(_TOLD_WITHIN)
    loop = owner.get_loop() if isinstance(owner, asyncio.Task) else None
    if loop is not None and loop.is_running() and loop is not _loop_here():
        told = threading.Event()
        loop.call_soon_threadsafe(told.set)  # behind `on_lost`
        told.wait(_TOLD_WITHIN)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
