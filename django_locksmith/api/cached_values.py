"""The values of single flight: entries of any Django cache, under the names that Django would give them.

With `stale`, a copy of the value lives longer, as another version of the entry. So `cache.get(key)` finds the plain
value, a hit costs one request, as it does without, and no key that a visitor chooses is that of somebody's copy.
"""

from __future__ import annotations

import logging
import pickle
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, InvalidCacheKey
from redis.exceptions import RedisClusterException

from ..policy.flight_outcomes import MISSING
from ..redis.key_names import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("django_locksmith.flight")


_REFUSED = (TypeError, ValueError, OverflowError, RecursionError, pickle.PickleError)
"""What serializers raise for a value that they cannot write."""
_ABOUT_KEYS = (UnicodeError, InvalidCacheKey)
_OLD_UNTIL = "locksmith-lives-until"
_SHORTEST = 0.001
_LONGEST = 1e9


class Entry:
    """One entry of a cache: for how long it is to be kept, and for how long its copy. Seconds; `None` = for ever.

    `early`: the share of its life after which only the copy is there, which says itself until when it lives.
    """

    old_lives = False
    """Is the copy that was read last still what anybody may have?"""

    def __init__(
        self,
        alias: str,
        key: str,
        version: int | None,
        timeout: Any = DEFAULT_TIMEOUT,
        stale: float = 0.0,
        early: float = 0.0,
    ) -> None:
        self.alias = alias
        self.cache: BaseCache = caches[alias]
        self.key = key
        self.version = version
        self._timeout_of = timeout if callable(timeout) else None
        self.timeout = self.cache.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        self.stale = stale
        self.early = early

    def keep_for(self, value: Any) -> None:
        """Where the timeout is a function of the value, ask it. Raises what that raises, or that it is no timeout."""
        if self._timeout_of is not None:
            timeout = cache_seconds("what timeout() returns", self._timeout_of(value))
            self.timeout = self.cache.default_timeout if timeout is DEFAULT_TIMEOUT else timeout

    @property
    def name(self) -> str:
        """What no other entry of this cache has, whatever prefixes and versions are about."""
        return self.cache.make_key(self.key, version=self.version)

    @property
    def keeps_old(self) -> bool:
        """Is there a copy that outlives the value? A value that is kept for ever needs none."""
        return (self.stale > 0 or self.early > 0) and self.timeout is not None

    @property
    def old_version(self) -> Any:
        """The version of the entry that outlives the value. Django's own are numbers."""
        return f"locksmith-old-{self.cache.version if self.version is None else self.version}"

    def copies(self, value: Any, longest: float | None) -> list[tuple[Any, Any, float | None]]:
        """The versions to store, what of each, and for how long. `longest`: for a value that may be out of date."""
        if longest is not None:
            return [(self.version, value, longest if self.timeout is None else min(longest, self.timeout))]
        if self.timeout is None or not self.keeps_old:
            return [(self.version, value, self.timeout)]
        first, copy = self.timeout, value
        if self.early:
            first, copy = self.timeout * self.early, (_OLD_UNTIL, time.time() + self.timeout, value)
        elif _says_until_when(value):
            copy = (_OLD_UNTIL, 0.0, value)
        return [(self.version, value, first), (self.old_version, copy, self.timeout + self.stale)]

    def opened(self, copy: Any) -> Any:
        """The old value, as it was put."""
        self.old_lives = False
        if _says_until_when(copy):
            _, until, copy = copy
            self.old_lives = time.time() < until
        return copy

    def copier(self, value: Any) -> Callable[[], Any]:
        """What makes an object for each caller, as if each had read it from the cache.

        Raises `TypeError` where none can be made: one object must not reach two callers, who may be two visitors.
        """
        try:
            stored = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise TypeError(
                f"the value of {self.key!r} is a {type(value).__name__}, which cannot be copied for those who share it"
                f" ({error}); return something that can be pickled: a list instead of a generator, a rendered response"
            ) from error
        return lambda: pickle.loads(stored)

    def not_stored(self, value: Any, error: Exception) -> None:
        """A value could not be stored. Raises `TypeError` if the value is to blame, and not the cache's server."""
        if isinstance(error, _REFUSED) and not isinstance(error, _ABOUT_KEYS):
            raise TypeError(
                f"the cache {self.alias!r} cannot hold the value of {self.key!r}, a {type(value).__name__} ({error});"
                " return what its serializer can write, or name another cache"
            ) from error
        self.complain("store", error)

    def complain(self, what: str, error: Exception) -> None:
        """Trouble with the cache."""
        logger.warning("the cache could not %s %r", what, self.key, exc_info=error)


