"""Threads and tasks: the same few words for both, so that a promise is written once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Lease, Lock, LockInfo, Locksmith, RateInfo
    from django_locksmith.api.rate_limit import Booking, RateLimit
    from django_locksmith.local.flights import LocalFlights
    from django_locksmith.runtime.contexts import Context


def local_followers_of(local_flights: LocalFlights) -> int:
    """How many wait for the outcomes of these flights."""
    return sum(len(flight.events) for flight in list(local_flights._flights.values()))


class Caller:
    """The same few words for threads and for tasks, so that a promise is written once."""

    name: str

    def acquire(self, lock: Lock, **how: Any) -> Lease | None:
        return self.start_acquire(lock, **how).result(60)

    def release(self, lease: Lease) -> bool:
        raise NotImplementedError

    def extend(self, lease: Lease, *how: Any, **more: Any) -> None:
        raise NotImplementedError

    def start_acquire(self, lock: Lock, **how: Any) -> Future[Lease | None]:
        """Begin to acquire, in a thread or task of its own."""
        raise NotImplementedError

    def start_within(self, lock: Lock, body: Callable[[Lease], Any]) -> Future[Any]:
        """Run `body(lease)` within `with lock`, in a thread or task of its own."""
        raise NotImplementedError

    def within(self, lock: Lock, body: Callable[[Lease], Any]) -> Any:
        return self.start_within(lock, body).result(60)

    def info(self, service: Locksmith, key: str) -> LockInfo | None:
        raise NotImplementedError

    def locks(self, service: Locksmith, pattern: str = "*") -> list[LockInfo]:
        raise NotImplementedError

    def clear(self, service: Locksmith, *keys: str, **how: Any) -> list[LockInfo]:
        raise NotImplementedError

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function that was made for this kind of caller."""
        raise NotImplementedError

    # ---- rate limits

    def start_take(self, limit: RateLimit, **how: Any) -> Future[Booking]:
        """Begin to take a place, in a thread or task of its own."""
        raise NotImplementedError

    def take(self, limit: RateLimit, **how: Any) -> Booking:
        return self.start_take(limit, **how).result(60)

    def rate_limits(self, service: Locksmith, pattern: str = "*") -> list[RateInfo]:
        raise NotImplementedError

    def api_says(self, limit: RateLimit, word: str, *what: Any, **more: Any) -> None:
        """`pause`, `sync` or `sync_from`, by the word for this kind of caller."""
        raise NotImplementedError

    # ---- single flight

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """A function that may block, as `default` for this kind of caller."""
        raise NotImplementedError

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        """Begin to get or set a value, in a thread or task of its own."""
        raise NotImplementedError

    def get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Any:
        return self.start_get(service, key, default, *args, **how).result(60)

    def start_get_many(self, service: Locksmith, keys: list[str], default: Any, *args: Any, **how: Any) -> Future[Any]:
        """Begin to get or set many values; `default` is a function that may block."""
        raise NotImplementedError

    def get_many(self, service: Locksmith, keys: list[str], default: Any, *args: Any, **how: Any) -> Any:
        return self.start_get_many(service, keys, default, *args, **how).result(60)

    def start_invalidate(self, service: Locksmith, key: str, *args: Any, **how: Any) -> Future[None]:
        """Begin to invalidate a value, in a thread or task of its own."""
        raise NotImplementedError

    def invalidate(self, service: Locksmith, key: str, *args: Any, **how: Any) -> None:
        self.start_invalidate(service, key, *args, **how).result(60)

    def context(self, service: Locksmith) -> Context:
        """What callers of this kind share, of the service."""
        raise NotImplementedError

    def local_followers(self, service: Locksmith) -> int:
        """How many wait for another caller of this process."""
        return local_followers_of(self.context(service).local_flights)


