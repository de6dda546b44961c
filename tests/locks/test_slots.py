"""What is promised of slots: a lock that several may hold. What they share with a lock stands in test_promises.py."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ResponseError

from django_locksmith import LockBusy, LockLost, LockReentered, Locksmith, LockUnavailable, SlotsDiffer, locksmith
from django_locksmith.policy.sync_bridge import run_sync
from django_locksmith.redis.connections import open_deployment
from django_locksmith.redis.lock_store import LockStore
from django_locksmith.redis.messages import Attempt, Granted
from django_locksmith.redis.sync_transport import SyncTransport
from django_locksmith.runtime.held_leases import HeldLeases
from django_locksmith.runtime.options import slots_of
from django_locksmith.testing import override_locks
from django_locksmith.tokens import new_token
from tests.bank.models import Account
from tests.helpers.servers import poll
from tests.locks.test_promises import blocked

if TYPE_CHECKING:
    from django_locksmith import Lease
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a promise does: in the end there is nothing in Redis but fences and an index."""
    names = {"deployment", "valkey"} & set(request.fixturenames)
    places = [request.getfixturevalue(name) for name in names]
    yield
    poll(lambda: not any(place.left_behind() for place in places))


def taken(caller: Caller, number: int, service: Locksmith = locksmith, key: str = "a", **how: Any) -> list[Lease]:
    leases = [caller.acquire(service(key, **{"slots": number, "blocking": False} | how)) for _ in range(number)]
    assert all(leases)
    return leases  # type: ignore[return-value]  # none of them is None


def release_all(caller: Caller, *leases: Lease) -> None:
    for lease in leases:
        assert caller.release(lease)


def waits(key: str = "a", number: int = 1) -> None:
    """Return when so many wait in Redis."""
    poll(lambda: (info := locksmith.info(key)) is not None and info.waiters == number)


def test_as_many_as_there_are(deployment: Deployment, caller: Caller) -> None:
    """So many hold it at one time, each with a fence of its own; one more is busy, until one of them leaves."""
    leases = taken(caller, 3)
    assert len({lease.fence for lease in leases}) == 3
    assert caller.acquire(locksmith("a", slots=3), blocking=False) is None
    assert caller.release(leases[1])
    another = caller.acquire(locksmith("a", slots=3), blocking=False)
    assert another is not None
    assert all(lease.held for lease in (leases[0], leases[2], another))
    release_all(caller, leases[0], leases[2], another)


def test_busy_says_so(valkey: Deployment, caller: Caller) -> None:
    """Who finds all taken hears how many there are, and of the lease that ends first."""
    long, short = (
        caller.acquire(locksmith("a", slots=2, timeout=timeout, label=f"{timeout} s")) for timeout in (90, 20)
    )
    assert long is not None
    assert short is not None
    with pytest.raises(LockBusy) as caught:
        caller.within(locksmith("a", slots=2, blocking=False), lambda lease: None)
    busy = caught.value
    assert busy.slots == 2
    assert busy.holder is not None
    assert busy.holder.label == "20 s"
    assert busy.retry_after is not None
    assert 15 < busy.retry_after <= 20
    assert busy.details.startswith("all 2 slots of 'a' are taken")
    release_all(caller, long, short)


def test_one_is_a_lock(valkey: Deployment, caller: Caller) -> None:
    """slots=1 is a lock, for those who say nothing of slots, too."""
    lease = caller.acquire(locksmith("a", slots=1))
    assert lease is not None
    assert not lease.shared
    assert caller.acquire(locksmith("a"), blocking=False) is None
    info = locksmith.info("a")
    assert info is not None
    assert info.slots is None
    release_all(caller, lease)


