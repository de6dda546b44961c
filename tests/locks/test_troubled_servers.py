"""Servers in a state that passes, that are silent, or that take no more clients; and what is given back late."""

from __future__ import annotations

import asyncio
import threading
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.test import override_settings
from django_redis import get_redis_connection
from redis import exceptions as redis_errors

from django_locksmith import LockLost, Locksmith, LockUnavailable
from django_locksmith.redis.key_names import slot_of
from django_locksmith.redis.transport import is_spoiled, passing_state
from tests.helpers import servers
from tests.helpers.callers import in_thread
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll, stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment
    from tests.helpers.servers import Server

# ---- states that pass


@contextmanager
def without_replicas(server: Server) -> Iterator[None]:
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        yield
        client.config_set("min-replicas-to-write", 0)


@contextmanager
def read_only(server: Server) -> Iterator[None]:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        poll(lambda: client.info("replication")["role"] != "master")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy_with_a_script(server: Server) -> Iterator[None]:
    with server.client(socket_timeout=60) as client, server.client() as other:
        other.config_set("lua-time-limit", 50)
        running = in_thread(lambda: client.eval("while true do end", 0))

        def is_busy() -> bool:
            try:
                other.get("x")
            except redis_errors.ResponseError:
                return True
            return False

        poll(is_busy)
        yield
        other.script_kill()
        with pytest.raises(redis_errors.ResponseError):
            running.result(10)


STATES = [without_replicas, read_only, busy_with_a_script]
BINARIES = [name for name in ("valkey", "redis-6.2") if name == "valkey" or servers.redis_6_binary()]


