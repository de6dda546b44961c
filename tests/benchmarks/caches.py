"""Ways to have a value computed once and cached, each as a user would set it up and write it.

Every process of a stampede has all of them. What they have in common: the value lives for `TTL` seconds, a lock for
`LEASE`, and nobody waits for a connection of a pool.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import cashews
import django
from django.conf import settings
from django.core.cache import cache as django_cache
from dogpile.cache import make_region
from redis.connection import parse_url

from django_locksmith import locksmith

from .contenders import CONNECTIONS, LEASE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TTL: Final = 60
"""Seconds that a value is kept: longer than any round takes."""


class UpstreamError(Exception):
    """What `populate` fails with."""


class Populate:
    """The work that should be done once: it takes its time, then returns the value or fails.

    It counts its calls by itself, outside Redis.
    """

    VALUE: Final = "the value"

    def __init__(self, seconds: float, *, fails: bool) -> None:
        self._seconds = seconds
        self._fails = fails
        self.calls: list[None] = []
        """One for each call begun: `append` is atomic among threads, `+= 1` is not."""
        self.ended: list[float] = []
        """When each call ended (monotonic seconds, which all processes of a machine share)."""

    def __call__(self) -> str:
        self.calls.append(None)
        time.sleep(self._seconds)
        return self._end()

    async def on_loop(self) -> str:
        """The same for asyncio."""
        self.calls.append(None)
        await asyncio.sleep(self._seconds)
        return self._end()

    def _end(self) -> str:
        self.ended.append(time.monotonic())
        if self._fails:
            raise UpstreamError("the upstream has failed")
        return self.VALUE


class Caching(ABC):
    """One way to cache, called by threads."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        """The function of a key that a user would have written around `populate`."""


class AsyncCaching(ABC):
    """One way to cache, called by tasks; its event loop is kept, as its connections are bound to it."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.new_event_loop()

    @abstractmethod
    def wrapped(self, populate: Populate) -> Callable[[str], Awaitable[Any]]:
        """The function of a key that a user would have written around `populate`."""


class Ours(Caching):
    """django_locksmith on the pool of the django-redis cache."""

    name = "ours"

    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        return lambda key: locksmith.get_or_set(key, populate, TTL)


class OursOnLoop(AsyncCaching):
    """The same on asyncio: what can be compared with cashews."""

    name = "ours, asyncio"

    def wrapped(self, populate: Populate) -> Callable[[str], Awaitable[Any]]:
        return lambda key: locksmith.aget_or_set(key, populate.on_loop, TTL)


class Django(Caching):
    """Django's `cache.get_or_set`, which does not protect from a stampede: what it looks like without."""

    name = "Django get_or_set"

    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        return lambda key: django_cache.get_or_set(key, populate, TTL)


class DoubleChecked(Caching):
    """`cache.lock` of django-redis, and a second look into the cache once one has it."""

    name = "cache.lock"

    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        cache: Any = django_cache  # of the many backends, this one has locks

        def look(key: str) -> Any:
            value = cache.get(key)
            if value is not None:
                return value
            with cache.lock(f"lock:{key}", timeout=LEASE):
                value = cache.get(key)
                if value is None:
                    value = populate()
                    cache.set(key, value, TTL)
            return value

        return look


class Dogpile(Caching):
    """dogpile.cache with its lock in Redis, of which its documentation says `thread_local_lock` must be off."""

    name = "dogpile.cache"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._region = make_region().configure(
            "dogpile.cache.redis",
            expiration_time=TTL,
            arguments={
                "url": url,
                "redis_expiration_time": 2 * TTL,
                "distributed_lock": True,
                "lock_timeout": LEASE,
                "thread_local_lock": False,
                "connection_kwargs": {"max_connections": CONNECTIONS},
            },
        )

    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        return lambda key: self._region.get_or_create(key, populate)


class Cacheops(Caching):
    """`cached_as` of django-cacheops with `lock=True`; its simple `cached` has no lock."""

    name = "cacheops"

    def wrapped(self, populate: Populate) -> Callable[[str], Any]:
        # Both read the settings as they are imported.
        from cacheops import cached_as
        from django.contrib.contenttypes.models import ContentType

        def compute(key: str) -> str:
            return populate()

        # The key in Redis is made of this function's place in the source, so it is the same in all processes.
        wrapped: Callable[[str], Any] = cached_as(ContentType, timeout=TTL, lock=True)(compute)
        return wrapped


class Cashews(AsyncCaching):
    """cashews with `lock=True`; that tasks of one process share a call (`protected`) is its default."""

    name = "cashews"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._cache = cashews.Cache()
        self._cache.setup(url, max_connections=CONNECTIONS)

    def wrapped(self, populate: Populate) -> Callable[[str], Awaitable[Any]]:
        @self._cache(ttl=TTL, key="{key}", lock=True)
        async def compute(key: str) -> str:
            return await populate.on_loop()

        return compute


ALL: Final[dict[str, type[Caching | AsyncCaching]]] = {
    kind.name: kind for kind in (Ours, OursOnLoop, Django, DoubleChecked, Dogpile, Cacheops, Cashews)
}


@cache
def caching(name: str, url: str) -> Caching | AsyncCaching:
    """The contender of this process, with its connections kept."""
    return ALL[name](url)


def configure_django(url: str) -> None:
    """Settings for all of them: a django-redis cache, and what cacheops asks for."""
    # cacheops takes a URL as well, but that could not say that its BRPOPLPUSH, 60 s, may outlast redis-py's 5 s.
    parts: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call] # redis-py has not typed it
    redis_of_cacheops = {**parts, "max_connections": CONNECTIONS, "socket_timeout": None}
    settings.configure(
        SECRET_KEY="only for benchmarks",
        INSTALLED_APPS=["django.contrib.contenttypes", "cacheops"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}},
        CACHEOPS_REDIS=redis_of_cacheops,
        CACHEOPS={"contenttypes.*": {"timeout": TTL}},
    )
    django.setup()