def test_never_more(deployment: Deployment, caller: Caller) -> None:
    """Callers of several services are never more than there are slots; at times they are as many; each gets one."""
    inside = threading.Semaphore(3)
    most = [0]
    together = threading.Barrier(3)
    entered = itertools.count()
    done: list[int] = []

    def body(lease: Any) -> None:
        assert inside.acquire(blocking=False), "four are inside"
        most[0] = max(most[0], 3 - inside._value)
        if next(entered) < 3 and caller.name == "sync":
            together.wait(30)  # as many as there are slots get in at one time
        done.append(lease.fence)
        inside.release()

    services = [Locksmith() for _ in range(3)]
    runs = [caller.start_within(services[n % 3]("a", slots=3, timeout=20), body) for n in range(30)]
    for run in runs:
        run.result(60)
    assert len(set(done)) == 30
    assert caller.name == "async" or most == [3]


@pytest.mark.usefixtures("no_probes")
def test_served_in_order(deployment: Deployment, caller: Caller) -> None:
    """Of several processes (here: services, which share nothing), who came first is served first; nobody polls."""
    leases = taken(caller, 2)
    order: list[int] = []
    waiters = []
    for number in range(5):
        lock = Locksmith()("a", slots=2)
        waiters.append(caller.start_within(lock, lambda lease, number=number: order.append(number)))
        waits(number=number + 1)
        blocked(deployment, number + 1)
    caller.release(leases[0])
    for waiter in waiters:
        waiter.result(10)
    assert order == list(range(5))
    caller.release(leases[1])


@pytest.mark.usefixtures("no_probes")
def test_several_leave_at_once(deployment: Deployment, caller: Caller) -> None:
    """As many waiters as slots come free are served, without looking by themselves."""
    leases = taken(caller, 3)
    waiters = []
    for number in range(4):
        waiters.append(caller.start_acquire(Locksmith()("a", slots=3)))
        waits(number=number + 1)
        blocked(deployment, number + 1)
    release_all(caller, *leases)
    following = [waiter.result(10) for waiter in waiters[:3]]
    assert all(lease and lease.held for lease in following)
    assert not waiters[3].done()
    caller.release(following[0])
    release_all(caller, following[1], following[2], waiters[3].result(10))


def test_handed_over_to_as_many_as_wait(valkey: Deployment) -> None:
    """Where more leave than wait, what is left over is free at once, though the waiter has not come for his yet."""
    store = LockStore(SyncTransport(open_deployment(valkey.server.url)), "__locksmith:")
    names = store.names("a").with_slots(slots_of(2))
    one, other, waiter, newcomer = (Attempt(names, new_token().encode(), 60.0, 5.0) for _ in range(4))
    for attempt in (one, other, waiter):
        run_sync(store.acquire(attempt, 5.0, "try"))
    for attempt in (one, other):
        assert run_sync(store.release(attempt))
    assert isinstance(run_sync(store.acquire(newcomer, 5.0, "try")), Granted)
    assert isinstance(run_sync(store.acquire(waiter, 0.0, "claim")), Granted)
    for attempt in (newcomer, waiter):
        assert run_sync(store.release(attempt))


def test_lease_ends_by_itself(deployment: Deployment, caller: Caller) -> None:
    """The slot of a holder that does not come back is the waiter's as soon as the lease is over; the others stay."""
    lasting = caller.acquire(locksmith("a", slots=2, timeout=60))
    dying = caller.acquire(locksmith("a", slots=2, timeout=0.5))
    following = caller.acquire(locksmith("a", slots=2, blocking_timeout=20))
    assert lasting is not None
    assert dying is not None
    assert following is not None
    assert following.fence - dying.fence >= 500_000  # a fence is the server's time, in µs
    assert lasting.held
    assert dying.lost
    with pytest.raises(LockLost):
        caller.release(dying)
    assert following.held
    release_all(caller, lasting, following)


def test_renewed(deployment: Deployment, caller: Caller) -> None:
    """Each holder's lease is renewed for itself, and outlives its first length; since when it is held stays known."""
    leases = taken(caller, 2, timeout=5, renew=True)
    before = [lease.deadline for lease in leases]
    poll(lambda: all(lease.deadline > old + 5 for lease, old in zip(leases, before, strict=True)), within=60)
    assert all(lease.held for lease in leases)
    assert {info.fence for info in locksmith.holders("a")} == {lease.fence for lease in leases}
    release_all(caller, *leases)