@pytest.fixture(params=BINARIES)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that the test may spoil."""
    binary = servers.valkey_binary() if request.param == "valkey" else servers.redis_6_binary()
    assert binary is not None
    with servers.running(binary) as server:
        yield server


@pytest.mark.parametrize("state", STATES)
def test_waiters_live_through_it(server: Server, caller: Caller, state: Any) -> None:
    """Who waits goes on waiting while the server refuses writes, and has the lock when it takes them again."""
    service = Locksmith(redis=server.url, timeout=60)
    held = caller.acquire(service("a"))
    assert held is not None
    waiter = caller.start_acquire(Locksmith(redis=server.url)("a", blocking_timeout=60))
    poll(lambda: (info := service.info("a")) and info.waiters == 1)
    with state(server):
        newcomer = caller.start_acquire(service("b", blocking_timeout=60))
        with pytest.raises(LockUnavailable):
            caller.acquire(service("c"), blocking=False)
        # As long as the state lasts, nobody gets anything.
        assert not waiter.done()
        assert not newcomer.done()
    fresh = newcomer.result(30)
    assert fresh is not None
    caller.release(fresh)
    caller.release(held)
    following = waiter.result(30)
    assert following is not None
    caller.release(following)


@pytest.mark.parametrize("state", STATES)
def test_release_is_repeated(server: Server, caller: Caller, state: Any) -> None:
    """A lock that could not be given back in such a moment is given back as soon as it has passed."""
    service = Locksmith(redis=server.url, timeout=600)
    lease = caller.acquire(service("a"))
    assert lease is not None
    with state(server), pytest.raises(LockUnavailable):
        caller.release(lease)
    assert not lease.held
    poll(lambda: service.info("a") is None)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("BUSY Redis is busy running a script.", "BUSY"),
        ("UNBLOCKED force unblock from blocking operation", "UNBLOCKED"),
        ("Error running script (call to f_1): @user_script:5: -READONLY You can't write against", "READONLY"),
        ("ERR Error running script (call to f_1): @user_script: 12: -NOREPLICAS Not enough", "NOREPLICAS"),
        ("OOM command not allowed when used memory > 'maxmemory'.", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
        ("BUSYKEY Target key name already exists.", None),
    ],
)
def test_states_are_known_by_their_words(text: str, state: str | None) -> None:
    """What passes is told from what does not, also where an old Redis wraps it into an error of its own."""
    error = redis_errors.ResponseError(text)
    assert passing_state(error) == state
    assert is_spoiled(error) == (state == "READONLY")


def test_old_connections_after_a_failover(caller: Caller) -> None:
    """After a failover behind a name, the connections to what is a replica now are replaced, on Redis 6.2 as well."""
    binary = servers.redis_6_binary() or servers.valkey_binary()
    with ExitStack() as stack:
        old, new = stack.enter_context(servers.running(binary)), stack.enter_context(servers.running(binary))
        relay = stack.enter_context(proxy_to(old.port))
        service = Locksmith(redis=relay.url, timeout=30)
        lease = caller.acquire(service("warm"))
        assert lease is not None
        caller.release(lease)
        with old.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", new.port)
            poll(lambda: client.info("replication")["role"] != "master")
        relay.lead_to(new.port)
        found = caller.acquire(service("a", blocking_timeout=10))
        assert found is not None
        with new.client() as client:
            assert client.get("__locksmith:a") == found.token
        caller.release(found)


# ---- what is given back late


def test_release_during_a_restart(own_server: Deployment, caller: Caller) -> None:
    """A release that meets a server that is just away is repeated; the lock does not stay for its whole lease."""
    service = Locksmith(timeout=600)
    lease = caller.acquire(service("a"))
    assert lease is not None
    own_server.server.pause()
    with pytest.raises(LockUnavailable):
        caller.release(lease)
    own_server.server.resume()
    poll(lambda: service.info("a") is None)
    assert not own_server.left_behind()


def test_too_few_replicas_leave_nothing(valkey: Deployment, caller: Caller) -> None:
    """A grant that too few replicas have is taken back, however short the socket timeout is."""
    for timeout in (5, 0.5):
        service = Locksmith(redis=f"{valkey.server.url}?socket_timeout={timeout}", min_replicas=1, timeout=60)
        with pytest.raises(LockUnavailable, match="only 0 of the 1 replicas"):
            caller.acquire(service("a"), blocking=False)
        assert not valkey.left_behind()


# ---- the end of a block


def test_loss_at_the_end_of_a_block_without_a_server(own_server: Deployment, caller: Caller) -> None:
    """A block whose lease is over raises `LockLost` at its end, also where Redis cannot be asked any more."""

    def body(lease: Any) -> None:
        own_server.server.kill()
        poll(lambda: not lease.held)

    for renew in (False, True):
        with pytest.raises(LockLost, match="ran out"):
            caller.within(Locksmith(timeout=1.5)("a", renew=renew), body)
        own_server.server.start()


def test_release_and_renewal_at_once(valkey: Deployment, caller: Caller) -> None:
    """A renewal that finds the lock gone, because it is just being released, tells no loss."""

    told: list[Any] = []
    with proxy_to(valkey.server.port) as proxy:
        service = Locksmith(redis=proxy.url, timeout=3, renew=True)
        lease = caller.acquire(service("a", on_lost=told.append))
        assert lease is not None
        proxy.keep_back(lambda data: b"$5\r\nrenew\r\n" in data and b"<queue>" not in data)
        poll(lambda: proxy.kept_back)
        token = lease.token.encode()
        proxy.keep_back_reply_to(lambda data: token in data and b"renew" not in data)
        released = in_thread(lambda: caller.release(lease))
        poll(lambda: len(proxy.kept_back) == 2)
        renewal, reply = proxy.kept_back
        renewal.set()
        server = service.runtime().renewer()._servers
        poll(lambda: all(not each._leases for each in server.values()))
        reply.set()
        assert released.result(10) is True
        assert told == []


# ---- renewal


def test_one_bad_key_is_not_the_others(valkey: Deployment) -> None:
    """A key that somebody overwrote loses its own lease, and none of those that are renewed with it."""
    service = Locksmith(timeout=5, renew=True)
    leases = {key: service(key).acquire() for key in map(str, range(40))}
    first = {key: lease.deadline for key, lease in leases.items() if lease}
    with valkey.server.client() as client:
        client.delete("__locksmith:7")
        client.lpush("__locksmith:7", "x")
    poll(lambda: not leases["7"].held if leases["7"] else True)
    others = [(lease, first[key]) for key, lease in leases.items() if key != "7" and lease]
    poll(lambda: all(lease.deadline > deadline + 5 for lease, deadline in others), within=30)
    for key, lease in leases.items():
        if key != "7" and lease:
            assert lease.release()


def test_one_silent_node_is_not_the_others(caller: Caller) -> None:
    """In a cluster, a node that keeps silent holds up the renewal of its own leases alone."""
    with servers.cluster(servers.valkey_binary()) as nodes:
        service = Locksmith(
            redis=f"redis+cluster://127.0.0.1:{nodes[0].port}/0?socket_timeout=2", timeout=4, renew=True
        )
        share = 16384 // 3 + 1
        for node in nodes:
            with node.client() as client:
                client.config_set("cluster-require-full-coverage", "no")
        keys = {slot_of(b"__locksmith:k%d" % n) // share: f"k{n}" for n in range(60)}
        leases = {node: caller.acquire(service(key)) for node, key in keys.items()}
        nodes[2].pause()
        silent = leases[2]
        assert silent is not None
        poll(lambda: not silent.held, within=20)
        for node in (0, 1):
            lease = leases[node]
            assert lease is not None
            assert lease.held
            assert caller.release(lease)
        nodes[2].resume()


def test_outage_is_said_once(own_server: Deployment, caller: Caller, caplog: Any) -> None:
    """One line when Redis gives no answer, and one when it does again, however many requests and renewals fail."""
    service = Locksmith(timeout=20)
    kept = caller.acquire(service("kept", renew=True, timeout=3))
    held = caller.acquire(service("a"))
    assert kept is not None
    assert held is not None
    own_server.server.kill()
    waiters = [caller.start_acquire(service(f"b{n}", blocking_timeout=30)) for n in range(5)]
    poll(lambda: "Redis has given no usable answer" in caplog.text)
    poll(lambda: "no answer to the renewal" in caplog.text)
    own_server.server.start()
    for waiter in waiters:
        assert waiter.result(30) is not None
    poll(lambda: "Redis answers again" in caplog.text)
    for text in ("Redis has given no usable answer", "Redis answers again", "no answer to the renewal"):
        assert caplog.text.count(text) == 1


def test_server_that_takes_no_more_clients(own_server: Deployment, caller: Caller) -> None:
    """A renewed lease is not lost where the server takes no more clients by the time it is to be renewed."""
    service = Locksmith(timeout=5, renew=True)
    lease = caller.acquire(service("a"))
    assert lease is not None
    first = lease.deadline
    with own_server.server.client() as client:
        poll(lambda: all(server._is_dialled for server in service.runtime().renewer()._servers.values()))
        client.config_set("maxclients", client.info("clients")["connected_clients"])
        poll(lambda: lease.deadline > first + 5, within=30)
        assert lease.held
        client.config_set("maxclients", 1000)
    assert caller.release(lease)


def test_thread_that_cannot_be_started(valkey: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a thread cannot be started once, the next lease starts it, and both are renewed; a loss is told of."""
    start, failures = threading.Thread.start, {"locksmith-renewal", "locksmith-watch", "locksmith-lost"}

    def fails_once(thread: threading.Thread) -> None:
        if thread.name in failures:
            failures.discard(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails_once)
    told: list[Any] = []
    service = Locksmith(timeout=6, renew=True)
    first = service("a", on_lost=told.append).acquire()
    second = service("b", on_lost=told.append).acquire()
    assert first is not None
    assert second is not None
    before = first.deadline
    poll(lambda: first.deadline > before and second.deadline > before)
    valkey.flush()
    poll(lambda: len(told) == 2)


