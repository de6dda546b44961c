"""The rate limiters that are compared, each as a user would set it up and write it; and a strict API to call."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, ClassVar, Final

import redis
from kombu.utils.limits import TokenBucket
from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket
from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import RedisStore

from django_locksmith import locksmith

from .crowd import PROCESSES

RATE: Final = 50
"""Calls that the API allows in a second, wherever that second begins."""


class StrictApi:
    """An API with a sliding log: it refuses each call that has `rate` others in the second before it."""

    _CALL: Final = """
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local before = redis.call('LINDEX', KEYS[1], -ARGV[1])
        if before and now - before < 1000000 then return 0 end
        redis.call('RPUSH', KEYS[1], now)
        redis.call('LTRIM', KEYS[1], -ARGV[1], -1)
        return 1
    """

    def __init__(self, url: str, rate: int = RATE) -> None:
        self._rate = rate
        self._client = redis.Redis.from_url(url)
        self._script = self._client.register_script(self._CALL)
        self._client.script_load(self._CALL)

    def call(self) -> bool:
        """Whether it was accepted."""
        return bool(self._script(keys=["log"], args=[self._rate]))


class Limiting(ABC):
    """One way to keep to the rate, in threads."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def wait(self) -> None:
        """Return when a call may go out."""


class Ours(Limiting):
    """django_locksmith: books, and sleeps once."""

    name = "ours"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._limit = locksmith.rate_limit("api", f"{RATE}/s")

    def wait(self) -> None:
        self._limit.take()


class OursOnLoop(Ours):
    """The same for tasks."""

    name = "ours, asyncio"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.loop = asyncio.new_event_loop()

    async def await_turn(self) -> None:
        """As `wait`."""
        await self._limit.atake()


class ThrottledPy(Limiting):
    """throttled-py: GCRA, its default algorithm for waiting, with `timeout=`: it retries when it is told to."""

    name = "throttled-py"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._throttle = Throttled(
            key="api",
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_sec(RATE),
            timeout=60,
            store=RedisStore(server=url),
        )

    def wait(self) -> None:
        while self._throttle.limit().limited:
            continue


class Pyrate(Limiting):
    """pyrate-limiter: a bucket in Redis, `try_acquire` that blocks."""

    name = "pyrate-limiter"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        client = redis.Redis.from_url(url, max_connections=1000)
        self._limiter = Limiter(RedisBucket.init([Rate(RATE, Duration.SECOND)], client, "api"))

    def wait(self) -> None:
        self._limiter.try_acquire("call", blocking=True)


class Limits(Limiting):
    """limits: a moving window; who is refused sleeps until its statistics say that there is room."""

    name = "limits"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._limiter = MovingWindowRateLimiter(RedisStorage(url))
        self._item = RateLimitItemPerSecond(RATE)

    def wait(self) -> None:
        while not self._limiter.hit(self._item, "api"):
            reset = self._limiter.get_window_stats(self._item, "api").reset_time
            time.sleep(max(0.001, reset - time.time()))


class RedissonsWay(Limiting):
    """As Redisson's RRateLimiter does it: permits in a sorted set by the clients' clocks; who is refused hears when
    the oldest permit ends, sleeps until then, and tries again together with all others."""

    name = "Redisson's way"
    _TRY: Final = """
        local now, window = tonumber(ARGV[1]), 1000
        redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, now - window)
        if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[2]) then
          redis.call('ZADD', KEYS[1], now, ARGV[3])
          return -1
        end
        return redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] + window - now
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._script = redis.Redis.from_url(url, max_connections=1000).register_script(self._TRY)

    def wait(self) -> None:
        while (left := int(self._script(keys=["api"], args=[int(time.time() * 1000), RATE, uuid.uuid4().hex]))) >= 0:
            time.sleep(max(1, left) / 1000)


class CelerysWay(Limiting):
    """Celery's `rate_limit`, which each worker keeps for itself, by kombu's token bucket: so each has its share."""

    name = "Celery's way"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._bucket = TokenBucket(RATE / PROCESSES, capacity=1)

    def wait(self) -> None:
        while not self._bucket.can_consume(1):
            time.sleep(self._bucket.expected_time(1))


ALL: Final[dict[str, type[Limiting]]] = {
    each.name: each for each in (Ours, OursOnLoop, ThrottledPy, Pyrate, Limits, RedissonsWay, CelerysWay)
}


@cache
def limiter(name: str, url: str) -> Any:
    """The limiter of this process, made once."""
    return ALL[name](url)