def test_extend(deployment: Deployment, caller: Caller) -> None:
    """A holder's lease is changed alone."""
    one, other = taken(caller, 2, timeout=30)
    caller.extend(one, 100, replace_ttl=True)
    assert [info.holder.token for info in locksmith.holders("a") if info.holder] == [other.token, one.token]
    assert one.remaining > 60 > other.remaining
    caller.extend(one, 10, replace_ttl=True)
    assert one.remaining <= 10
    release_all(caller, one, other)


# ---- slots with names


def test_names(deployment: Deployment, caller: Caller) -> None:
    """Of a list, each holder has one for itself, and the lease says which; what is given back is the next one's."""
    licences = ["licence-a", "licence-ü", "c"]
    lock = locksmith("a", slots=licences, blocking=False)
    leases = [caller.acquire(lock) for _ in range(3)]
    assert [lease.slot for lease in leases if lease] == licences
    assert caller.acquire(lock) is None
    assert leases[1] is not None
    caller.release(leases[1])
    leases[1] = caller.acquire(lock)
    assert leases[1] is not None
    assert leases[1].slot == "licence-ü"
    assert sorted(info.slot for info in locksmith.holders("a")) == sorted(licences)
    for lease in leases:
        assert lease is not None
        caller.extend(lease, 5)
    release_all(caller, *filter(None, leases))


def test_slot_of_a_waiter(deployment: Deployment, caller: Caller) -> None:
    """A waiter has the slot of the holder that made way."""
    lock = locksmith("a", slots=["x", "y"])
    x, y = caller.acquire(lock), caller.acquire(lock)
    waiter = caller.start_acquire(Locksmith()("a", slots=["x", "y"]))
    waits()
    assert x is not None
    assert y is not None
    caller.release(y)
    following = waiter.result(20)
    assert following is not None
    assert following.slot == "y"
    release_all(caller, x, following)


# ---- one key, one number


@pytest.mark.parametrize(
    ("held", "asked", "numbers", "text"),
    [
        (3, 2, (2, 3), "asked for as slots=2, held as slots=3"),
        (2, 10, (10, 2), "asked for as slots=10, held as slots=2"),
        (1, 2, (2, 1), r"asked for as slots=2, held as a lock \(slots=1\)"),
        (2, 1, (1, 2), r"asked for as a lock \(slots=1\), held as slots=2"),
        (2, ["x", "y"], (2, 2), "asked for as a list of 2 slots, held as slots=2"),
        (["x", "y"], 2, (2, 2), "asked for as slots=2, held as a list of 2 slots"),
        (["x", "y"], ["x", "z"], (2, 2), "held as another, a list of 2 slots"),
        (["x", "y"], ["y", "x"], (2, 2), "held as another, a list of 2 slots"),
    ],
)
def test_another_number(
    deployment: Deployment, caller: Caller, held: Any, asked: Any, numbers: tuple[int, int], text: str
) -> None:
    """Who means another number is told both, takes nothing, and leaves nothing; also where he would wait."""
    lease = caller.acquire(locksmith("a", slots=held))
    assert lease is not None
    for how in ({"blocking": False}, {"blocking_timeout": 20}):
        with pytest.raises(SlotsDiffer, match=text) as caught:
            caller.acquire(locksmith("a", slots=asked, **how))  # type: ignore[misc]  # the types of each fit
        assert (caught.value.wanted, caught.value.kept) == numbers
        assert isinstance(caught.value, ValueError)
        assert "'a'" in caught.value.details
        assert "'a'" not in str(caught.value)
    assert [info.waiters for info in locksmith.holders("a")] == [0]
    assert lease.held
    release_all(caller, lease)
    following = caller.acquire(locksmith("a", slots=asked, blocking=False))
    assert following is not None, "nobody holds it any more: the next one says how many there are"
    release_all(caller, following)