# ---- bounds


@pytest.mark.parametrize("known", [True, False])
def test_cluster_that_keeps_silent(caller: Caller, known: bool) -> None:
    """A caller who does not wait hears of a silent cluster after one socket timeout, however many nodes it has."""
    with servers.cluster(servers.valkey_binary()) as nodes:
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}/0?socket_timeout=2"
        service = Locksmith(redis=url, timeout=20)
        if known:
            caller.within(service("a"), lambda lease: None)
        for node in nodes:
            node.pause()
        for key in ("a", "b"):
            with stopwatch() as elapsed, pytest.raises(LockUnavailable):
                caller.acquire(service(key), blocking=False)
            assert elapsed() < 2 + (1 if known else 4)
        for node in nodes:
            node.resume()
        assert caller.acquire(service("c", blocking_timeout=20)) is not None


@pytest.mark.parametrize("cancelled", [False, True])
def test_many_tasks_and_a_silent_server(own_server: Deployment, cancelled: bool) -> None:
    """Of hundreds of tasks that ask a silent server, none waits for the others' timeouts one after the other."""

    async def scenario() -> float:
        service = Locksmith(redis=f"{own_server.server.url}?socket_timeout=1")
        async with service("warm"):
            pass
        own_server.server.pause()
        with stopwatch() as took:
            tasks = [asyncio.create_task(service(f"k{n}").aacquire(blocking=False)) for n in range(300)]
            if cancelled:
                await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            wanted = asyncio.CancelledError if cancelled else LockUnavailable
            assert {type(end) for end in ends} == {wanted}
            return took()

    assert in_thread(lambda: asyncio.run(scenario())).result(60) < 4
    own_server.server.resume()


