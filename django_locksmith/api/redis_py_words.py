"""redis-py's words for a lock: about what this thread or task has taken through one `Lock` object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync

if TYPE_CHECKING:
    from .. import conf
    from ..records import LockInfo
    from ..runtime.contexts import Context
    from ..runtime.runtime import Runtime
    from .lease import Lease
    from .taken import Taken


class RedisPyWords:
    """What code that was written for redis-py's `Lock` says, who keep no lease."""

    __slots__ = ()

    key: str
    _taken: Taken

    @property
    def _runtime(self) -> Runtime:
        raise NotImplementedError

    def release(self) -> None:
        """Give back what this thread or task has taken through this object.

        Raises:
            LockLost: it has taken nothing, or does not hold it any more.
            LockUnavailable: Redis gave no usable answer; it is given back later, or ends with its lease.
        """
        self._mine(self._runtime.threads()).release()

    async def arelease(self) -> None:
        """As `release`."""
        await self._mine(self._runtime.loop()).arelease()

    def extend(self, additional_time: conf.Seconds, replace_ttl: bool = False) -> bool:
        """Prolong what this thread or task has taken through this object.

        Args:
            additional_time: seconds to add to the lease.
            replace_ttl: let the lease end so many seconds from now instead.

        Returns:
            `True`, as redis-py's lock does.

        Raises:
            LockLost: it has taken nothing, or does not hold it any more.
            LockUnavailable: Redis gave no usable answer; the lease ends no sooner than before.
        """
        self._mine(self._runtime.threads()).extend(additional_time, replace_ttl)
        return True

    async def aextend(self, additional_time: conf.Seconds, replace_ttl: bool = False) -> bool:
        """As `extend`."""
        await self._mine(self._runtime.loop()).aextend(additional_time, replace_ttl)
        return True

    def reacquire(self) -> bool:
        """Start the lease again.

        Returns:
            `True`, as redis-py's lock does.

        Raises:
            LockLost: it is lost; what is lost is not taken again.
            LockUnavailable: Redis gave no usable answer.
        """
        self._mine(self._runtime.threads()).extend()
        return True

    async def areacquire(self) -> bool:
        """As `reacquire`."""
        await self._mine(self._runtime.loop()).aextend()
        return True

    def locked(self) -> bool:
        """Whether anybody holds it now; of slots, whether all are taken. Asks Redis."""
        return _is_full(run_sync(self._look(self._runtime.threads())))

    async def alocked(self) -> bool:
        """As `locked`."""
        return _is_full(await self._look(self._runtime.loop()))

    def owned(self) -> bool:
        """Whether this thread or task still holds what it has taken through this object. Asks Redis."""
        return run_sync(self._owned(self._runtime.threads()))

    async def aowned(self) -> bool:
        """As `owned`."""
        return await self._owned(self._runtime.loop())

    async def _owned(self, context: Context) -> bool:
        lease = self._taken.latest(context)
        if lease is None or not lease.held:
            return False
        infos = await self._look(context)
        return lease.token in [info.holder.token for info in infos if info.holder is not None]

    async def _look(self, context: Context) -> list[LockInfo]:
        return await lock_policy.look(context.store, context.store.names(self.key))

    def _mine(self, context: Context) -> Lease:
        return self._taken.mine(context, self.key)


def _is_full(infos: list[LockInfo]) -> bool:
    return bool(infos) and infos[0].is_full
