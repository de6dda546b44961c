"""The values of single flight: entries of any Django cache, under the names that Django would give them.

With `stale`, a copy of the value lives longer under a name of its own. So `cache.get(key)` finds the plain value, and a
hit costs one request, as it does without.
"""

from __future__ import annotations

import logging
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, InvalidCacheKey

from ..policy.flight_outcomes import MISSING
from ..redis.key_names import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.core.cache.backends.base import BaseCache

logger = logging.getLogger("django_locksmith.flight")


def old_key(key: str) -> str:
    """Where the copy is that outlives the value."""
    return f"{key}:locksmith-old"


class Entry:
    """One entry of a cache: for how long it is to be kept, and for how long its copy. Seconds; `None` = for ever."""

    def __init__(self, alias: str, key: str, version: int | None, timeout: Any = DEFAULT_TIMEOUT, stale: float = 0.0):
        self.alias = alias
        self.cache: BaseCache = caches[alias]
        self.key = key
        self.version = version
        self.timeout = self.cache.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        self.stale = stale

    @property
    def name(self) -> str:
        """What no other entry of this cache has, whatever prefixes and versions are about."""
        return self.cache.make_key(self.key, version=self.version)

    @property
    def keeps_old(self) -> bool:
        """Is there a copy that outlives the value? A value that is kept for ever needs none."""
        return self.stale > 0 and self.timeout is not None

    def copies(self) -> list[tuple[str, float | None]]:
        """What to store it under, and for how long."""
        if self.timeout is None or not self.stale:
            return [(self.key, self.timeout)]
        return [(self.key, self.timeout), (old_key(self.key), self.timeout + self.stale)]

    def keys(self) -> list[str]:
        """All keys that may be there, also by callers with other options."""
        return [self.key, old_key(self.key)]

    def copier(self, value: Any) -> Callable[[], Any]:
        """What makes an object for each caller, as if each had read it from the cache."""
        try:
            stored = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception:
            return lambda: value  # the cache will have refused it, too; callers of one process then share one object
        return lambda: pickle.loads(stored)

    def complain(self, what: str, error: Exception) -> None:
        """Trouble with the cache."""
        logger.warning("the cache could not %s %r", what, self.key, exc_info=error)


class ThreadValues(Entry):
    """For synchronous callers; coroutines in shape only."""

    async def fresh(self) -> Any:
        return self._get(self.key)

    async def old(self) -> Any:
        return self._get(old_key(self.key))

    def _get(self, key: str) -> Any:
        try:
            return self.cache.get(key, MISSING, version=self.version)
        except InvalidCacheKey:
            raise
        except Exception as error:
            self.complain("read", error)
            return MISSING

    async def put(self, value: Any) -> None:
        for key, timeout in self.copies():
            self._set(key, value, timeout)

    def _set(self, key: str, value: Any, timeout: float | None) -> None:
        try:
            self.cache.set(key, value, timeout, version=self.version)
        except Exception as error:
            self.complain("store", error)

    async def drop(self) -> None:
        self.cache.delete_many(self.keys(), version=self.version)


class LoopValues(Entry):
    """For tasks: Django's asynchronous cache methods."""

    async def fresh(self) -> Any:
        return await self._get(self.key)

    async def old(self) -> Any:
        return await self._get(old_key(self.key))

    async def _get(self, key: str) -> Any:
        try:
            return await self.cache.aget(key, MISSING, version=self.version)
        except InvalidCacheKey:
            raise
        except Exception as error:
            self.complain("read", error)
            return MISSING

    async def put(self, value: Any) -> None:
        for key, timeout in self.copies():
            await self._set(key, value, timeout)

    async def _set(self, key: str, value: Any, timeout: float | None) -> None:
        try:
            await self.cache.aset(key, value, timeout, version=self.version)
        except Exception as error:
            self.complain("store", error)

    async def drop(self) -> None:
        await self.cache.adelete_many(self.keys(), version=self.version)


def check_value_key(key: object) -> str:
    """`key` itself, if a value can have it; else a `TypeError` or `ValueError` that says why not."""
    if not isinstance(key, str):
        raise TypeError(f"the key of a value is a str, not {type(key).__name__}: {key!r}")
    try:
        encode(key)
    except UnicodeEncodeError as error:
        raise ValueError(f"the key {key!r} cannot be written as UTF-8: {error.reason}") from error
    return key


def cache_seconds(name: str, value: Any) -> Any:
    """A cache timeout as Django takes it: seconds, `None` = for ever, `DEFAULT_TIMEOUT`; or an error that says why not.

    `timedelta` is taken, too.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or value is DEFAULT_TIMEOUT:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds (int, float or timedelta) or None, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}: those who wait would find nothing")
    return value