def test_another_number_after_the_end(deployment: Deployment, caller: Caller) -> None:
    """Leases that have ended by themselves say nothing of the number any more."""
    lasting = caller.acquire(locksmith("a", slots=2, timeout=0.7))
    assert caller.acquire(locksmith("a", slots=2, timeout=0.2)) is not None
    assert lasting is not None
    poll(lambda: not locksmith.holders("a"))
    lease = caller.acquire(locksmith("a", slots=["x"], blocking=False))
    assert lease is not None
    release_all(caller, lease)


@pytest.mark.parametrize(
    ("slots", "error", "text"),
    [
        (0, ValueError, "slots must be from 1 to 10,000, not 0"),
        (-1, ValueError, "from 1 to 10,000"),
        (10_001, ValueError, "from 1 to 10,000"),
        (True, TypeError, "slots must be a number, or a list of names, not True"),
        (1.0, TypeError, "slots must be a number"),
        ("ab", TypeError, "slots must be a number, or a list of names, not 'ab'"),
        (None, TypeError, "slots must be a number"),
        ([], ValueError, "slots must be a list of 1 to 1,000 names, not of 0"),
        ([str(n) for n in range(1001)], ValueError, "not of 1,001"),
        (["x", ""], TypeError, "names that are not empty"),
        (["x", 1], TypeError, "names that are not empty"),
        (["x", "y", "x"], ValueError, "slots has the name 'x' twice"),
    ],
)
def test_no_slots(slots: Any, error: type[Exception], text: str) -> None:
    """What cannot be slots is refused where the lock is made, and the error says what can."""
    with pytest.raises(error, match=text):
        locksmith("a", slots=slots)


# ---- looking in, taking away


def test_seen(deployment: Deployment, caller: Caller) -> None:
    """Each holder is listed for itself, with age, lease and fence, and with how many of how many are taken."""
    leases = taken(caller, 2, timeout=30) + taken(caller, 2, key="b", timeout=40)
    found = caller.locks(locksmith)
    assert [info.key for info in found] == ["a", "a", "b", "b"]
    assert {info.fence for info in found} == {lease.fence for lease in leases}
    assert {(info.slots, info.taken) for info in found} == {(2, 2)}
    assert all(info.held_for is not None and 0 <= info.held_for < 10 for info in found)
    assert all(info.remaining is not None and 20 < info.remaining <= 40 for info in found)
    assert locksmith("a", slots=2).locked()
    caller.release(leases[0])
    (info,) = locksmith.holders("a")
    assert (info.slots, info.taken, info.is_full) == (2, 1, False)
    assert not locksmith("a", slots=2).locked()
    release_all(caller, *leases[1:])


def test_without_a_prefix(deployment: Deployment, caller: Caller) -> None:
    """Where locks have no prefix, too, all holders of slots are listed, and what is none of ours is not."""
    service = Locksmith(prefix="")
    leases = taken(caller, 2, service)
    for server in deployment.servers:
        with server.client() as client, suppress(ResponseError):  # of another node's key
            client.zadd("theirs", {"x": 5})
    assert [info.key for info in caller.locks(service)] == ["a", "a"]
    release_all(caller, *leases)
    for server in deployment.servers:
        with server.client() as client, suppress(ResponseError):
            client.delete("theirs")


@dataclass(eq=False)
class Named:
    """A lease, as far as it is known by its name."""

    name: bytes
    shared: bool


def test_dropped_among_others(valkey: Deployment) -> None:
    """Of several leases of one name, those that are not dropped stay known to this process, however many names come."""
    held: HeldLeases[Any] = HeldLeases()
    first, latest = (Named(b"a", shared=True) for _ in range(2))
    held.add(first)
    held.add(latest)
    del latest
    for number in range(100):
        held.add(Named(b"%d" % number, shared=False))
    assert held.of(b"a") == [first]
    assert held.latest(b"a") is first
    held.remove(first)
    assert held.all() == []


