"""The servers, the callers, and the deployments that the promises are held against."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache.backends import locmem
from django.test import override_settings

from django_locksmith import Locksmith
from django_locksmith.redis.connections import Cluster, OneServer
from django_locksmith.runtime.runtime import process
from tests.helpers import postgres as postgres_server
from tests.helpers import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Lease, Lock, LockInfo
    from django_locksmith.local.flights import LocalFlights
    from django_locksmith.runtime.contexts import Context
    from tests.helpers.postgres import Postgres
    from tests.helpers.servers import Server

# Who starts the tests in the background has Ctrl-C ignored, nohup a hang-up; and so have all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)

SINGLE = ["valkey", "redis-6.2", "system-redis"]
DEPLOYMENTS = [*SINGLE, "sentinel", "cluster"]


@dataclass
class Deployment:
    """Where the locks of a test live: what goes into CACHES, and the servers behind it."""

    kind: str
    cache: dict[str, Any]
    servers: list[Server] = field(default_factory=list)

    @property
    def server(self) -> Server:
        return self.servers[0]

    def keys(self) -> set[str]:
        """All keys on all servers."""
        found: set[str] = set()
        for server in self.servers:
            with server.client(encoding_errors="surrogateescape") as client:
                found.update(client.keys("*"))
        return found

    def left_behind(self) -> set[str]:
        """What is there that is not the index."""
        return {key for key in self.keys() if "<index>" not in key}

    def flush(self) -> None:
        for server in self.servers:
            with server.client() as client:
                client.flushall()

    def blocked(self) -> int:
        """How many clients are blocked, on all servers."""
        total = 0
        for server in self.servers:
            with server.client() as client:
                total += client.info("clients")["blocked_clients"]
        return total

    def turn_out(self) -> None:
        """Turn out all blocked clients with an error, as a server does that becomes a replica."""
        for server in self.servers:
            with server.client() as client:
                for each in client.client_list():
                    if "b" in each["flags"]:
                        client.client_unblock(each["id"], error=True)

    def commands(self) -> dict[str, int]:
        """The commands that all servers have run, also inside of scripts; without those that connections begin with."""
        total: dict[str, int] = {}
        for server in self.servers:
            with server.client() as client:
                for name, numbers in client.info("commandstats").items():
                    word = name.removeprefix("cmdstat_").split("|")[0]
                    if word not in ("hello", "client", "config", "info", "cluster", "command", "ping"):
                        total[word] = total.get(word, 0) + numbers["calls"]
        return total

    def forget_commands(self) -> None:
        for server in self.servers:
            with server.client() as client:
                client.config_resetstat()

    def flying(self) -> set[str]:
        """The flights that somebody leads."""
        return {key for key in self.keys() if key.startswith("__locksmith:<flight>")}

    def forget(self, key: str) -> None:
        """Delete a key, on whichever server it is."""
        for server in self.servers:
            with server.client() as client:
                if key in client.keys("*"):
                    client.delete(key)

    def news_outlive(self, ms: int) -> set[str]:
        """The news of flights that will be there for longer than that."""
        found = set()
        for server in self.servers:
            with server.client(encoding_errors="surrogateescape") as client:
                for key in client.keys("__locksmith:<news>*"):
                    if not 0 <= client.pttl(key.encode("utf-8", "surrogateescape")) <= ms:
                        found.add(key)
        return {key for key in found if key in self.keys()}  # one may have ended between the two looks


def alias(url: str, **options: Any) -> dict[str, Any]:
    """A CACHES entry for django-redis."""
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5, **options},
    }


@pytest.fixture(autouse=True)
def _no_cached_values() -> None:
    """What another test has put into a cache in memory is not there."""
    for values in locmem._caches.values():  # type: ignore[attr-defined]  # of all caches, whatever the settings in force
        values.clear()


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[str], Deployment]]:
    """Servers by kind, started at their first use and shared by all tests."""
    known: dict[str, Deployment] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Deployment:
            if kind not in known:
                known[kind] = stack.enter_context(_deployment(kind))
            return known[kind]

        yield start


@contextmanager
def _deployment(kind: str) -> Iterator[Deployment]:
    if kind == "cluster":
        with servers.cluster(servers.valkey_binary()) as nodes:
            factory = "tests.conftest.ClusterFactory"
            yield Deployment(kind, alias(nodes[0].url, CONNECTION_FACTORY=factory), nodes)
    elif kind == "sentinel":
        with servers.watched_by_sentinel(servers.valkey_binary()) as (primary, _, sentinel):
            cache = alias(
                "redis://primary/0",
                CLIENT_CLASS="django_redis.client.SentinelClient",
                CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
                SENTINELS=[("127.0.0.1", sentinel.port)],
            )
            yield Deployment(kind, cache, [primary])
    else:
        binary = {
            "valkey": servers.valkey_binary,
            "redis-6.2": servers.redis_6_binary,
            "system-redis": servers.system_binary,
        }[kind]()
        assert binary is not None
        with servers.running(binary) as server:
            yield Deployment(kind, alias(server.url), [server])


@contextmanager
def in_force(where: Deployment) -> Iterator[None]:
    """Settings that lead there; in the end the connections that services have kept are given up.

    Services of tests are many and short-lived, and each would keep some out of a pool that all of them share.
    """
    with override_settings(CACHES={"default": where.cache}, LOCKSMITH={"REDIS": "default"}):
        yield
    for runtime in list(process.runtimes):
        deployment, threads = runtime._deployment, runtime._threads
        nodes = [deployment._node] if isinstance(deployment, OneServer) else []
        if isinstance(deployment, Cluster):
            nodes = list(deployment._nodes.values())
        for node in nodes:
            while node._kept:
                node._pool.release(node._kept.pop())
        if threads is not None:
            for idle in threads.store.transport._idle.values():  # type: ignore[attr-defined]
                while idle:
                    idle.pop()[0].disconnect()


class ClusterFactory:
    """What a user writes to give django-redis a Redis Cluster."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> Any:
        from redis.cluster import RedisCluster

        return RedisCluster.from_url(url, socket_timeout=self.options["SOCKET_TIMEOUT"])


