"""What holds when the network or Redis fails: replies lost, servers silent, stopped, restarted, out of memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from django.test import override_settings

from django_locksmith import LockBusy, LockLost, Locksmith, LockUnavailable
from django_locksmith.redis.lua import ACQUIRE, RELEASE
from tests.helpers import servers
from tests.helpers.callers import in_thread
from tests.helpers.deployments import SOCKET_TIMEOUT, Deployment, alias
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.callers import Caller
    from tests.helpers.proxy import Proxy


@pytest.fixture
def proxy(valkey: Deployment) -> Iterator[Proxy]:
    """A proxy before the server; `near` leads through it."""
    with proxy_to(valkey.server.port) as between:
        yield between


@pytest.fixture
def near(proxy: Proxy) -> Iterator[Locksmith]:
    """A service that reaches Redis only through the proxy."""
    cache = alias(proxy.url, SOCKET_TIMEOUT=SOCKET_TIMEOUT, SOCKET_CONNECT_TIMEOUT=SOCKET_TIMEOUT)
    far = alias(f"redis://127.0.0.1:{proxy._target}/0")
    with override_settings(CACHES={"default": far, "near": cache}):
        yield Locksmith(redis="near")


def sends(script: Any) -> Any:
    return lambda request: script.digest in request


@pytest.mark.parametrize("how", [{"blocking": False}, {"blocking_timeout": 5}])
def test_lost_reply_to_an_acquire(
    valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller, how: dict[str, Any]
) -> None:
    """A caller whose grant was lost on the way asks again by the same token and gets the lock, not "busy"."""
    caller.within(near("warm"), lambda lease: None)
    proxy.cut_reply_to(sends(ACQUIRE))
    lease = caller.acquire(near("a"), **how)
    assert proxy.cuts == 1
    assert lease is not None
    caller.release(lease)
    assert not valkey.left_behind()


def test_lost_reply_to_a_release(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A release whose reply was lost is asked for again, and its "not held" is read as done."""
    lease = caller.acquire(near("a"))
    assert lease is not None
    proxy.cut_reply_to(sends(RELEASE))
    assert caller.release(lease) is True
    assert proxy.cuts == 1
    assert not valkey.left_behind()


