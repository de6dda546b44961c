"""What every deployment promises, for threads and tasks: written once, run over all of them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import Holder, LockBusy, LockLost, Locksmith
from django_locksmith.runtime.options import Defaults, Options, Rules, slots_of
from tests.helpers.servers import is_left, poll, stopwatch

if TYPE_CHECKING:
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


@pytest.fixture(autouse=True, params=["a lock", "a slot"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots of which there is one promise all that a lock does."""
    if request.param == "a slot":
        rules_for = Defaults.rules_for

        def with_one_slot(self: Defaults, options: Options) -> Rules:
            return replace(rules_for(self, options), slots=slots_of(["the only one"]))

        monkeypatch.setattr(Defaults, "rules_for", with_one_slot)


@pytest.fixture(autouse=True)
def _nothing_is_left(deployment: Deployment) -> Any:
    """Whatever a promise does: in the end there is nothing in Redis but fences and an index."""
    yield
    poll(lambda: not deployment.left_behind())


def waits(service: Locksmith, caller: Caller, key: str, number: int = 1) -> None:
    """Return when so many wait for the lock in Redis."""
    poll(lambda: (info := caller.info(service, key)) is not None and info.waiters == number)


def test_free_lock_is_granted(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A free lock is granted: it is held, by a token that tells who has it, for the seconds asked for."""
    since = time.monotonic()
    lease = caller.acquire(service("a", timeout=30, label="me"))
    assert lease is not None
    assert lease.held
    assert is_left(lease.remaining, 30, since)
    info = caller.info(service, "a")
    assert info is not None
    assert isinstance(info.holder, Holder)
    assert info.holder.label == "me"
    assert info.holder.token == lease.token
    assert info.fence == lease.fence
    assert info.remaining is not None
    # The holder stops believing before the server does.
    assert lease.remaining <= info.remaining + 0.001
    assert caller.release(lease)
    assert not lease.held
    assert caller.info(service, "a") is None


def test_busy_is_none_at_once(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A held lock is busy: without waiting, the answer is None and the holder keeps it."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    assert caller.acquire(service("a"), blocking=False) is None
    assert lease.held
    caller.release(lease)


def test_with_block_raises_busy(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A block whose wait ends without the lock raises LockBusy, which says who holds it and for how long."""
    lease = caller.acquire(service("a", timeout=20, label="the other"))
    assert lease is not None
    with pytest.raises(LockBusy) as caught:
        caller.within(service("a", blocking_timeout=0.2), lambda lease: None)
    assert caught.value.holder is not None
    assert caught.value.holder.label == "the other"
    assert caught.value.retry_after is not None
    assert 15 < caught.value.retry_after <= 20
    caller.release(lease)


def test_wait_ends_in_time(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A wait lasts as long as it was given, and not noticeably longer."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    started = time.monotonic()
    with stopwatch() as took:
        assert caller.acquire(service("a", blocking_timeout=0.3)) is None
        assert took() < 1
    assert time.monotonic() - started >= 0.3
    caller.release(lease)


@pytest.mark.usefixtures("no_probes")
def test_release_wakes_the_waiter(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A release gives the lock to the waiter, who never looks by himself."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    waiter = caller.start_acquire(service("a"))
    waits(service, caller, "a")
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    assert following.held
    assert following.fence > lease.fence
    caller.release(following)


@pytest.mark.usefixtures("no_probes")
def test_waiters_of_a_process_are_served_in_order(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Within a process, the order is the order of arrival; each is told of his turn, and does not find out himself."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    order: list[int] = []
    waiters = []
    queues = caller.context(service).queues._queues
    for number in range(8):
        waiters.append(caller.start_within(service("a"), lambda lease, number=number: order.append(number)))
        poll(lambda number=number: any(len(row) == number + 1 for row in queues.values()))
    caller.release(lease)
    for waiter in waiters:
        waiter.result(10)
    assert order == list(range(8))


def test_services_are_served_in_order(deployment: Deployment, caller: Caller) -> None:
    """Between processes (here: services, which share nothing), the order is the order of arrival."""
    first = Locksmith()
    lease = caller.acquire(first("a"))
    assert lease is not None
    order: list[int] = []
    waiters = []
    for number in range(5):
        other = Locksmith()
        waiters.append(caller.start_within(other("a"), lambda lease, number=number: order.append(number)))
        waits(first, caller, "a", number + 1)
        blocked(deployment, number + 1)
    caller.release(lease)
    for waiter in waiters:
        waiter.result(10)
    assert order == list(range(5))


def blocked(deployment: Deployment, number: int) -> None:
    """Return when so many clients are blocked in Redis."""

    def count() -> int:
        total = 0
        for server in deployment.servers:
            with server.client() as client:
                total += client.info("clients")["blocked_clients"]
        return total

    poll(lambda: count() == number)


def test_never_two_holders(deployment: Deployment, caller: Caller) -> None:
    """Callers of several services never hold the lock at the same time, and each gets it."""
    inside = threading.Semaphore(1)
    fences: list[int] = []

    def body(lease: Any) -> None:
        assert inside.acquire(blocking=False), "two are inside"
        fences.append(lease.fence)
        inside.release()

    services = [Locksmith() for _ in range(3)]
    runs = [caller.start_within(services[n % 3]("a", timeout=20), body) for n in range(30)]
    for run in runs:
        run.result(30)
    assert len(fences) == 30


def test_fences_grow(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Each grant of a lock has a larger fence than every one before."""
    fences: list[int] = []
    for _ in range(20):
        caller.within(service("a"), lambda lease: fences.append(lease.fence))
    assert fences == sorted(set(fences))


def test_dead_holder_blocks_for_its_lease(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """When a holder does not come back, the waiter has the lock as soon as the lease has run out."""
    with stopwatch() as took:
        lease = caller.acquire(service("a", timeout=0.6))
        assert lease is not None
        following = caller.acquire(service("a"))
        assert took() < 0.6 + 0.5
    assert following is not None
    assert following.fence - lease.fence >= 600_000  # a fence is the server's time, in µs
    assert not lease.held
    caller.release(following)


def test_release_of_a_lost_lease_frees_nobody_elses(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """Releasing after the lease ran out raises LockLost and leaves the next holder alone."""
    lease = caller.acquire(service("a", timeout=0.1))
    assert lease is not None
    following = caller.acquire(service("a"))
    assert following is not None
    with pytest.raises(LockLost):
        caller.release(lease)
    assert following.held
    info = caller.info(service, "a")
    assert info is not None
    assert info.holder is not None
    assert info.holder.token == following.token
    caller.release(following)


def test_extend(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A lease can be started anew, added to, and cut short; what is lost cannot be extended."""
    since = time.monotonic()
    lease = caller.acquire(service("a", timeout=10))
    assert lease is not None
    caller.extend(lease, 20)
    assert is_left(lease.remaining, 30, since)
    for how, seconds in (({}, 10), ({"additional_time": 5, "replace_ttl": True}, 5)):
        since = time.monotonic()
        caller.extend(lease, **how)
        assert is_left(lease.remaining, seconds, since)
    caller.clear(service, "a")
    with pytest.raises(LockLost):
        caller.extend(lease)
    assert lease.lost


def test_released_twice(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A second release changes nothing and says so, whoever holds the lock by then."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    assert caller.release(lease) is True
    following = caller.acquire(service("a"))
    assert following is not None
    assert caller.release(lease) is False
    assert following.held
    caller.release(following)


def test_lost_in_the_block_raises_at_its_end(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A block that lost its lock raises LockLost at its end, but never in place of its own exception."""
    with pytest.raises(LockLost):
        caller.within(service("a"), lambda lease: caller.clear(Locksmith(), "a"))

    def fail(lease: Any) -> None:
        caller.clear(Locksmith(), "a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        caller.within(service("a"), fail)


def test_lost_can_be_logged_instead(deployment: Deployment, caller: Caller, service: Locksmith, caplog: Any) -> None:
    """With on_lost="log", a lost lock is reported in the log and the block's result stays."""
    lock = service("a", on_lost="log")
    assert caller.within(lock, lambda lease: (caller.clear(Locksmith(), "a"), "result"))[1] == "result"
    assert "the lock 'a' is not held" in caplog.text


def test_early_release_in_a_block(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A block may release its lock before its end, and ends quietly."""

    def body(lease: Any) -> bool:
        return service("a").locked() if caller.name == "sync" and lease.release() else True

    assert caller.within(service("a"), body) is (caller.name == "async")


def test_looking_in(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """The list has every lock that is held, with holder, age, time left, fence and waiters; a pattern narrows it."""
    leases = [caller.acquire(service(key, timeout=30)) for key in ("a:1", "a:2", "b{x}", "c}d", "")]
    waiter = caller.start_acquire(service("a:1"))
    waits(service, caller, "a:1")
    found = caller.locks(service)
    assert [info.key for info in found] == ["", "a:1", "a:2", "b{x}", "c}d"]
    assert [info.waiters for info in found] == [0, 1, 0, 0, 0]
    assert {info.fence for info in found} == {lease.fence for lease in leases if lease}
    assert all(info.held_for is not None and 0 <= info.held_for < 10 for info in found)
    assert [info.key for info in caller.locks(service, "a:*")] == ["a:1", "a:2"]
    for lease in leases:
        assert lease is not None
        caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    caller.release(following)
    assert caller.locks(service) == []


def test_clear_takes_only_from_the_holder_that_was_seen(
    deployment: Deployment, caller: Caller, service: Locksmith
) -> None:
    """Clearing takes the lock from the holder that was seen and wakes the waiters; whoever came meanwhile keeps it."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    seen = caller.info(service, "a")
    assert seen is not None
    waiter = caller.start_acquire(service("a"))
    waits(service, caller, "a")
    assert [info.key for info in caller.clear(service, "a")] == ["a"]
    following = waiter.result(10)
    assert following is not None
    assert caller.clear(service, seen) == []
    assert following.held
    with pytest.raises(LockLost):
        caller.release(lease)
    caller.release(following)


@pytest.mark.parametrize(
    "key", ["", "ä", "a b", "{", "}", "{}", "a{}b", "}{", "{a}{b}", "*?[x]", "\r\n", "\0", "x" * 70000]
)
def test_any_text_is_a_key(deployment: Deployment, caller: Caller, service: Locksmith, key: str) -> None:
    """Whatever text a key is, it names a lock of its own, with its queue, on every deployment."""
    lease = caller.acquire(service(key))
    assert lease is not None
    other = caller.acquire(service(key + "x"))
    assert other is not None
    waiter = caller.start_acquire(service(key))
    waits(service, caller, key)
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    caller.release(following)
    caller.release(other)


def test_scripts_are_loaded_again(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A server that forgot the scripts, even between a waiter's request and its grant, makes no difference."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    waiter = caller.start_acquire(service("a"))
    waits(service, caller, "a")
    for server in deployment.servers:
        with server.client() as client:
            client.script_flush()
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    for server in deployment.servers:
        with server.client() as client:
            client.script_flush()
    assert caller.info(service, "a") is not None
    caller.release(following)


def test_handover_to_a_waiter_that_gave_up(deployment: Deployment, caller: Caller, service: Locksmith) -> None:
    """A waiter whose time is over leaves the queue: the release frees the lock at once."""
    lease = caller.acquire(service("a"))
    assert lease is not None
    assert caller.acquire(service("a", blocking_timeout=0.1)) is None
    caller.release(lease)
    following = caller.acquire(service("a"), blocking=False)
    assert following is not None
    caller.release(following)
