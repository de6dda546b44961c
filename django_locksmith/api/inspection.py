"""What is held now, and by whom; and how it is taken away."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .. import signals
from ..policy import locks as lock_policy
from ..policy import rate_limits as rate_policy
from ..policy.sync_bridge import run_sync
from ..records import LockInfo
from ..redis.key_names import check_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ..records import RateInfo
    from ..runtime.contexts import Context
    from ..runtime.runtime import Runtime


class Inspection:
    """What `Locksmith` says of all that is in use."""

    def runtime(self) -> Runtime:
        """What the locks of the settings in force share. Not for users."""
        raise NotImplementedError

    def locks(self, pattern: str = "*") -> list[LockInfo]:
        """The locks that are held now. Changes nothing.

        On one server, locks set by other software are not among them (`info` knows them); on a cluster all keys with
        our prefix are.

        Args:
            pattern: a shell pattern (`*`, `?`, `[abc]`) that keys have to match.

        Returns:
            A `LockInfo` for each, sorted by key.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(_locks(self.runtime().threads(), pattern))

    async def alocks(self, pattern: str = "*") -> list[LockInfo]:
        """As `locks`."""
        return await _locks(self.runtime().loop(), pattern)

    def rate_limits(self, pattern: str = "*") -> list[RateInfo]:
        """The rate limits that have been used within their windows, or are paused. Changes nothing.

        Args:
            pattern: a shell pattern (`*`, `?`, `[abc]`) that names have to match.

        Returns:
            A `RateInfo` for each, sorted by name.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(_rate_limits(self.runtime().threads(), pattern))

    async def arate_limits(self, pattern: str = "*") -> list[RateInfo]:
        """As `rate_limits`."""
        return await _rate_limits(self.runtime().loop(), pattern)

    def info(self, key: str = "") -> LockInfo | None:
        """One lock as it is now. Changes nothing.

        Returns:
            Its `LockInfo`; `None` if nobody holds it. Of slots, that of the holder whose lease ends first.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return next(iter(self.holders(key)), None)

    async def ainfo(self, key: str = "") -> LockInfo | None:
        """As `info`."""
        return next(iter(await self.aholders(key)), None)

    def holders(self, key: str = "") -> list[LockInfo]:
        """Who has one lock now: nobody, one, or up to as many as it has slots. Changes nothing.

        Returns:
            A `LockInfo` for each; what ends first, first.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(_holders(self.runtime().threads(), key))

    async def aholders(self, key: str = "") -> list[LockInfo]:
        """As `holders`."""
        return await _holders(self.runtime().loop(), key)

    def clear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """Take locks from their holders.

        A lock is only taken from the holder that was seen: if somebody else has got it meanwhile, it stays there. Its
        waiters go on at once; its old holder gets `LockLost` when it next asks Redis.

        Args:
            *locks: `LockInfo`s as `locks()` or `holders()` returned them, or keys: of slots, those of all holders.
            pattern: a shell pattern of keys; `"*"` for all.

        Returns:
            Those that were taken, as they were seen before.

        Raises:
            LockUnavailable: Redis gave no usable answer; some may have been taken.
        """
        return run_sync(_clear(self.runtime().threads(), locks, pattern))

    async def aclear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """As `clear`."""
        return await _clear(self.runtime().loop(), locks, pattern)


async def _locks(context: Context, pattern: str) -> list[LockInfo]:
    return await lock_policy.list_locks(context.store, _matches(pattern))


async def _rate_limits(context: Context, pattern: str) -> list[RateInfo]:
    return await rate_policy.list_limits(context.rates, _matches(pattern))


async def _holders(context: Context, key: str) -> list[LockInfo]:
    return await lock_policy.look(context.store, context.store.names(check_key(key)))


async def _clear(context: Context, locks: Collection[LockInfo | str], pattern: str | None) -> list[LockInfo]:
    seen = dict.fromkeys([] if pattern is None else await _locks(context, pattern))
    for lock in locks:
        if not isinstance(lock, (str, LockInfo)):
            raise TypeError(f"clear takes keys and LockInfos, not {lock!r}")
        if isinstance(lock, str):
            seen |= dict.fromkeys(await _holders(context, lock))
        else:
            seen.setdefault(replace(lock, key=check_key(lock.key)))
    cleared = []
    for info in seen:
        # Between two holders there is nobody to take it from.
        if info.holder is None:
            continue
        slot = info.slots is not None
        if await lock_policy.clear(context.store, info.key, info.holder.token, slot=slot):
            cleared.append(info)
            await context.tell(signals.cleared, info=info)
    return cleared


def _matches(pattern: str) -> Callable[[str], bool]:
    if not isinstance(pattern, str):
        raise TypeError(f"pattern must be a str, not {pattern!r}")
    return lambda name: fnmatchcase(name, pattern)