def test_outage_is_not_told_as_busy(own_server: Deployment, caller: Caller) -> None:
    """Who waits behind another caller of the process while Redis is down hears that, and not that the lock is busy."""
    service = Locksmith()
    held = caller.acquire(service("warm"))
    assert held is not None
    caller.release(held)
    own_server.server.kill()
    first = caller.start_acquire(service("a", blocking_timeout=4))
    poll(lambda: caller.context(service).queues._queues)
    second = caller.start_acquire(service("a", blocking_timeout=0.5))
    for each in (second, first):
        with pytest.raises(LockUnavailable):
            each.result(20)
    own_server.server.start()


def test_huge_waits(valkey: Deployment, caller: Caller) -> None:
    """A wait that is longer than Redis can count is without limit."""
    service = Locksmith()
    for wait in (1e9, 1e16, 1e300):
        held = caller.acquire(service("a"))
        assert held is not None
        waiter = caller.start_acquire(Locksmith()("a", blocking_timeout=wait))
        poll(lambda: (info := service.info("a")) and info.waiters == 1)
        caller.release(held)
        following = waiter.result(10)
        assert following is not None
        caller.release(following)


def test_drained_blocking_pool(own_server: Deployment, caller: Caller) -> None:
    """A pool whose callers would wait for a free connection does not keep a lock's caller waiting."""
    cache = own_server.cache
    options = {**cache["OPTIONS"], "CONNECTION_POOL_CLASS": "redis.BlockingConnectionPool"}
    options["CONNECTION_POOL_KWARGS"] = {"max_connections": 2, "timeout": 30}
    location = f"{own_server.server.url}?client_name=drained-{caller.name}"
    with override_settings(CACHES={"default": {**cache, "LOCATION": location, "OPTIONS": options}}):
        pool = get_redis_connection("default").connection_pool
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old ones want to know the command, new ones warn when told
            taken = [pool.get_connection("_") for _ in range(2)]
        with stopwatch() as took:
            lease = caller.acquire(Locksmith()("a"), blocking=False)
            assert lease is not None
            caller.release(lease)
            assert took() < 10
        for each in taken:
            pool.release(each)


# ---- a slot that moves


def test_slot_under_migration(caller: Caller) -> None:
    """A lock in a slot that is on its way to another node can be extended, looked at, and given back."""
    with servers.cluster(servers.valkey_binary()) as nodes:
        service = Locksmith(redis=f"redis+cluster://127.0.0.1:{nodes[0].port}/0", timeout=60)
        share = 16384 // 3 + 1
        keys = [f"k{n}" for n in range(60) if slot_of(b"__locksmith:k%d" % n) // share == 0][:2]
        stays, goes = (caller.acquire(service(key)) for key in keys)
        assert stays is not None
        assert goes is not None
        with nodes[0].client() as source, nodes[1].client() as target:
            ids = [source.execute_command("CLUSTER", "MYID"), target.execute_command("CLUSTER", "MYID")]
            for key in keys:
                slot = slot_of(f"__locksmith:{key}".encode())
                target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
                source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
            moved = f"__locksmith:{keys[1]}"
            source.execute_command("MIGRATE", "127.0.0.1", nodes[1].port, moved, 0, 5000)
            for lease in (stays, goes):
                caller.extend(lease, 30)
                assert lease.remaining > 80
                info = caller.info(service, lease.key)
                assert info is not None
                assert info.holder is not None
                assert info.holder.token == lease.token
                assert caller.release(lease)
                assert caller.info(service, lease.key) is None