class ThreadValues(Entry):
    """For synchronous callers; coroutines in shape only."""

    async def fresh(self) -> Any:
        return self._get(self.version)

    async def old(self) -> Any:
        return self.opened(self._get(self.old_version))

    def _get(self, version: Any) -> Any:
        try:
            return self.cache.get(self.key, MISSING, version=version)
        except InvalidCacheKey:
            raise
        except Exception as error:
            self.complain("read", error)
            return MISSING

    async def put(self, value: Any, longest: float | None = None) -> None:
        for version, copy, timeout in self.copies(value, longest):
            self._set(version, copy, timeout)

    def _set(self, version: Any, value: Any, timeout: float | None) -> None:
        try:
            self.cache.set(self.key, value, timeout, version=version)
        except Exception as error:
            self.not_stored(value, error)

    async def drop(self) -> None:
        for version in (self.version, self.old_version):
            self.cache.delete(self.key, version=version)

    @staticmethod
    async def fresh_of(entries: Mapping[str, ThreadValues]) -> dict[str, Any]:
        """What the cache has of many entries, which are alike but for their keys, in one request."""
        first = next(iter(entries.values()))
        try:
            return first.cache.get_many(list(entries), version=first.version)
        except InvalidCacheKey:
            raise
        except RedisClusterException:  # a cluster has them on many servers
            found = {key: await entry.fresh() for key, entry in entries.items()}
            return {key: value for key, value in found.items() if value is not MISSING}
        except Exception as error:
            first.complain("read", error)
            return {}


class LoopValues(Entry):
    """For tasks: Django's asynchronous cache methods."""

    async def fresh(self) -> Any:
        return await self._get(self.version)

    async def old(self) -> Any:
        return self.opened(await self._get(self.old_version))

    async def _get(self, version: Any) -> Any:
        try:
            return await self.cache.aget(self.key, MISSING, version=version)
        except InvalidCacheKey:
            raise
        except Exception as error:
            self.complain("read", error)
            return MISSING

    async def put(self, value: Any, longest: float | None = None) -> None:
        for version, copy, timeout in self.copies(value, longest):
            await self._set(version, copy, timeout)

    async def _set(self, version: Any, value: Any, timeout: float | None) -> None:
        try:
            await self.cache.aset(self.key, value, timeout, version=version)
        except Exception as error:
            self.not_stored(value, error)

    async def drop(self) -> None:
        for version in (self.version, self.old_version):
            await self.cache.adelete(self.key, version=version)

    @staticmethod
    async def fresh_of(entries: Mapping[str, LoopValues]) -> dict[str, Any]:
        """As that of `ThreadValues`."""
        first = next(iter(entries.values()))
        get_many = first.cache.aget_many
        if type(first.cache).aget_many is BaseCache.aget_many:  # which asks for one after the other
            get_many = sync_to_async(first.cache.get_many)
        try:
            return await get_many(list(entries), version=first.version)
        except InvalidCacheKey:
            raise
        except RedisClusterException:
            found = {key: await entry.fresh() for key, entry in entries.items()}
            return {key: value for key, value in found.items() if value is not MISSING}
        except Exception as error:
            first.complain("read", error)
            return {}


def _says_until_when(copy: Any) -> bool:
    # Serializers that know no tuples make lists of them.
    return isinstance(copy, (tuple, list)) and len(copy) == 3 and isinstance(copy[0], str) and copy[0] == _OLD_UNTIL


def check_value_key(key: object) -> str:
    """`key` itself, if a value can have it; else a `TypeError` or `ValueError` that says why not."""
    if type(key) is not str:
        if not isinstance(key, str):
            raise TypeError(f"the key of a value is a str, not {type(key).__name__}: {key!r}")
        key = str.__str__(key)  # an Enum, say, is formatted otherwise than it compares
    try:
        encode(key)
    except UnicodeEncodeError as error:
        raise ValueError(f"the key {key!r} cannot be written as UTF-8: {error.reason}") from error
    return key


def cache_seconds(name: str, value: Any) -> Any:
    """A cache timeout as Django takes it: seconds, `None` = for ever, `DEFAULT_TIMEOUT`; or an error that says why not.

    `timedelta` is taken, too, and a function, which is to be asked for each value.
    """
    if callable(value):
        return value
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or value is DEFAULT_TIMEOUT:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds (int, float or timedelta) or None, not {value!r}")
    if not value >= _SHORTEST:
        raise ValueError(
            f"{name} must be {_SHORTEST:g} seconds or more, not {value!r}: those who wait would find nothing"
        )
    if value > _LONGEST:
        raise ValueError(f"{name} must be {_LONGEST:.0f} seconds or less, not {value!r}; None is for ever")
    return value