def test_lost_reply_to_a_claim(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A waiter whose connection dies in the moment of the grant finds out that it has the lock."""
    far = Locksmith()
    with far("a") as lease:
        waiter = caller.start_acquire(near("a", blocking_timeout=20))
        poll(lambda: (info := far.info("a")) and info.waiters == 1)
        poll(lambda: blocked_clients(valkey) == 1)
        proxy.answering = False
        assert lease.held
    poll(lambda: (info := far.info("a")) and info.holder and info.fence > lease.fence)
    proxy.answering = True
    following = waiter.result(20)
    assert following is not None
    caller.release(following)
    assert not valkey.left_behind()


def blocked_clients(where: Deployment) -> int:
    with where.server.client() as client:
        return int(client.info("clients")["blocked_clients"])


def test_silent_server_cannot_hold_a_caller(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """Against a server that takes requests and never answers, a wait of 1 s ends within 1 s and a socket timeout."""
    caller.within(service("warm"), lambda lease: None)
    own_server.server.pause()
    with stopwatch() as took:
        with pytest.raises(LockUnavailable):
            caller.acquire(service("a", blocking_timeout=1))
        assert took() < 1 + SOCKET_TIMEOUT + 0.2
    own_server.server.resume()


def test_silent_server_undoes_what_it_finds_when_it_wakes(
    own_server: Deployment, service: Locksmith, caller: Caller
) -> None:
    """A request that sat in a silent server is followed by its own undoing: it leaves nothing when the server wakes."""
    caller.within(service("warm"), lambda lease: None)
    own_server.server.pause()
    with pytest.raises(LockUnavailable):
        caller.acquire(service("a", blocking=False))
    own_server.server.resume()
    with own_server.server.client() as client:
        poll(lambda: client.info("commandstats").get("cmdstat_eval", {}).get("calls", 0))
        assert not own_server.left_behind()


def test_release_that_got_no_answer(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """A lease whose release got no answer is no longer believed in, for it may be given back; it can be tried again."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    own_server.server.pause()
    with pytest.raises(LockUnavailable):
        caller.release(lease)
    assert not lease.held
    own_server.server.resume()
    poll(lambda: not own_server.left_behind())  # the request was there, and is acted on now
    following = caller.acquire(service("a"))
    assert following is not None
    assert following.held
    assert not lease.held
    assert caller.release(lease) is True  # the lost reply is resolved: it was given back
    assert following.held
    caller.release(following)


def test_undo_needs_no_script(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """What undoes a request in a silent server works although the server has forgotten the scripts meanwhile."""
    caller.within(service("warm"), lambda lease: None)
    with own_server.server.client() as client:
        client.script_flush()
        client.script_load(ACQUIRE.text.decode())
    own_server.server.pause()
    with pytest.raises(LockUnavailable):
        caller.acquire(service("a", blocking=False))
    own_server.server.resume()
    with own_server.server.client() as client:
        poll(lambda: client.info("commandstats").get("cmdstat_eval", {}).get("calls", 0))
    assert not own_server.left_behind()


def test_server_that_is_down(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """When nobody listens, a caller who does not wait is told so at once, and it is not called busy."""
    own_server.server.kill()
    with stopwatch() as took:
        with pytest.raises(LockUnavailable) as caught:
            caller.acquire(service("a", blocking=False))
        assert took() < SOCKET_TIMEOUT
    assert isinstance(caught.value.__cause__, (redis.RedisError, OSError))
    with pytest.raises(LockUnavailable):
        caller.acquire(service("a", blocking_timeout=0.3))
    with pytest.raises(LockUnavailable):
        caller.info(service, "a")


def test_waiters_live_through_a_restart(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """A waiter goes on waiting while Redis restarts, and is served by the new one."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    waiter = caller.start_acquire(service("a", blocking_timeout=20))
    poll(lambda: blocked_clients(own_server) == 1)
    own_server.server.kill()
    own_server.server.start()
    following = waiter.result(20)
    assert following is not None
    assert following.fence > lease.fence
    with pytest.raises(LockLost):
        caller.release(lease)
    caller.release(following)


def test_fences_grow_over_any_loss(own_server: Deployment, service: Locksmith, caller: Caller) -> None:
    """Fences grow over FLUSHALL, over a restart without persistence, and over a server clock set back."""
    fences: list[int] = []

    def grant() -> None:
        caller.within(service("a", blocking_timeout=5), lambda lease: fences.append(lease.fence))

    grant()
    own_server.flush()
    grant()
    own_server.server.kill()
    own_server.server.start()
    grant()
    # As if the last grant had been made by a clock that was an hour ahead.
    ahead = fences[-1] + 3_600_000_000
    with own_server.server.client() as client:
        client.zadd("__locksmith:<index>", {"": ahead})
    fences.append(ahead)
    grant()
    grant()
    assert fences == sorted(set(fences))


def test_one_index_with_the_last_fence(valkey: Deployment, service: Locksmith) -> None:
    """A thousand locks, used and released, leave the index behind, with the last fence in it, and nothing else."""
    for number in range(1000):
        with service(f"key {number}"):
            pass
    with valkey.server.client() as client:
        assert valkey.keys() == {"__locksmith:<index>"}
        assert client.zrange("__locksmith:<index>", 0, -1) == [""]
    leases = [service(f"dead {number}", timeout=0.05).acquire() for number in range(100)]
    assert all(leases)
    poll(lambda: not valkey.left_behind())
    assert valkey.keys() == {"__locksmith:<index>"}
    with valkey.server.client() as client:

        def swept() -> bool:
            with service("living"):
                return client.zcard("__locksmith:<index>") == 2

        poll(swept, every=0)
        assert client.zrange("__locksmith:<index>", 0, -1) == [""]


@pytest.mark.parametrize("delay", [0.3, 0.6, 1.2])
def test_slow_replies_shorten_the_lease(valkey: Deployment, proxy: Proxy, caller: Caller, delay: float) -> None:
    """However long the reply took, a holder never believes longer in its lease than the server does."""
    with override_settings(CACHES={"near": alias(proxy.url, SOCKET_TIMEOUT=10)}):
        near = Locksmith(redis="near")
        caller.within(near("warm"), lambda lease: None)
        proxy.delay = delay
        lease = caller.acquire(near("a", timeout=10))
        assert lease is not None
        with valkey.server.client() as client:
            left = client.pttl("__locksmith:a")
        assert 0 < lease.deadline <= time.monotonic() + left / 1000
        proxy.delay = 0
        assert caller.release(lease)


def test_grant_that_came_too_late(valkey: Deployment, proxy: Proxy, caller: Caller) -> None:
    """A grant of which nothing is left when it arrives is not handed out as a lease."""
    with override_settings(CACHES={"near": alias(proxy.url, SOCKET_TIMEOUT=10)}):
        near = Locksmith(redis="near")
        caller.within(near("warm"), lambda lease: None)
        proxy.delay = 0.3
        with pytest.raises(LockUnavailable, match="longer than the lease"):
            caller.acquire(near("a", timeout=0.1, blocking_timeout=1))
        proxy.delay = 0
    poll(lambda: not valkey.left_behind())


@pytest.mark.parametrize("size", [1, 2, 10])
def test_full_pool(valkey: Deployment, caller: Caller, size: int) -> None:
    """With every connection of the pool in other hands, holders still release, and waiters still wait."""
    cache = alias(f"{valkey.server.url}?max_connections={size}")
    with override_settings(CACHES={"default": cache}):
        service = Locksmith()
        lease = caller.acquire(service("a"))
        assert lease is not None
        waiters = [caller.start_acquire(service("a")), caller.start_acquire(service("a"))]
        poll(lambda: (info := caller.info(service, "a")) and info.waiters == 1)
        with drained(size):
            assert caller.release(lease)
            first = poll(lambda: next((waiter for waiter in waiters if waiter.done()), None))
            caller.release(first.result())
            waiters.remove(first)
            caller.release(waiters[0].result(10))
    assert not valkey.left_behind()


class drained:  # noqa: N801  # reads as what it is: with drained(pool)
    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> None:
        from django_redis import get_redis_connection

        self._pool = get_redis_connection("default").connection_pool
        self._taken: list[Any] = []
        while True:
            try:
                self._taken.append(self._pool.make_connection())
            except redis.ConnectionError:  # noqa: PERF203  # how the pool says that it is empty
                break
        self._idle, self._pool._available_connections = self._pool._available_connections, []

    def __exit__(self, *error: object) -> None:
        self._pool._available_connections = self._idle


def test_refusals_are_neither_busy_nor_held(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """A key that holds something else, a server without memory: LockUnavailable, at once, with the culprit named."""
    with valkey.server.client() as client:
        client.lpush("__locksmith:a", "not a lock")
        with stopwatch() as took:
            with pytest.raises(LockUnavailable, match="'__locksmith:a' holds something that is no lock"):
                caller.acquire(service("a"))
            client.delete("__locksmith:a")
            client.config_set("maxmemory", 1)
            try:
                with pytest.raises(LockUnavailable, match="maxmemory"):
                    caller.acquire(service("b"))
            finally:
                client.config_set("maxmemory", 0)
            assert took() < 2
    assert not valkey.left_behind()


def test_lock_of_other_software(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """A lock that other software set by SET NX is respected, also when it never ends, and the error says so."""
    with valkey.server.client() as client:
        client.set("__locksmith:a", "theirs")
        with pytest.raises(LockBusy) as caught:
            caller.within(service("a", blocking_timeout=0.1), lambda lease: None)
        assert "held by an unknown client" in caught.value.details
        assert caught.value.retry_after is None
        client.delete("__locksmith:a")


def test_key_deleted_by_hand(valkey: Deployment, service: Locksmith, caller: Caller) -> None:
    """When the key vanishes under its holder, the waiter gets the lock by its next look; the holder learns of it."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    waiter = caller.start_acquire(service("a"))
    poll(lambda: blocked_clients(valkey) == 1)
    with stopwatch() as took:
        valkey.flush()
        following = waiter.result(10)
        assert took() < 2
    assert following is not None
    with pytest.raises(LockLost):
        caller.release(lease)
    caller.release(following)


def test_replicas(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """With MIN_REPLICAS, a grant counts only when so many replicas have it; else it is taken back and reported."""
    binary = servers.valkey_binary()
    with (
        servers.running(binary) as primary,
        servers.running(binary, "--replicaof", "127.0.0.1", str(primary.port)) as replica,
        override_settings(CACHES={"default": alias(primary.url)}, LOCKSMITH={"REDIS": "default", "MIN_REPLICAS": 1}),
    ):
        service = Locksmith()
        with primary.client() as client:
            poll(lambda: client.set("other", 1) and client.wait(1, 100), within=20)
        within = "django_locksmith.redis.lock_store._REPLICAS_WITHIN"
        monkeypatch.setattr(within, 10)
        lease = caller.acquire(service("a"))
        assert lease is not None
        with replica.client() as client:
            assert client.get("__locksmith:a") == lease.token
        waiter = caller.start_acquire(service("a"))
        poll(lambda: (info := caller.info(service, "a")) and info.waiters == 1)
        caller.release(lease)
        following = waiter.result(10)
        assert following is not None
        caller.release(following)
        replica.kill()
        monkeypatch.setattr(within, 1)
        with pytest.raises(LockUnavailable, match="only 0 of the 1 replicas"):
            caller.acquire(service("a"))
        with primary.client() as client:
            assert not client.exists("__locksmith:a")


def test_sentinel_failover(caller: Caller) -> None:
    """When the primary dies, waiters and newcomers go on at the one that Sentinel promotes."""
    with servers.watched_by_sentinel(servers.valkey_binary(), f"failing-{caller.name}", 500) as (primary, _, sentinel):
        cache = alias(
            f"redis://failing-{caller.name}/0",  # django-redis keeps pools by URL
            CLIENT_CLASS="django_redis.client.SentinelClient",
            CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
            SENTINELS=[("127.0.0.1", sentinel.port)],
            SOCKET_TIMEOUT=1,
        )
        with override_settings(CACHES={"default": cache}, LOCKSMITH={"REDIS": "default"}):
            service = Locksmith()
            lease = caller.acquire(service("a", timeout=3))
            assert lease is not None
            waiter = caller.start_acquire(service("a", blocking_timeout=30))
            with primary.client() as client:
                poll(lambda: client.info("clients")["blocked_clients"] == 1)
            primary.kill()
            following = waiter.result(40)
            assert following is not None
            assert following.fence > lease.fence
            caller.release(following)


def test_turned_out_of_the_queue(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Waiters whom the server turns out, as it does when it becomes a replica, queue up again."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    waiter = caller.start_acquire(service("a"))
    poll(lambda: deployment.blocked() == 1)
    deployment.turn_out()
    poll(lambda: deployment.blocked() == 1)
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    caller.release(following)


@pytest.mark.parametrize("named_by", ["url", "alias"])
def test_cluster_that_is_down_at_first(started: Any, caller: Caller, named_by: str) -> None:
    """A cluster that is down when it is first wanted is unavailable, no worse; values are computed; later it serves."""
    port = servers.free_port()
    down, up = f"redis+cluster://127.0.0.1:{port}", started("cluster").server
    cache = alias(down.replace("+cluster", ""), CONNECTION_FACTORY="tests.helpers.deployments.ClusterFactory")
    values = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": f"{port}"}
    with override_settings(CACHES={"default": values, "locks": cache}):
        service = Locksmith(redis=down if named_by == "url" else "locks")
        with pytest.raises(LockUnavailable):
            caller.acquire(service("a", blocking=False))
        with pytest.raises(LockUnavailable):
            caller.locks(service)
        assert caller.get(service, "a", caller.populate(lambda: 1), 60) == 1
        with proxy_to(up.port, port):  # the node that was named comes up, and knows the others
            lease = caller.acquire(service("a", blocking_timeout=10))
            assert lease is not None
            caller.release(lease)


def test_many_requests_at_once(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of tasks on different keys shares a bounded number of connections, and every one is served."""
    import asyncio

    # One grant in 1,024 has a thread look for locks that are over, by a connection of its own.
    monkeypatch.setattr("django_locksmith.redis.lock_store._SWEEP_EVERY", 10**18)

    def connections() -> int:
        with valkey.server.client() as client:
            return sum(each["name"] == "burst" for each in client.client_list())

    async def burst() -> int:
        service = Locksmith(redis=f"{valkey.server.url}?client_name=burst")

        async def one(number: int) -> None:
            async with service(f"key {number}"):
                if number % 50 == 0:
                    seen.append(await asyncio.to_thread(connections))

        await asyncio.gather(*(one(number) for number in range(300)))
        return max(seen)

    seen: list[int] = []
    assert 1 <= in_thread(lambda: asyncio.run(burst())).result(30) <= 50
    assert not valkey.left_behind()
