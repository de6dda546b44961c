"""Requests that come late: after a timeout a client gives up, but what it has sent may still be on its way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import LockLost, Locksmith, LockUnavailable
from django_locksmith.redis.lua import ACQUIRE
from django_locksmith.redis.node import IDLE
from django_locksmith.redis.server_clock import ServerClock
from tests.helpers.callers import in_thread
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment
    from tests.helpers.proxy import Proxy

T = 0.4
"""Socket timeout, seconds."""


@pytest.fixture
def proxy(valkey: Deployment) -> Iterator[Proxy]:
    with proxy_to(valkey.server.port) as proxy:
        yield proxy


@pytest.fixture
def near(proxy: Proxy, caller: Caller) -> Locksmith:
    """A service by way of the proxy, whose server's clock it knows."""
    service = Locksmith(redis=f"{proxy.url}?socket_timeout={T}&socket_connect_timeout={T}", timeout=30)
    caller.within(service("warm"), lambda lease: lease.extend(30) if caller.name == "sync" else None)
    return service


def holder(valkey: Deployment, key: str = "a") -> str | None:
    with valkey.server.client() as client:
        found: str | None = client.get(f"__locksmith:{key}")
        return found


def arrived(valkey: Deployment, proxy: Proxy) -> None:
    """All that was kept back arrives, and the server has dealt with it."""
    with valkey.server.client() as client:
        before = client.info("stats")["total_commands_processed"]
        proxy.deliver()
        poll(lambda: client.info("stats")["total_commands_processed"] > before + 1)


def test_late_request_does_nothing_to_its_own_retry(
    valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller
) -> None:
    """A request that was given up, and repeated with success, changes nothing when it arrives after all."""
    proxy.keep_back(lambda data: ACQUIRE.digest in data)
    lease = caller.acquire(near("a", blocking_timeout=20))
    assert lease is not None
    arrived(valkey, proxy)
    assert holder(valkey) == lease.token
    assert lease.held
    assert caller.acquire(Locksmith()("a"), blocking=False) is None
    caller.release(lease)
    assert not valkey.left_behind()


