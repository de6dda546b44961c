"""The signals: when they are sent, and with what."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async

from django_locksmith import LockBusy, LockLost, Locksmith, LockUnavailable, locksmith, signals
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Lease
    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment

NAMES = ["acquired", "busy", "unavailable", "released", "lost", "cleared"]


class Heard:
    """What each signal was sent with, in order."""

    def __init__(self) -> None:
        self.acquired: list[dict[str, Any]] = []
        self.busy: list[dict[str, Any]] = []
        self.unavailable: list[dict[str, Any]] = []
        self.released: list[dict[str, Any]] = []
        self.lost: list[dict[str, Any]] = []
        self.cleared: list[dict[str, Any]] = []

    def receiver(self, name: str, kind: str) -> Callable[..., Any]:
        def receive(sender: object, signal: object, **named: Any) -> None:
            assert sender is None
            getattr(self, name).append(named)

        async def receive_async(sender: object, **named: Any) -> None:
            receive(sender, **named)

        return receive if kind == "sync" else receive_async

    def counts(self) -> dict[str, int]:
        return {name: len(calls) for name in NAMES if (calls := getattr(self, name))}


@pytest.fixture(params=["sync", "async"])
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    """A receiver of each signal, sync or async."""
    heard = Heard()
    receivers = {name: heard.receiver(name, request.param) for name in NAMES}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    yield heard
    for name, receiver in receivers.items():
        assert getattr(signals, name).disconnect(receiver)


def acquire(caller: Caller, key: str, **options: Any) -> Lease:
    lease = caller.acquire(locksmith(key, **options))
    assert lease is not None
    return lease


def test_acquired_and_released(valkey: Deployment, caller: Caller, heard: Heard) -> None:
    """Acquiring tells the lease and how long it took, releasing how long it was held; a second release nothing."""
    started = time.monotonic()
    lease = acquire(caller, "a")
    (told,) = heard.acquired
    assert told.keys() == {"lease", "waited"}
    assert told["lease"] is lease
    assert 0 <= told["waited"] <= time.monotonic() - started
    waiter = caller.start_acquire(locksmith("a"))
    poll(lambda: (info := caller.info(locksmith, "a")) and info.waiters == 1)
    caller.release(lease)
    following = waiter.result(10)
    poll(lambda: len(heard.acquired) == 2)
    assert heard.acquired[1]["lease"] is following
    assert 0 < heard.acquired[1]["waited"] < 10
    (told,) = heard.released
    assert told.keys() == {"lease", "held_for"}
    assert told["lease"] is lease
    assert 0 < told["held_for"] < 10
    caller.release(lease)
    assert heard.counts() == {"acquired": 2, "released": 1}


def test_blocks_tell(valkey: Deployment, caller: Caller, heard: Heard) -> None:
    """A block tells of its lock as an acquire and a release do."""
    lease = caller.within(locksmith("a"), lambda lease: lease)
    assert heard.counts() == {"acquired": 1, "released": 1}
    assert heard.acquired[0]["lease"] is heard.released[0]["lease"] is lease


@pytest.mark.parametrize("wait", [0, 0.05])
def test_busy(valkey: Deployment, caller: Caller, heard: Heard, wait: float) -> None:
    """A wait that ends without the lock tells the key and the LockBusy, whether that is raised or not."""
    acquire(caller, "a", label="other", timeout=60)
    heard.acquired.clear()
    assert caller.acquire(locksmith("a", blocking_timeout=wait)) is None
    with pytest.raises(LockBusy) as caught:
        caller.within(locksmith("a", blocking_timeout=wait), lambda lease: None)
    assert heard.counts() == {"busy": 2}
    assert heard.busy[1]["error"] is caught.value
    for told in heard.busy:
        assert told.keys() == {"key", "template", "error"}
        assert told["key"] == told["error"].key == "a"
        assert told["error"].holder.label == "other"
        assert 50 < told["error"].retry_after <= 60


def test_unavailable(own_server: Deployment, caller: Caller, heard: Heard) -> None:
    """An acquire that Redis does not answer tells the key and the LockUnavailable, and neither busy nor acquired."""
    own_server.server.kill()
    with pytest.raises(LockUnavailable) as caught:
        caller.acquire(locksmith("a", template="all"), blocking=False)
    assert heard.counts() == {"unavailable": 1}
    assert heard.unavailable == [{"key": "a", "template": "all", "error": caught.value}]


def run_out(caller: Caller) -> Lease:
    lease = acquire(caller, "a", timeout=0.05)
    poll(lambda: lease.lost)
    return lease


def find_out_at_release(caller: Caller) -> Lease:
    lease = acquire(caller, "a")
    assert caller.clear(locksmith, "a")
    with pytest.raises(LockLost):
        caller.release(lease)
    return lease


def find_out_at_extend(caller: Caller) -> Lease:
    lease = acquire(caller, "a")
    assert caller.clear(locksmith, "a")
    with pytest.raises(LockLost):
        caller.extend(lease, 5)
    return lease


def find_out_at_renewal(caller: Caller) -> Lease:
    lease = acquire(caller, "a", timeout=3, renew=True)
    assert caller.clear(locksmith, "a")
    poll(lambda: lease.lost)
    return lease


@pytest.mark.parametrize(
    ("lose", "why"),
    [
        (run_out, "its lease of 0.05 s ran out"),
        (find_out_at_release, "Redis did not have it any more when it was released"),
        (find_out_at_extend, "Redis did not have it any more when it was to be extended"),
        (find_out_at_renewal, "Redis did not have it any more when it was to be renewed"),
    ],
)
def test_lost(valkey: Deployment, caller: Caller, heard: Heard, lose: Callable[[Caller], Lease], why: str) -> None:
    """However a lease comes to a bad end: that is told once, with the reason, and not as a release."""
    lease = lose(caller)
    poll(lambda: heard.lost)
    assert not lease.held
    assert [told.keys() for told in heard.lost] == [{"lease", "why"}]
    assert heard.lost[0]["lease"] is lease
    assert heard.lost[0]["why"] == why
    assert heard.released == []


def test_cleared(valkey: Deployment, caller: Caller, heard: Heard) -> None:
    """Clearing tells of each lock that was taken, as it was seen before; of no other."""
    for key in ("a", "b", "c"):
        acquire(caller, key)
    seen = caller.locks(locksmith)
    caller.clear(locksmith, *[info.key for info in seen[:2]], "not held")
    assert [told.keys() for told in heard.cleared] == [{"info"}, {"info"}]
    assert [(told["info"].key, told["info"].holder) for told in heard.cleared] == [
        (info.key, info.holder) for info in seen[:2]
    ]


def test_failing_receivers(valkey: Deployment, caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that fails is in the log, and changes nothing for who holds, waits, releases or clears."""
    failed = []

    def fail(signal: object, **named: Any) -> None:
        failed.append(signal)
        raise ZeroDivisionError

    for name in NAMES:
        getattr(signals, name).connect(fail)
    try:
        lease = acquire(caller, "a")
        assert caller.acquire(locksmith("a"), blocking=False) is None
        assert caller.release(lease) is True
        assert caller.within(locksmith("a"), lambda lease: "result") == "result"
        find_out_at_release(caller)
        poll(lambda: signals.lost in failed)
        with pytest.raises(LockUnavailable):
            caller.acquire(Locksmith(redis="redis://127.0.0.1:1/0")("a"), blocking=False)
    finally:
        for name in NAMES:
            getattr(signals, name).disconnect(fail)
    assert set(map(id, failed)) == {id(getattr(signals, name)) for name in NAMES}
    assert "ZeroDivisionError" in caplog.text
    assert caller.locks(locksmith) == []


