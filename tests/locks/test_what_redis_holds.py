"""Whatever stands in Redis under the names of locks, it does no more harm than to the one lock that it belongs to."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import LockBusy, Locksmith, LockUnavailable, locksmith
from django_locksmith.redis import lock_store
from django_locksmith.redis.key_names import names_in_cluster
from django_locksmith.tokens import HANDED_OVER, looks_like_a_token, read_holder
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

P = "__locksmith:"
OURS = f"{'0' * 24}-1|host|%s|thread|%s|label"
INDEX = f"{P}<index>"


def index(client: Any, **scores: float) -> None:
    client.zadd(INDEX, {name and f"{P}{name}": score for name, score in scores.items()})


# ---- other values under a lock's key

NO_LOCKS: dict[str, Callable[[Any], Any]] = {
    "a list": lambda client: client.rpush(f"{P}k", "x"),
    "a pickle, as of a cache": lambda client: client.set(f"{P}k", pickle.dumps("secret")),
    "JSON, as of a cache": lambda client: client.set(f"{P}k", '{"secret": 1}'),
    "no text": lambda client: client.set(f"{P}k", b"\xff\xfe secret \x00"),
    "megabytes": lambda client: client.set(f"{P}k", "secret" * 1_000_000),
}


@pytest.mark.parametrize("what", NO_LOCKS)
def test_what_is_no_lock(valkey: Deployment, caller: Caller, what: str) -> None:
    """It is neither shown nor cleared; the error names its key, and all other locks are listed."""
    service = Locksmith()
    lease = caller.acquire(service("neighbour"))
    assert lease is not None
    with valkey.server.client() as client:
        NO_LOCKS[what](client)
        if what == "a list":
            client.zadd(INDEX, {f"{P}k": 1.7e15})
        for ask in (lambda: caller.info(service, "k"), lambda: caller.clear(service, "k")):
            with pytest.raises(LockUnavailable, match="'__locksmith:k' holds something that is no lock") as caught:
                ask()
            assert "secret" not in str(caught.value)
        assert [info.key for info in caller.locks(service)] == ["neighbour"]
        assert [info.key for info in caller.clear(service, pattern="*")] == ["neighbour"]
        assert client.exists(f"{P}k")
    try:
        assert caller.acquire(service("k"), blocking=False) is None
        caller.within(service("k", blocking_timeout=0.01), lambda lease: None)
    except (LockBusy, LockUnavailable) as error:
        assert "secret" not in str(error)  # noqa: PT017  # which of the two, the kind of value decides


def test_cache_values_under_the_prefix(valkey: Deployment) -> None:
    """With the prefix of a cache, its values stay its own."""
    service = Locksmith(prefix=":1:")
    with valkey.server.client() as client:
        client.set(":1:page", pickle.dumps("secret"))
        with service("report"):
            assert [info.key for info in service.locks()] == ["report"]
            with pytest.raises(LockUnavailable, match="no lock"):
                service.info("page")
        assert client.exists(":1:page")


def test_empty_token(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """An empty value is a lock of other software: it is seen, waited for, and can be cleared."""
    with valkey.server.client() as client:
        client.set(f"{P}k", "", px=60_000)
    assert caller.acquire(service("k"), blocking=False) is None
    assert caller.info(service, "k") is not None
    assert len(caller.clear(service, "k")) == 1
    assert caller.info(service, "k") is None


@pytest.mark.parametrize("numbers", [("9" * 5000, "1"), ("1", "9" * 400), ("1", "9" * 5000), ("x", "1")])
def test_tokens_with_monstrous_numbers(valkey: Deployment, caller: Caller, service: Locksmith, numbers: Any) -> None:
    """A token that nobody of us can have made is another software's: shown as such, and cleared."""
    with valkey.server.client() as client:
        client.set(f"{P}k", OURS % numbers, px=60_000)
        index(client, k=1.7e15)
    (info,) = caller.locks(service)
    assert info.holder is not None
    assert info.holder.host == ""
    assert len(caller.clear(service, "k")) == 1


def test_our_tokens_look_like_tokens() -> None:
    """What we make is known again; what a cache stores is not taken for it."""
    for token in (OURS % (1, 1), HANDED_OVER, "", "0b7e3f", "my host:7", "grüße"):
        assert looks_like_a_token(token)
    assert (read_holder(OURS % (7, 1000)) or object()).pid == 7  # type: ignore[union-attr]  # it is one
    for value in ('{"a": 1}', "[1]", '"text"', "\udc80\x05", "x" * 30_000):
        assert not looks_like_a_token(value)