def available(kinds: list[str]) -> list[str]:
    """Those that this machine and this Python can run; .ci/run sees to it that it is all of them somewhere."""
    lacking = set()
    if servers.redis_6_binary() is None:
        lacking.add("redis-6.2")
    if servers.system_binary() is None:
        lacking.add("system-redis")
    return [kind for kind in kinds if kind not in lacking]


@pytest.fixture(params=available(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest, started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """Each kind of deployment in turn; settings lead to it, and it is empty."""
    where = started(request.param)
    where.flush()
    with in_force(where):
        yield where


@pytest.fixture
def valkey(started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """A single Valkey; settings lead to it, and it is empty."""
    where = started("valkey")
    where.flush()
    with in_force(where):
        yield where


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL, shared by all tests; each takes a database of its own."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Deployment]:
    """A Valkey that the test may pause, kill and restart; settings lead to it."""
    with servers.running(servers.valkey_binary()) as server:
        where = Deployment("valkey", alias(server.url, SOCKET_TIMEOUT=0.5, SOCKET_CONNECT_TIMEOUT=0.5), [server])
        with override_settings(CACHES={"default": where.cache}, LOCKSMITH={"REDIS": "default"}):
            yield where


class Origin:
    """Where values come from: counts its calls, and holds each of them until it is let go.

    The first call has the first outcome, and so on; the last outcome is that of all further calls. An exception is
    raised.
    """

    def __init__(self, *outcomes: Any, held: bool = False) -> None:
        self._outcomes = outcomes
        self._ways: dict[int, threading.Event] = {}
        self._all = threading.Event()
        self._mutex = threading.Lock()
        self.calls = 0
        self.inside = 0
        self.most_at_once = 0
        self.at: list[float] = []
        if not held:
            self.let_all_go()

    def _way(self, number: int) -> threading.Event:
        with self._mutex:
            if self._all.is_set():
                return self._all
            return self._ways.setdefault(number, threading.Event())

    def let_go(self, number: int) -> None:
        """Let the call of this number go on, whether it has begun or not."""
        self._way(number).set()

    def let_all_go(self) -> None:
        with self._mutex:
            self._all.set()
            for way in self._ways.values():
                way.set()

    def __call__(self) -> Any:
        with self._mutex:
            self.calls = number = self.calls + 1
            self.at.append(time.monotonic())
            self.inside += 1
            self.most_at_once = max(self.most_at_once, self.inside)
        try:
            assert self._way(number).wait(30), "nobody let it go"
        finally:
            with self._mutex:
                self.inside -= 1
        outcome = self._outcomes[min(number, len(self._outcomes)) - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def begun(self, number: int = 1) -> None:
        """Return when it has been called so many times."""
        servers.poll(lambda: self.calls >= number)


class TaskOrigin:
    """As `Origin`, for the tasks of one loop: all calls are held until `held` is set."""

    def __init__(self, value: Any = "value") -> None:
        self._value = value
        self.calls = 0
        self.called = asyncio.Semaphore(0)
        self.held = asyncio.Event()

    async def __call__(self) -> Any:
        self.calls += 1
        self.called.release()
        await self.held.wait()
        return self._value

    async def begun(self) -> None:
        """Return when it has been called once more."""
        await asyncio.wait_for(self.called.acquire(), 10)


def local_followers_of(local_flights: LocalFlights) -> int:
    """How many wait for the outcomes of these flights."""
    return sum(len(flight._events) for flight in list(local_flights._flights.values()))


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

    # ---- single flight

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """A function that may block, as `default` for this kind of caller."""
        raise NotImplementedError

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        """Begin to get or set a value, in a thread or task of its own."""
        raise NotImplementedError

    def get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Any:
        return self.start_get(service, key, default, *args, **how).result(60)

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

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        return function

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        return in_thread(lambda: service.get_or_set(key, default, *args, **how))

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

    def populate(self, function: Callable[[], Any]) -> Callable[[], Any]:
        async def populate() -> Any:
            return await asyncio.to_thread(function)

        return populate

    def start_get(self, service: Locksmith, key: str, default: Any, *args: Any, **how: Any) -> Future[Any]:
        return self._start(service.aget_or_set(key, default, *args, **how))

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


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Threads and tasks in turn."""
    if request.param == "sync":
        yield SyncCaller()
    else:
        with running_loop() as loop:
            yield AsyncCaller(loop)


@pytest.fixture
def service() -> Locksmith:
    """A service of the settings in force."""
    return Locksmith()