def test_late_request_makes_no_holder(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A request whose caller was told `LockUnavailable` grants nothing when it arrives: nobody would release it."""
    proxy.keep_back(lambda data: ACQUIRE.digest in data)
    with pytest.raises(LockUnavailable):
        caller.acquire(near("a"), blocking=False)
    arrived(valkey, proxy)
    assert holder(valkey) is None


def test_late_probe_leaves_the_lock_alone(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A waiter's probe that comes late does not free, or take, what the waiter has got meanwhile."""
    first = caller.acquire(Locksmith()("a"))
    assert first is not None
    proxy.keep_back(lambda data: b"probe" in data)
    waiter = caller.start_acquire(near("a", blocking_timeout=20))
    poll(lambda: proxy.kept_back)
    caller.release(first)
    lease = waiter.result(20)
    assert lease is not None
    arrived(valkey, proxy)
    assert holder(valkey) == lease.token
    caller.release(lease)
    assert not valkey.left_behind()


def test_grant_without_a_reply_is_given_back(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A lock that was granted to a caller who could not hear of it is given back in the background."""
    proxy.keep_back_reply_to(lambda data: ACQUIRE.digest in data)
    with pytest.raises(LockUnavailable):
        caller.acquire(near("a"), blocking=False)
    poll(lambda: holder(valkey) is None)


def test_grant_without_a_reply_by_a_server_that_had_lost_its_scripts(
    valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller
) -> None:
    """So it is where the scripts had to be sent again."""
    with valkey.server.client() as client:
        client.script_flush()
    proxy.keep_back_reply_to(lambda data: b"$4\r\nEVAL\r\n" in data)
    with pytest.raises(LockUnavailable):
        caller.acquire(near("a"), blocking=False)
    poll(lambda: holder(valkey) is None)


def test_late_shortening(valkey: Deployment, proxy: Proxy, near: Locksmith, caller: Caller) -> None:
    """A shorter lease that was asked for in vain does not come into force after a longer one was granted."""
    lease = caller.acquire(near("a"))
    assert lease is not None
    proxy.keep_back(lambda data: b"\r\nset\r\n" in data)
    with pytest.raises(LockUnavailable):
        caller.extend(lease, 20, replace_ttl=True)
    assert lease.remaining < 20
    caller.extend(lease, 60, replace_ttl=True)
    arrived(valkey, proxy)
    with valkey.server.client() as client:
        assert client.pttl("__locksmith:a") > 50_000
    assert lease.remaining > 50


def test_late_reply_to_a_renewal(valkey: Deployment, proxy: Proxy, caller: Caller) -> None:
    """A renewal that was answered late does not undo that the holder has shortened its lease meanwhile."""
    near = Locksmith(redis=proxy.url, timeout=6, renew=True)
    proxy.keep_back_reply_to(lambda data: b"$5\r\nrenew\r\n" in data and b"<queue>" not in data)
    lease = caller.acquire(near("a"))
    assert lease is not None
    poll(lambda: proxy.kept_back)
    caller.extend(lease, 1, replace_ttl=True)
    assert lease.remaining < 1
    proxy.deliver()
    following = caller.acquire(Locksmith()("a", blocking_timeout=20))
    assert following is not None
    assert not lease.held


def test_first_request_of_all(valkey: Deployment, proxy: Proxy, caller: Caller) -> None:
    """Also the first request to a server, whose clock is not known, grants nothing when it comes late."""
    near = Locksmith(redis=f"{proxy.url}?socket_timeout={T}&socket_connect_timeout={T}", timeout=30)
    proxy.keep_back(lambda data: b"EVALSHA" in data)
    with pytest.raises(LockUnavailable):
        caller.acquire(near("a"), blocking=False)
    arrived(valkey, proxy)
    assert holder(valkey) is None


def test_server_clock_that_was_set(valkey: Deployment, near: Locksmith, caller: Caller) -> None:
    """A server whose clock has been set is asked for its time again, and then for the lock."""
    node = near.runtime().deployment().nodes()[0]
    assert node.clock._known is not None
    offset, heard = node.clock._known
    node.clock._known = offset - 3600, heard
    lease = caller.acquire(near("a"), blocking=False)
    assert lease is not None
    caller.release(lease)


# ---- a release that is reported


def test_restart_is_a_loss(own_server: Deployment, caller: Caller) -> None:
    """Who releases what a server has forgotten by a restart is told so, though its connection broke, too."""
    first, second = Locksmith(timeout=30), Locksmith(timeout=30)
    lease = caller.acquire(first("a"))
    assert lease is not None
    own_server.server.kill()
    own_server.server.start()
    other = caller.acquire(second("a"))
    assert other is not None
    with pytest.raises(LockLost):
        caller.release(lease)
    assert other.held
    assert caller.release(other)


def test_cleared_and_cut(valkey: Deployment, caller: Caller) -> None:
    """The same where the lock was cleared, and an idle connection closed."""
    lease = caller.acquire(Locksmith()("a", timeout=30))
    assert lease is not None
    with valkey.server.client() as client:
        client.delete("__locksmith:a")
        client.client_kill_filter(_type="normal", skipme=True)
        killed = time.monotonic()
        poll(lambda: time.monotonic() - killed > 2 * IDLE)
    with pytest.raises(LockLost):
        caller.release(lease)


# ---- the clock


def heard(first: tuple[float, float, float], *replies: tuple[float, float, float]) -> ServerClock:
    """A clock by what TIME has answered, and other replies after it."""
    clock = ServerClock()
    sent, received, server_time = first
    clock.read(sent, received, [int(server_time), round(server_time % 1 * 1e6)])
    for reply in replies:
        clock.heard(*reply)
    return clock


@pytest.mark.parametrize(
    ("replies", "at", "most"),
    [
        ([(10, 10.001, 1000.0)], 10.001, 1000.0),
        ([(10, 14, 1003.9)], 14, 1003.9),  # a slow reply: it may have looked at its clock at the end
        ([(10, 14, 1003.9), (15, 15.001, 1005.0)], 15.001, 1005.0),  # a better one
        ([(10, 10.001, 1000.0), (20, 20.001, 900.0)], 20.001, 900.001),  # set back
        ([(10, 10.001, 1000.0), (20, 20.001, 2000.0)], 20.001, 2000.0),  # set forward
    ],
)
def test_server_time_is_never_too_late(replies: Any, at: float, most: float) -> None:
    """What we take for the server's time is what it has reached, at the most, and little less."""
    us = heard(*replies).us_at(at)
    assert us is not None
    assert most - 0.01 <= us / 1e6 <= most


def test_a_vague_reply_tells_no_time() -> None:
    """What was under way for long is not all we go by, as after a stop: requests that go by it would be too late."""
    clock = heard((10, 10.001, 1000.0))
    clock.forget()
    clock.heard(11, 23, 1001.0)
    assert clock.us_at(23) is None, "it is asked"
    clock.heard(23, 23.001, 1013.0)
    assert clock.us_at(24) is not None


def test_server_time_grows_old() -> None:
    """With the time, clocks part; and after ten minutes, the server is asked again."""
    clock = heard((10, 10, 1000.0))
    assert (clock.us_at(110) or 0) / 1e6 == pytest.approx(1100 - 0.05)
    assert clock.us_at(10 + 601) is None
    clock.forget()
    assert clock.us_at(10) is None


@pytest.mark.usefixtures("no_probes")
def test_waiter_that_counts_as_dead_is_passed_over(valkey: Deployment, caller: Caller) -> None:
    """A waiter that was not heard of for long, while its connection stands, is not handed the lock: the next one is."""
    service = Locksmith(timeout=30)
    holder = caller.acquire(service("a"))
    assert holder is not None
    stopped = caller.start_acquire(Locksmith(timeout=30)("a", blocking_timeout=60))
    with valkey.server.client() as client:
        poll(lambda: client.zcard("__locksmith:<queue>a") == 1)
        poll(lambda: client.info("clients")["blocked_clients"] == 1)
        first = client.zrange("__locksmith:<queue>a", 0, -1)[0]
        # Eleven seconds without a sign of it.
        client.zincrby("__locksmith:<queue>a", -21_000, first)
        following = caller.start_acquire(Locksmith(timeout=30)("a", blocking_timeout=60))
        poll(lambda: client.info("clients")["blocked_clients"] == 2)
        caller.release(holder)
        lease = following.result(10)
        assert lease is not None
        assert client.get("__locksmith:a") == lease.token
        # It was only slow: it queues up again, and has its turn.
        caller.release(lease)
    again = stopped.result(30)
    assert again is not None
    caller.release(again)


def test_threads_that_release_one_lease(valkey: Deployment) -> None:
    """Of two threads that release one lease at once, one does, and the other hears that it was released before."""
    service = Locksmith(timeout=30)
    for _ in range(50):
        lease = service("a").acquire()
        assert lease is not None
        both = [in_thread(lease.release) for _ in range(2)]
        assert sorted(each.result(10) for each in both) == [False, True]
