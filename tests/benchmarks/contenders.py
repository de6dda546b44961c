"""The locks that are compared, each as a user would set it up and write it."""

from __future__ import annotations

import socket
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import redis
import redis_lock
from django.conf import settings
from django.core.cache import cache as django_cache

from django_locksmith import locksmith

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE: Final = 120
"""Seconds, for every contender: the default of ours."""
CONNECTIONS: Final = 1000
"""What a pool may hold where every waiter takes a connection; redis-py 8 would stop at 100."""

Guard = AbstractContextManager[Any]


def configure_django(url: str) -> None:
    """Settings as a project would have them: one django-redis cache, nothing else."""
    settings.configure(
        SECRET_KEY="only for benchmarks",
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}},
    )


class Contender(ABC):
    """One way to lock."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def lock(self, key: str) -> Guard:
        """A new lock object, to be used in a `with` statement; waits if it is busy."""


class Ours(Contender):
    """django_locksmith on the pool of the django-redis cache."""

    name = "ours"

    def lock(self, key: str) -> Guard:
        return locksmith(key)


class OurSlot(Contender):
    """The same as one of two slots, of which somebody else has the other: what slots cost beside a lock."""

    name = "ours, a slot"
    _other: Any = None

    def lock(self, key: str) -> Guard:
        return locksmith(f"{key}:slots", slots=2)

    def take_the_other(self, key: str) -> None:
        """Be somebody else, from now on."""
        self._other = locksmith(f"{key}:slots", slots=2, timeout=3600).acquire()


class RedisPy(Contender):
    """`redis.lock.Lock`."""

    name = "redis-py"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = redis.Redis.from_url(url, max_connections=CONNECTIONS)

    def lock(self, key: str) -> Guard:
        guard: Guard = self._client.lock(key, timeout=LEASE)
        return guard


class DjangoRedis(Contender):
    """`cache.lock`: redis-py's lock on the pool of the cache."""

    name = "django-redis"

    def lock(self, key: str) -> Guard:
        cache: Any = django_cache  # of the many backends, this one has locks
        guard: Guard = cache.lock(key, timeout=LEASE)
        return guard


class PythonRedisLock(Contender):
    """python-redis-lock. Its BLPOP needs a client without a time limit for reads."""

    name = "python-redis-lock"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = redis.Redis.from_url(url, socket_timeout=None, max_connections=CONNECTIONS)

    def lock(self, key: str) -> Guard:
        guard: Guard = redis_lock.Lock(self._client, key, expire=LEASE)
        return guard


class BareSocket(Contender):
    """SET NX PX and DEL on a socket: the floor, of which no safe lock can be made. Cannot wait."""

    name = "bare socket"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if parts.password:
            self._ask("AUTH", parts.password)
        if parts.path.strip("/"):
            self._ask("SELECT", parts.path.strip("/"))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        if self._ask("SET", key, uuid.uuid4().hex, "NX", "PX", str(LEASE * 1000)) != b"+OK\r\n":
            raise RuntimeError("the floor found its key taken")
        try:
            yield
        finally:
            self._ask("DEL", key)

    def _ask(self, *words: str) -> bytes:
        self._socket.sendall(packed(*words))
        return self._socket.recv(4096)


def packed(*words: str) -> bytes:
    """A command as it goes over the wire."""
    bulks = [b"$%d\r\n%b\r\n" % (len(word), word) for word in map(str.encode, words)]
    return b"*%d\r\n%b" % (len(bulks), b"".join(bulks))


ALL: Final[dict[str, type[Contender]]] = {
    contender.name: contender for contender in (Ours, OurSlot, RedisPy, DjangoRedis, PythonRedisLock, BareSocket)
}
WAITING: Final = (Ours.name, PythonRedisLock.name, RedisPy.name)
"""Those that differ in how they wait; `cache.lock` is redis-py's lock."""


@cache
def contender(name: str, url: str) -> Contender:
    """The contender of this process, with its connections kept."""
    return ALL[name](url)