def test_async_receivers_of_synchronous_code_in_a_task(valkey: Deployment, monkeypatch: Any) -> None:
    """An async receiver changes nothing for synchronous code that runs within a task, either."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def receive(**named: Any) -> None: ...

    async def scenario() -> str:
        with locksmith("a"):
            return "result"

    signals.acquired.connect(receive)
    signals.released.connect(receive)
    try:
        assert asyncio.run(scenario()) == "result"
    finally:
        signals.acquired.disconnect(receive)
        signals.released.disconnect(receive)


def test_observers(valkey: Deployment, caller: Caller) -> None:
    """An observer hears, on the spot and by whoever acts, what a receiver hears; and no more when it is taken off."""
    told: list[tuple[dict[str, Any], bool]] = []

    def observe(**named: Any) -> None:
        told.append((named, in_loop()))

    signals.acquired.observe(observe)
    try:
        lease = acquire(caller, "a")
    finally:
        signals.acquired.ignore(observe)
    caller.release(lease)
    caller.release(acquire(caller, "b"))
    ((named, looped),) = told
    assert named.keys() == {"lease", "waited"}
    assert named["lease"] is lease
    assert looped is (caller.name == "async")


def in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_observers_of_a_loss(valkey: Deployment, caller: Caller) -> None:
    """Observers hear of losses in time, too."""
    told: list[dict[str, Any]] = []

    def observe(**named: Any) -> None:
        told.append(named)

    signals.lost.observe(observe)
    try:
        lease = run_out(caller)
        poll(lambda: told)
    finally:
        signals.lost.ignore(observe)
    assert told == [{"lease": lease, "why": "its lease of 0.05 s ran out"}]


def test_failing_observers(valkey: Deployment, caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """An observer that fails is in the log, and changes nothing for anybody, nor for the other observers."""
    told: list[str] = []

    def fail(**named: Any) -> None:
        raise ZeroDivisionError

    def hear(**named: Any) -> None:
        told.append("released")

    for observer in (fail, hear):
        signals.released.observe(observer)
    try:
        assert caller.release(acquire(caller, "a")) is True
    finally:
        for observer in (fail, hear):
            signals.released.ignore(observer)
    assert told == ["released"]
    assert "ZeroDivisionError" in caplog.text
    assert not signals.released.wanted


def test_tasks_do_not_wait_for_threads(valkey: Deployment) -> None:
    """A task that is observed does not stand behind what threads do for other tasks, with the lock in its hands."""

    def observe(**named: Any) -> None: ...

    async def scenario() -> None:
        busy, over = threading.Event(), threading.Event()

        def work() -> None:
            busy.set()
            assert over.wait(30)

        task = asyncio.create_task(sync_to_async(work)())
        await asyncio.to_thread(busy.wait, 10)

        async def take() -> None:
            async with locksmith("a"):
                pass

        try:
            await asyncio.wait_for(take(), 10)
        finally:
            over.set()
            await task

    signals.acquired.observe(observe)
    try:
        asyncio.run(scenario())
    finally:
        signals.acquired.ignore(observe)