def test_cleared(deployment: Deployment, caller: Caller) -> None:
    """One is taken from the holder that was seen, or by the key all of them; waiters go on at once."""
    one, other = taken(caller, 2)
    waiter = caller.start_acquire(Locksmith()("a", slots=2))
    waits()
    seen = next(info for info in locksmith.holders("a") if info.holder and info.holder.token == one.token)
    assert caller.clear(locksmith, seen) == [seen]
    following = waiter.result(20)
    assert following is not None
    assert caller.clear(locksmith, seen) == []
    assert other.held
    with pytest.raises(LockLost):
        caller.extend(one)
    assert len(caller.clear(locksmith, "a")) == 2
    with pytest.raises(LockLost):
        caller.extend(following)


def test_foreign(valkey: Deployment, caller: Caller) -> None:
    """What others store under the key is nobody's slot: the error names the key, and a list of all leaves it out."""
    with valkey.server.client() as client:
        for store in (
            lambda: client.zadd("__locksmith:a", {"x": 5}),
            lambda: client.lpush("__locksmith:a", "x"),
            lambda: client.hset("__locksmith:a", "x", "y"),
        ):
            store()
            with pytest.raises(LockUnavailable, match="__locksmith:a"):
                caller.acquire(locksmith("a", slots=2))
            assert locksmith.locks() == []
            client.delete("__locksmith:a")
        lease = caller.acquire(locksmith("a", slots=2))
        assert lease is not None
        client.zadd("__locksmith:a", {"odd": 5, "never": float("inf"), "past": 1e12})
        client.zadd("__locksmith:a", {f"@{lease.token}": 2**60})
        assert [info.holder.token for info in locksmith.holders("a") if info.holder] == [lease.token]
        client.delete("__locksmith:a", "__locksmith:<queue>a")


# ---- blocks within blocks


def test_blocks_within_blocks(valkey: Deployment, caller: Caller) -> None:
    """Code may hold as many slots as there are; to wait for one more would be to wait for itself."""
    lock = locksmith("a", slots=2, blocking_timeout=30)
    if caller.name == "sync":
        with lock as outer, lock as inner:
            assert outer.token != inner.token
            with pytest.raises(LockReentered):
                lock.acquire()
            assert lock.acquire(blocking=False) is None
        return

    async def tasks() -> None:
        async with lock as outer, lock as inner:
            assert outer.token != inner.token
            with pytest.raises(LockReentered):
                await lock.aacquire()

    caller.call(tasks)


def test_redis_pys_words(valkey: Deployment) -> None:
    """Who has taken several through one object gives back the latest first."""
    lock = locksmith("a", slots=2)
    assert lock.acquire()
    assert lock.acquire()
    assert lock.owned()
    lock.release()
    assert lock.owned()
    lock.release()
    assert not lock.owned()


def test_around_a_function(valkey: Deployment) -> None:
    """As a decorator, and with a callback, slots are as many calls at a time."""
    entered = threading.Barrier(2)

    @locksmith("a", slots=2)
    def work() -> bool:
        entered.wait(30)  # both are inside
        third = locksmith("a", slots=2).acquire(blocking=False)
        entered.wait(30)  # nobody leaves before both have asked
        return third is None

    threads: list[Any] = []
    results: list[Any] = []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: results.append(work())))
        threads[-1].start()
    for thread in threads:
        thread.join(30)
    assert results == [True, True]
    assert locksmith("a", lambda release: "done", slots=2) == "done"


@pytest.mark.django_db
def test_no_fence_for_rows(valkey: Deployment) -> None:
    """A row is not guarded by the fence of a slot, which says nothing about order: the error says what does."""
    with locksmith("a", slots=2) as lease, pytest.raises(TypeError, match="take a lock for that"):
        Account(note="x").save(fence=lease)


def test_busy_in_tests() -> None:
    """`override_locks(busy=...)` has all slots of a key taken, and gives them back."""
    with override_locks(busy=["a"]) as locks:
        for slots in (2, ["x", "y"]):
            with pytest.raises(LockBusy):
                locksmith("a", slots=slots).take()  # type: ignore[arg-type]  # either fits
            locks.free("a")
            with locksmith("a", slots=slots):  # type: ignore[arg-type]
                pass
            locks.busy("a")