@pytest.mark.parametrize("token", ['{"a": 1}', "x" * 30_000, "\udcff"])
def test_tokens_that_would_not_be_known_again(valkey: Deployment, token: str) -> None:
    """Whoever brings a token of their own hears at once if it would not be shown as a lock."""
    with pytest.raises(ValueError, match="token must have"):
        locksmith("a").acquire(token=token)


# ---- what belongs to a lock


@pytest.mark.parametrize("left", [None, 3_600_000])
def test_mark_that_nobody_of_us_left(valkey: Deployment, caller: Caller, left: int | None) -> None:
    """A mark of a hand-over that does not end, or not soon, is nobody's: the next one takes the lock."""
    with valkey.server.client() as client:
        client.set(f"{P}k", HANDED_OVER, px=left)
    lease = caller.acquire(Locksmith()("k", blocking_timeout=5))
    assert lease is not None
    caller.release(lease)


@pytest.mark.usefixtures("no_probes")
def test_batons_of_a_held_lock(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Who is woken for nothing takes away what woke it, and waits on; it does not spin."""
    lease = caller.acquire(service("k"))
    assert lease is not None
    with valkey.server.client() as client:
        client.rpush(f"{P}<baton>k", *range(1000))
        valkey.forget_commands()
        waiter = caller.start_acquire(Locksmith()("k", blocking_timeout=20))
        poll(lambda: client.info("clients")["blocked_clients"] == 1)
        assert valkey.commands().get("blpop", 0) <= 3
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    caller.release(following)


def test_waiter_that_is_alive_for_ever(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """An entry of the queue that no waiter can have made keeps nobody waiting: a release frees the lock at once."""
    lease = caller.acquire(service("k"))
    assert lease is not None
    with valkey.server.client() as client:
        client.zadd(f"{P}<queue>k", {"ghost": float("inf")})
    caller.release(lease)
    following = caller.acquire(service("k"), blocking=False)
    assert following is not None
    caller.release(following)
    assert not valkey.left_behind()


@pytest.mark.parametrize("score", [float("inf"), 1e300, 1e18, 2.0**53])
def test_monstrous_fences(valkey: Deployment, caller: Caller, service: Locksmith, score: float) -> None:
    """A last fence that no clock can have said is forgotten: fences are integers, and go on growing."""
    with valkey.server.client() as client:
        client.zadd(INDEX, {"": score, f"{P}k": score})
    fences = []
    for _ in range(3):
        lease = caller.acquire(service("k"))
        assert lease is not None
        info = caller.info(service, "k")
        assert info is not None
        assert info.fence == lease.fence
        fences.append(lease.fence)
        caller.release(lease)
    assert fences == sorted(set(fences))
    assert 0 < fences[-1] < 2**53


def test_monstrous_fence_of_a_held_lock(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """A lock whose fence nobody can have given is listed, without a fence."""
    with valkey.server.client() as client:
        client.set(f"{P}k", OURS % (1, 1), px=60_000)
        index(client, k=float("inf"))
    (info,) = caller.locks(service)
    assert (info.key, info.fence, info.held_for) == ("k", None, None)


def test_foreign_names_in_the_index(valkey: Deployment, caller: Caller, service: Locksmith) -> None:
    """Names that are no lock's are not listed, and removed by a sweep without a look at their keys."""
    with valkey.server.client() as client:
        client.set("session:secret", "x")
        client.zadd(INDEX, {"session:secret": 1.0, INDEX: 1.0, "abc": 2.0, f"{P}dead": 3.0})
        assert caller.locks(service) == []
        in_thread(lambda: sweep(service)).result(10)
        assert client.zrange(INDEX, 0, -1) == []
        assert client.get("session:secret") == "x"


def sweep(service: Locksmith) -> None:
    from django_locksmith.policy.sync_bridge import run_sync

    run_sync(service.runtime().threads().store.sweep("__locksmith:"))


# ---- nothing grows without bound


def test_leases_that_end_by_themselves(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that nobody gives back leave the index as large as the number of those that are held."""
    monkeypatch.setattr(lock_store, "_SWEEP_EVERY", 8)
    service = Locksmith(timeout=0.05)
    kept = [service(f"kept:{n}", timeout=60).acquire() for n in range(20)]
    with valkey.server.client() as client:
        for number in range(1500):
            service(f"lapses:{number}", blocking=False).acquire()
        poll(lambda: client.dbsize() == 21)
        for number in range(200):
            with service(f"calm:{number}", timeout=60):
                pass
        poll(lambda: client.zcard(INDEX) <= 60)
        assert sorted(info.key for info in service.locks()) == sorted(lease.key for lease in kept if lease)


def test_keys_of_a_cluster_end(started: Any, caller: Caller) -> None:
    """On a cluster, what a lock has for itself ends minutes after its lease; renewals carry it along."""
    from tests.helpers.deployments import in_force

    where = started("cluster")
    where.flush()
    with in_force(where):
        service = Locksmith(timeout=6, renew=True)
        lease = caller.acquire(service("a"))
        assert lease is not None
        (name,) = [key for key in where.keys() if "<index>" in key]  # noqa: SIM118  # no dict

        (server,) = [each for each in where.servers if has(each, name)]

        def ends_in() -> int:
            with server.client() as client:
                return int(client.pttl(name))

        assert 0 < ends_in() <= 606_000
        first = lease.deadline
        with server.client() as client:
            client.pexpire(name, 300_000)
        poll(lambda: lease.deadline > first)
        assert 600_000 < ends_in() <= 606_000
        info = caller.info(service, "a")
        assert info is not None
        assert info.fence == lease.fence
        caller.release(lease)


def has(server: Any, name: str) -> bool:
    with server.client() as client:
        return name in client.keys("*")


def test_no_two_locks_share_what_belongs_to_them() -> None:
    """On a cluster, whatever their keys look like, two locks have nothing in common."""
    keys = [
        "a",
        "{__locksmith:a}",
        "{a}",
        "a}b",
        "{1}a",
        "a{}b",
        "{x}",
        "x",
        ":x",
        "{:x}",
        "",
        "{__locksmith:}",
        "{",
        "}",
    ]
    keys += [f"{{__locksmith:{key}}}" for key in keys] + [f":{key}" for key in keys]
    for prefix in (P, ""):
        names = [names_in_cluster(prefix, key) for key in dict.fromkeys(keys)]
        companions = [name for each in names for name in (each.queue, each.baton, each.index)]
        assert len(companions) == len(set(companions))


def test_long_keys_are_not_remembered(valkey: Deployment, service: Locksmith) -> None:
    """A process does not keep the names of long keys, which visitors may choose."""
    for number in range(3):
        key = f"{number}{'x' * 100_000}"
        with service(key):
            assert service.info(key) is not None
        service.get_or_set(key, lambda: 1, 5)
    names: Any = service.runtime().threads().store.names
    assert all(len(key) < 2000 for key in names.__self__)


def test_waiting_connections_have_a_limit(
    valkey: Deployment, caller: Caller, service: Locksmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit, waiters wait without a connection of their own, and get the lock all the same."""
    monkeypatch.setattr(lock_store, "MOST_WAITING", 2)
    held = {key: caller.acquire(service(key)) for key in "abcd"}
    waiters = {key: caller.start_acquire(service(key, blocking_timeout=20)) for key in "abcd"}
    poll(lambda: valkey.blocked() == 2)
    for key, lease in held.items():
        poll(lambda key=key: bool((caller.info(service, key) or object()).waiters))  # type: ignore[union-attr,misc]
        assert lease is not None
        caller.release(lease)
    for waiter in waiters.values():
        with stopwatch():
            following = waiter.result(20)
        assert following is not None
        caller.release(following)
    assert not service.runtime().threads().store.waiting
    poll(lambda: not valkey.left_behind())


# ---- what does not leave the process


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_cannot_be_copied(valkey: Deployment, take: Any) -> None:
    """A service, a lock and a lease are of their process: copying or pickling one says so, and what to do."""
    with locksmith("a") as lease:
        for each in (locksmith, locksmith("a"), lease):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                take(each)


def test_lease_that_was_not_granted(valkey: Deployment, caplog: Any) -> None:
    """It can be shown."""
    seen: list[str] = []

    class Shows(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    from django_locksmith.api.lease import Lease

    runtime = locksmith.runtime()
    context = runtime.threads()
    lock = locksmith("a")
    lease = Lease(runtime, context, lock._rules, lock._attempt(context), "")
    assert repr(lease) == "<Lease of 'a': not granted>"
