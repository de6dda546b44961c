"""What lets so many in at one time, each as a user would set it up and write it; and an API that refuses one more."""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis

from django_locksmith import locksmith

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS: Final = 10
KEY: Final = "erp"
_LEASE_MS: Final = 120_000


class CrowdedApi:
    """An API that does so many calls at one time, and refuses what comes beyond."""

    _BEGIN: Final = """
        if redis.call('INCR', KEYS[1]) <= tonumber(ARGV[1]) then return 1 end
        redis.call('DECR', KEYS[1])
        return 0
    """

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._begin = self._client.register_script(self._BEGIN)
        self._client.script_load(self._BEGIN)

    def begin(self) -> bool:
        """Whether it takes one more call."""
        return bool(self._begin(keys=["running"], args=[SLOTS]))

    def end(self) -> None:
        """A call that was taken is over."""
        self._client.decr("running")


class Semaphore(ABC):
    """One way to let so many in, in threads."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def slot(self) -> AbstractContextManager[Any]:
        """Waits until there is one."""


class Ours(Semaphore):
    """django_locksmith: waits in Redis."""

    name = "ours"

    def slot(self) -> AbstractContextManager[Any]:
        return locksmith(KEY, slots=SLOTS)


class LockForEach(Semaphore):
    """What redis-py gives: a lock for each slot, tried one after the other, with a pause of 0.1 s as its locks have."""

    name = "redis-py, a lock for each"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = redis.Redis.from_url(url, max_connections=1000)

    @contextmanager
    def slot(self) -> Iterator[None]:
        while True:
            for number in range(SLOTS):
                lock = self._client.lock(f"{KEY}:{number}", timeout=_LEASE_MS / 1000, thread_local=False)
                if lock.acquire(blocking=False):
                    try:
                        yield
                    finally:
                        lock.release()
                    return
            time.sleep(0.1)


class RedissonsWay(Semaphore):
    """As Redisson's RPermitExpirableSemaphore does it: a number of free permits, and those that are out by the end of
    their leases; who finds none waits for a message, by which each client wakes one of its own to try again."""

    name = "Redisson's way"
    _TAKE: Final = """
        local ended = redis.call('ZRANGEBYSCORE', KEYS[2], 0, ARGV[2], 'LIMIT', 0, ARGV[4])
        if #ended > 0 then
          redis.call('ZREM', KEYS[2], unpack(ended))
          redis.call('INCRBY', KEYS[1], #ended)
        end
        local free = redis.call('GET', KEYS[1])
        if free and tonumber(free) > 0 then
          redis.call('DECR', KEYS[1])
          redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
          return 1
        end
        return 0
    """
    _GIVE: Final = """
        if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
        redis.call('PUBLISH', ARGV[2], redis.call('INCR', KEYS[1]))
        return 1
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        client = redis.Redis.from_url(url, max_connections=1000)
        client.set(KEY, SLOTS, nx=True)
        self._take = client.register_script(self._TAKE)
        self._give = client.register_script(self._GIVE)
        self._told = threading.Semaphore(0)
        subscription = client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(**{KEY: lambda message: self._told.release()})
        subscription.run_in_thread(daemon=True)

    @contextmanager
    def slot(self) -> Iterator[None]:
        permit = uuid.uuid4().hex
        while True:
            now = int(time.time() * 1000)
            if self._take(keys=[KEY, f"{KEY}:out"], args=[permit, now, now + _LEASE_MS, SLOTS]):
                break
            self._told.acquire()
        try:
            yield
        finally:
            self._give(keys=[KEY, f"{KEY}:out"], args=[permit, KEY])


ALL: Final[dict[str, type[Semaphore]]] = {each.name: each for each in (Ours, LockForEach, RedissonsWay)}


@cache
def semaphore(name: str, url: str) -> Any:
    """The semaphore of this process, made once."""
    return ALL[name](url)