class SyncCaller(Caller):
    name = "sync"

    def release(self, lease: Lease) -> bool:
        return lease.release()

    def extend(self, lease: Lease, *how: Any, **more: Any) -> None:
        lease.extend(*how, **more)

    def start_acquire(self, lock: Lock, **how: Any) -> Future[Lease | None]:
        return in_thread(lambda: lock.acquire(**how))

    def start_within(self, lock: Lock, body: Callable[[Lease], Any]) -> Future[Any]:
        def run() -> Any:
            with lock as lease:
                return body(lease)

        return in_thread(run)

    def info(self, service: Locksmith, key: str) -> LockInfo | None:
        return service.info(key)

    def locks(self, service: Locksmith, pattern: str = "*") -> list[LockInfo]:
        return service.locks(pattern)

    def clear(self, service: Locksmith, *keys: str, **how: Any) -> list[LockInfo]:
        return service.clear(*keys, **how)

    def call(self, function: Callable[[], Any]) -> Any:
        return in_thread(function).result(60)

    def start_take(self, limit: RateLimit, **how: Any) -> Future[Booking]:
        return in_thread(lambda: limit.take(**how))

    def rate_limits(self, service: Locksmith, pattern: str = "*") -> list[RateInfo]:
        return service.rate_limits(pattern)

    def api_says(self, limit: RateLimit, word: str, *what: Any, **more: Any) -> None:
        getattr(limit, word)(*what, **more)

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        return function

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        return in_thread(lambda: service.get_or_set(key, default, *args, **how))

    def start_get_many(self, service: Locksmith, keys: list[str], default: Any, *args: Any, **how: Any) -> Future[Any]:
        return in_thread(lambda: service.get_many_or_set(keys, default, *args, **how))

    def start_invalidate(self, service: Locksmith, key: str, *args: Any, **how: Any) -> Future[None]:
        return in_thread(lambda: service.invalidate(key, *args, **how))

    def context(self, service: Locksmith) -> Context:
        return service.runtime().threads()


class AsyncCaller(Caller):
    name = "async"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def _run(self, work: Any) -> Any:
        return self._start(work).result(60)

    def _start(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def release(self, lease: Lease) -> bool:
        return bool(self._run(lease.arelease()))

    def extend(self, lease: Lease, *how: Any, **more: Any) -> None:
        self._run(lease.aextend(*how, **more))

    def start_acquire(self, lock: Lock, **how: Any) -> Future[Lease | None]:
        return self._start(lock.aacquire(**how))

    def start_within(self, lock: Lock, body: Callable[[Lease], Any]) -> Future[Any]:
        async def run() -> Any:
            async with lock as lease:
                # The body may block; the loop must not.
                return await asyncio.to_thread(body, lease)

        return self._start(run())

    def info(self, service: Locksmith, key: str) -> LockInfo | None:
        found: LockInfo | None = self._run(service.ainfo(key))
        return found

    def locks(self, service: Locksmith, pattern: str = "*") -> list[LockInfo]:
        found: list[LockInfo] = self._run(service.alocks(pattern))
        return found

    def clear(self, service: Locksmith, *keys: str, **how: Any) -> list[LockInfo]:
        found: list[LockInfo] = self._run(service.aclear(*keys, **how))
        return found

    def call(self, function: Callable[[], Any]) -> Any:
        return self._run(function())

    def start_take(self, limit: RateLimit, **how: Any) -> Future[Booking]:
        return self._start(limit.atake(**how))

    def rate_limits(self, service: Locksmith, pattern: str = "*") -> list[RateInfo]:
        found: list[RateInfo] = self._run(service.arate_limits(pattern))
        return found

    def api_says(self, limit: RateLimit, word: str, *what: Any, **more: Any) -> None:
        twin = {"pause": "apause", "sync": "a_sync", "sync_from": "a_sync_from"}[word]
        self._run(getattr(limit, twin)(*what, **more))

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        async def populate() -> Any:
            return await asyncio.to_thread(function)

        return populate

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        return self._start(service.aget_or_set(key, default, *args, **how))

    def start_get_many(self, service: Locksmith, keys: list[str], default: Any, *args: Any, **how: Any) -> Future[Any]:
        async def populate(keys: list[str]) -> Any:
            return await asyncio.to_thread(default, keys)

        return self._start(service.aget_many_or_set(keys, populate, *args, **how))

    def start_invalidate(self, service: Locksmith, key: str, *args: Any, **how: Any) -> Future[None]:
        return self._start(service.ainvalidate(key, *args, **how))

    def context(self, service: Locksmith) -> Context:
        async def look() -> Context:
            return service.runtime().loop()

        found: Context = self._run(look())
        return found


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run `work` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread, ended as `asyncio.run` ends its own."""
    started: Future[asyncio.AbstractEventLoop] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        stops.append(stop)
        started.set_result(asyncio.get_running_loop())
        await stop.wait()

    stops: list[asyncio.Event] = []
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop = started.result(10)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stops[0].set)
        thread.join(10)
