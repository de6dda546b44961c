"""Locks around tasks: real workers of Celery, RQ and huey, which are killed; django.tasks; management commands."""

from __future__ import annotations

import json
import os
import signal
import time
from io import StringIO
from typing import TYPE_CHECKING, Any

import django
import pytest
import redis
import rq
from celery import Celery, Task, chain, chord, current_app
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.test import override_settings

from django_locksmith import LockBusy, Locksmith, Skipped, locksmith
from django_locksmith.contrib.celery import lock_task
from django_locksmith.contrib.celery_messages import HEADER, pause
from tests.helpers import servers
from tests.helpers.servers import poll
from tests.helpers.workers import Queues, Worker, without_workers

if django.VERSION >= (6,):
    from django.tasks import task as django_task
else:
    from django_tasks import task as django_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from django.core.management.base import CommandParser

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment


@pytest.fixture
def queues(valkey: Deployment, tmp_path: Path) -> Iterator[Queues]:
    """Queues without workers."""
    with without_workers(valkey, tmp_path) as queues:
        yield queues


@pytest.fixture(scope="module")
def calm_queues(started: Callable[[str], Deployment], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Queues with a Celery worker that does not have to die."""
    with without_workers(started("valkey"), tmp_path_factory.mktemp("queues")) as queues:
        queues.celery(processes=2).has_said(" ready.")
        yield queues


@pytest.fixture
def calm(valkey: Deployment, calm_queues: Queues) -> Queues:
    """As `calm_queues`; and locks. What tasks of earlier tests have said is forgotten."""
    if said := [*calm_queues.there.keys("entered:*"), *calm_queues.there.keys("go:*")]:
        calm_queues.there.delete(*said)
    return calm_queues


def hold(key: str, timeout: float = 60) -> Lease:
    lease = locksmith(key, timeout=timeout).acquire(blocking=False)
    assert lease is not None
    return lease


# ---- sent again, for later


def was_sent_again(calm: Queues, name: str, identity: str) -> None:
    """Return when the worker says so."""
    words = f"{name}[{identity}] retry: the lock "
    poll(lambda: any(words in worker.said for worker in calm.workers), within=30, every=0.05)


def test_busy_task_is_sent_again(calm: Queues, valkey: Deployment) -> None:
    """A task that finds its lock busy runs when the holder's lease is over, though it has no retries to spend."""
    lease = hold("a")
    result = calm.task("patient", "a", "value").delay()
    was_sent_again(calm, "patient", result.id)
    lease.release()
    assert result.get(timeout=30) == {"value": "value", "retries": 0, "busy": True}
    poll(lambda: not valkey.left_behind())


def test_free_lock(calm: Queues) -> None:
    """A task that finds its lock free runs at once."""
    assert calm.task("patient", "a").delay().get(timeout=30) == {"value": None, "retries": 0, "busy": False}


def test_busy_for(calm: Queues) -> None:
    """A task whose lock is busy for longer than `busy_for` fails with LockBusy, after its last try."""
    hold("a")
    sent = time.monotonic()
    result = calm.task("impatient", "a").delay()
    with pytest.raises(LockBusy) as caught:
        result.get(timeout=30)
    assert caught.value.key == "a"
    assert time.monotonic() - sent >= 1


def test_retry_of_the_task_itself(calm: Queues) -> None:
    """`busy_for` starts anew when the lock was had in between: a task that retries by itself has all its time again."""
    lease = hold("a")
    result = calm.task("retries_once_itself", "a").delay()
    was_sent_again(calm, "retries_once_itself", result.id)
    lease.release()
    assert result.get(timeout=30) == ["1", None]


def test_chain_and_chord(calm: Queues) -> None:
    """A chain goes on, and a chord is complete, when their tasks were sent again."""
    leases = {key: hold(key) for key in ("a", "b", "first", "second")}
    chained = chain(calm.task("patient", "first", 1), calm.task("adds_one", "second")).delay()
    header = [calm.task("patient", "abc"[number % 3], number).set(task_id=f"part-{number}") for number in range(6)]
    joined = chord(header)(calm.task("total"))
    for name, identity, key in (
        ("patient", chained.parent.id, "first"),
        ("adds_one", chained.id, "second"),
        ("patient", "part-0", "a"),
        ("patient", "part-4", "b"),
    ):
        was_sent_again(calm, name, identity)
        leases[key].release()
    assert joined.get(timeout=60) == 15
    assert chained.get(timeout=60) == 2


@pytest.mark.parametrize(
    ("busy_for", "left", "least", "most"),
    [
        (0, 60, 1, 2),  # at first soon, for most are done long before their leases end
        (0, None, 1, 2),
        (0, 0.01, 0.5, 1),  # when the lease is over
        (8, 60, 2, 4),  # then in proportion
        (100, 60, 25, 50),
        (100, 12, 12, 12.5),
        (3600, 3600, 59.9, 60),  # but no less often
    ],
)
def test_pause(busy_for: float, left: float | None, least: float, most: float) -> None:
    """It is tried again soon at first, then less often; when the lease ends; and not by all in the same moment."""
    seconds = [pause(busy_for, left) for _ in range(500)]
    assert least <= min(seconds) <= max(seconds) <= most
    assert max(seconds) - min(seconds) > (most - least) / 2 or most == 60
    assert max(pause(busy_for, left, longest=1) for _ in range(500)) <= 1


def test_countdown() -> None:
    """`countdown` says when, and up to a quarter later."""
    seconds = [pause(100, 0.01, wanted=8) for _ in range(500)]
    assert 8 <= min(seconds) < 8.5 < 9.5 < max(seconds) <= 10
    with pytest.raises(ValueError, match="countdown must be from"):
        lock_task("a", countdown=0)


# ---- no message

TO_CELERY = {"exchange": "", "routing_key": "celery"}


def trace(app: Celery, task: Any, **request: Any) -> Any:
    """Run a task by the code by which workers run it, but here."""
    tracer = build_tracer(task.name, task, app=app)
    return tracer("id-1", [], {}, {"id": "id-1", "ignore_result": True, "delivery_info": TO_CELERY} | request)


def holder_of(key: str) -> str:
    """The label of who holds it."""
    info = locksmith.info(key)
    assert info is not None
    assert info.holder is not None
    return info.holder.label


def test_without_a_message(valkey: Deployment) -> None:
    """A task that is called directly, or eagerly, has no message that could be sent again: it raises LockBusy."""
    with Celery(set_as_current=False, task_always_eager=True) as app:

        @app.task(shared=False, bind=True)
        @lock_task("{key}")
        def work(self: Any, key: str) -> str:
            return holder_of(key)

        assert "[" not in work("a")
        result = work.delay("a")
        assert result.get() == f"{work.name}[{result.id}]"
        hold("a")
        for call in (work, lambda key: work.apply([key]).get(), lambda key: work.delay(key).get()):
            with pytest.raises(LockBusy):
                call("a")


@pytest.mark.parametrize("mode", ["direct", "eager", "worker"])
def test_choices_without_retry(valkey: Deployment, mode: str) -> None:
    """What is done with a busy lock but to send the task again is the same everywhere: raise, skip, or a callable."""
    with Celery(set_as_current=False) as app:

        def outcome(on_busy: Any) -> Any:
            @lock_task("a", on_busy=on_busy)
            def work() -> None: ...

            task = app.task(work, shared=False, name=f"work-{on_busy}")
            if mode == "worker":
                traced = trace(app, task)
                return traced.info.retval if traced.info else traced.retval
            return task() if mode == "direct" else task.apply().result

        hold("a")
        skipped = outcome("skip")
        assert isinstance(skipped, Skipped)
        assert not skipped
        assert outcome(lambda busy: f"instead of {busy.key}") == "instead of a"
        if mode == "direct":
            with pytest.raises(LockBusy):
                outcome("raise")
        else:
            assert isinstance(outcome("raise"), LockBusy)


def test_lock_within_a_task(valkey: Deployment) -> None:
    """A function with a lock of its own that a task calls does not have the task sent again: it raises LockBusy."""
    with Celery(set_as_current=False) as app:

        @lock_task("inner")
        def inner() -> None: ...

        @app.task(shared=False)
        @lock_task("outer")
        def outer() -> str:
            with pytest.raises(LockBusy):
                inner()
            return "went on"

        hold("inner")
        assert trace(app, outer).retval == "went on"


@pytest.mark.parametrize("acks_late", [True, False])
def test_broker_is_down(valkey: Deployment, acks_late: bool) -> None:
    """When the broker does not take the message that is sent again, the task fails, or is left with the broker."""
    with Celery(broker=f"redis://127.0.0.1:{servers.free_port()}", set_as_current=False) as app:
        app.conf.task_publish_retry = False
        app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

        @app.task(shared=False, acks_late=acks_late)
        @lock_task("a")
        def work() -> None: ...

        hold("a")
        outcome = trace(app, work)
        assert outcome.info.state == ("REJECTED" if acks_late else "FAILURE")
        if acks_late:
            assert isinstance(outcome.info.retval, Reject)
            assert outcome.info.retval.requeue
        else:
            assert "refused" in str(outcome.info.retval)


def test_message_of_a_busy_task(queues: Queues) -> None:
    """What is sent again is the same task: its id, its options, its headers, its retries; with a countdown."""

    @queues.app.task(shared=False)
    @lock_task("a", busy_for=None)
    def work() -> None: ...

    def sent(**request: Any) -> dict[str, Any]:
        outcome = trace(queues.app, work, **request)
        assert isinstance(outcome.info.retval, Retry)
        assert 1 <= outcome.info.retval.when <= 60
        headers: dict[str, Any] = json.loads(queues.there.lindex("celery", 0) or "")["headers"]
        return headers

    hold("a")
    of_task = {"retries": 3, "timelimit": [70, 60], "group": "g"}
    headers = sent(headers={"tenant": "x", HEADER: [1.0, 3]}, **of_task)
    assert headers.items() >= (of_task | {"id": "id-1", "tenant": "x", HEADER: [1.0, 3]}).items()
    for unknown in ("from somebody else", [], [1.0, 2], None):
        since, retries = sent(headers={HEADER: unknown}, **of_task)[HEADER]
        assert time.time() - 30 < since <= time.time()
        assert retries == 3


def test_two_locks(queues: Queues) -> None:
    """A task with two locks is sent again when either is busy, and holds none meanwhile."""

    @queues.app.task(shared=False)
    @lock_task("a")
    @lock_task("b")
    def work() -> str:
        return holder_of("a") + holder_of("b")

    assert trace(queues.app, work).retval == f"{work.name}[id-1]" * 2
    for key in ("a", "b"):
        lease = hold(key)
        assert trace(queues.app, work).info.state == "RETRY"
        assert [info.key for info in locksmith.locks()] == [key]
        lease.release()


# ---- skipped


def test_skip(calm: Queues, valkey: Deployment) -> None:
    """A task that is skipped succeeds, its result tells the key and the holder: label, task, and where that runs."""
    working = calm.task("skips", "a").delay()
    child, _ = calm.entered("a")
    (info,) = locksmith.locks()
    assert info.holder is not None
    assert (info.holder.label, info.holder.pid) == (f"nightly[{working.id}]", child)
    skipped = calm.task("skips", "a").delay()
    assert skipped.get(timeout=30) == {"skipped": "a", "holder": str(info.holder)}
    assert skipped.state == "SUCCESS"
    calm.there.rpush("go:a", 1)
    assert working.get(timeout=30) == "done"
    poll(lambda: not valkey.left_behind())


@pytest.mark.parametrize(
    "begun",
    [
        {"delivery_info": TO_CELERY | {"redelivered": True}},
        {"headers": {HEADER: [1.0, 0]}},
        {"id": "held"},
    ],
    ids=["redelivered", "sent again before", "its own lease"],
)
def test_no_skip_of_what_was_begun(queues: Queues, begun: dict[str, Any]) -> None:
    """A task that may have been begun by a worker that died is not skipped: it is sent again."""

    @queues.app.task(shared=False)
    @lock_task("a", on_busy="skip", busy_for=None)
    def work() -> None: ...

    lease = locksmith("a", label=f"{work.name}[held]").acquire()
    assert lease is not None
    assert isinstance(trace(queues.app, work).retval, Skipped)
    assert trace(queues.app, work, **begun).info.state == "RETRY"


def test_slots(queues: Queues, valkey: Deployment) -> None:
    """A task is skipped where all slots are taken, but not if a run of itself has one: that may be dead."""

    @queues.app.task(shared=False)
    @lock_task("a", slots=2, on_busy="skip", busy_for=None)
    def work() -> str:
        return "done"

    with locksmith("a", slots=2, label=f"{work.name}[held]", timeout=900):
        assert trace(queues.app, work).retval == "done"
        with locksmith("a", slots=2):
            assert isinstance(trace(queues.app, work).retval, Skipped)
            assert trace(queues.app, work, id="held").info.state == "RETRY"


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["pool child", "whole worker"])
def test_skip_loses_no_task(queues: Queues, valkey: Deployment, whole: bool) -> None:
    """A task whose worker is killed is done when the dead lease is over, though the broker delivers it before.

    Another task for the same key has nothing to do with the dead worker, and is skipped meanwhile.
    """
    worker = queues.celery()
    result = queues.task("is_resumed", "a").delay()
    child, parent = queues.entered("a")
    assert parent == worker.pid
    if whole:
        queues.kill_and_replace(worker)
    else:
        os.kill(child, signal.SIGKILL)
        skipped = queues.task("is_resumed", "a").delay().get(timeout=30)
        assert skipped["holder"].endswith(f"(tests.helpers.queue_project.is_resumed[{result.id}])")
    assert result.get(timeout=60) == "done"
    assert queues.there.lrange("overlaps", 0, -1) == []
    poll(lambda: not valkey.left_behind())


# ---- killed, and interrupted


@pytest.mark.slow
def test_no_task_is_lost(queues: Queues, valkey: Deployment) -> None:
    """Of 200 late acknowledged tasks each is done, and never two of a key at once, though ten are killed at work."""
    ids = {str(number) for number in range(200)}
    for each in sorted(ids):
        queues.survives(each)
    for _ in range(3):
        queues.celery()
    for _ in range(10):
        child, _ = queues.entered("doomed")
        os.kill(child, signal.SIGKILL)
    poll(lambda: queues.there.scard("done") == 200, within=120)
    print(f"{queues.there.get('runs')} runs of 200 tasks, of which 10 were killed")
    assert queues.there.smembers("done") == ids
    assert queues.there.lrange("overlaps", 0, -1) == []
    queues.kill_all()
    poll(lambda: not valkey.left_behind())


@pytest.mark.slow
def test_whole_workers_die(queues: Queues, valkey: Deployment) -> None:
    """A task whose whole worker is killed is done by another one, once the dead lease is over."""
    for number in range(3):
        worker = queues.celery()
        queues.survives(f"{20 * number + 7}")  # of this number it is one that waits to be killed
        _, parent = queues.entered("doomed")
        assert parent == worker.pid
        queues.kill_and_replace(worker)
        poll(lambda number=number: queues.there.scard("done") == number + 1, within=60)
        queues.kill_all()
    assert queues.there.lrange("overlaps", 0, -1) == []
    poll(lambda: not valkey.left_behind())


def test_soft_limit_while_waiting(calm: Queues, valkey: Deployment) -> None:
    """A soft time limit that comes while the task waits for its lock leaves no place in the queue behind."""
    lease = hold("a")
    result = calm.task("waits_too_long", "a").delay()
    poll(lambda: (info := locksmith.info("a")) and info.waiters == 1)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=30)
    poll(lambda: (info := locksmith.info("a")) and info.waiters == 0)
    lease.release()
    assert not valkey.left_behind()


def test_soft_limit_in_the_work(calm: Queues, valkey: Deployment) -> None:
    """A soft time limit that comes while the task works gives the lock back at once."""
    result = calm.task("works_too_long", "a").delay()
    calm.entered("a")
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=30)
    assert not valkey.left_behind()


def test_hard_limit(calm: Queues, valkey: Deployment) -> None:
    """A task that its hard time limit kills keeps the lock for its lease."""
    result = calm.task("hangs", "a").delay()
    calm.entered("a")
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    poll(lambda: not valkey.left_behind(), within=1.5)


def test_hard_limit_ends_renewal(calm: Queues) -> None:
    """A lease is renewed for as long as the task may run: the hard time limit of this run, or its own."""
    assert calm.task("longest", "a").delay().get(timeout=30) == 50
    assert calm.task("longest", "a").apply_async(time_limit=70).get(timeout=30) == 70
    assert calm.task("longest", "a").apply_async(time_limit=5).get(timeout=30) == 10, "the lease is longer"


@pytest.mark.parametrize(
    ("options", "settings", "seconds"),
    [
        ({"renew": True}, {}, 40),
        ({}, {}, None),
        ({}, {"RENEW": True}, 40),
        ({"renew": True, "max_hold": 30}, {}, 30),
        ({"renew": True, "max_hold": None}, {}, None),
        ({"renew": True}, {"MAX_HOLD": 300}, 300),
    ],
)
def test_hard_limit_of_all_tasks(
    valkey: Deployment, options: dict[str, Any], settings: dict[str, Any], seconds: float | None
) -> None:
    """Without renewal no limit is needed, and one that was given counts more than that of the tasks."""
    with (
        override_settings(LOCKSMITH={"REDIS": "default", "TIMEOUT": 20} | settings),
        Celery(set_as_current=False, task_time_limit=40) as app,
    ):

        @app.task(shared=False)
        @lock_task("a", **options)
        def work() -> float | None:
            lease = locksmith.runtime().latest_lease("a")
            assert lease is not None
            return lease._rules.max_hold

        assert trace(app, work).retval == seconds


# ---- what is written above a task


def test_key(valkey: Deployment) -> None:
    """The key is a template over the arguments, however they are given, or the function's name; `self` is no part."""
    with Celery(set_as_current=False) as app:

        @app.task(shared=False, bind=True)
        @lock_task("import:{account_id}:{kind}")
        def bound(self: Any, account_id: int, kind: str = "all") -> list[str]:
            return [info.key for info in locksmith.locks()]

        @app.task(shared=False)
        @lock_task()
        def bare(account_id: int) -> list[str]:
            return [info.key for info in locksmith.locks()]

        assert bound(7) == bound(account_id=7) == bound.apply([7]).get() == ["import:7:all"]
        assert bare(7) == [f"{__name__}.test_key.<locals>.bare"]


def test_key_of_the_task_itself(valkey: Deployment) -> None:
    """A key that names the task of `bind=True` would be another one in each process: it is refused."""
    with pytest.raises(ValueError, match=r"names 'self', which is no argument \(it has account_id\)"):

        @lock_task("import:{self}")
        def work(self: Any, account_id: int) -> None: ...

    with Celery(set_as_current=False) as app:

        @app.task(shared=False, bind=True)
        @lock_task("import:{task}")
        def other(task: Any) -> None: ...

        with pytest.raises(ValueError, match="names 'task', which is no argument"):
            other()


def test_class_of_a_task(queues: Queues) -> None:
    """The `run` of a task that is a class takes a lock, too."""

    class Work(Task):
        name = "work"

        @lock_task("{key}")
        def run(self, key: str = "a") -> str:
            return holder_of(key)

    work = queues.app.register_task(Work())
    assert trace(queues.app, work).retval == "work[id-1]"
    hold("a")
    assert trace(queues.app, work).info.state == "RETRY"


def test_autoretry(queues: Queues) -> None:
    """A task that Celery retries for any error is sent again when its lock is busy, and no retry is counted."""

    @queues.app.task(shared=False, autoretry_for=(Exception,), max_retries=0)
    @lock_task("a")
    def work() -> None: ...

    hold("a")
    assert isinstance(trace(queues.app, work).info.retval, Retry)
    assert json.loads(queues.there.lindex("celery", 0) or "")["headers"]["retries"] == 0


def test_other_service(valkey: Deployment) -> None:
    """`service` says whose locks they are."""
    billing = Locksmith(prefix="billing:")

    @lock_task("a", service=billing)
    def work() -> list[str]:
        return [info.key for info in billing.locks()] + [info.key for info in locksmith.locks()]

    assert work() == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_busy": "wait"}, "on_busy must be 'retry', 'skip', 'raise' or a callable, not 'wait'"),
        ({"busy_for": -1}, "busy_for must be 0 or more seconds"),
        ({"timeout": 0}, "timeout must be from"),
        ({"blocking": False, "blocking_timeout": 5}, "blocking=False says not to"),
        ({"max_hold": 60}, "needs renew=True"),
        ({"label": 7}, "label must be a str"),
        ({"service": "default"}, "service must be a Locksmith"),
    ],
)
def test_bad_options(valkey: Deployment, options: dict[str, Any], words: str) -> None:
    """An option that cannot be meant is refused where the task is defined, by an error that names it."""
    with pytest.raises((TypeError, ValueError), match=words):
        lock_task("a", **options)(lambda: None)


def test_no_function_of_a_task(valkey: Deployment) -> None:
    """What is no function of a Celery task is refused, with the way out."""

    async def coroutine() -> None: ...

    def generator() -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=r"write @lock_task\(\)"):
        lock_task(generator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Celery awaits none"):
        lock_task("a")(coroutine)
    with pytest.raises(TypeError, match="is a generator"):
        lock_task("a")(generator)


# ---- the system check


@pytest.mark.parametrize(
    ("broker", "seconds", "options", "warned"),
    [
        ("redis://", 30, {"timeout": 60}, 60),
        ("redis://", 60, {"timeout": 60}, None),
        ("redis://", None, {"timeout": 3601}, 3601),
        ("sqs://", None, {"timeout": 1801}, 1801),
        ("amqp://", None, {"timeout": 86400}, None),
        ("redis://", 30, {"timeout": 20, "renew": True}, 40),
        ("redis://", 30, {"timeout": 20, "renew": True, "max_hold": None}, None),
        ("redis://", 30, {"timeout": 20, "renew": True, "max_hold": 25}, None),
    ],
)
def test_check(
    valkey: Deployment, broker: str, seconds: float | None, options: dict[str, Any], warned: float | None
) -> None:
    """A late acknowledged task that may hold its lock for longer than the broker waits with it is warned of."""
    before = current_app._get_current_object()
    with Celery(broker=broker, set_as_current=True, task_time_limit=40) as app:
        try:
            if seconds is not None:
                app.conf.broker_transport_options = {"visibility_timeout": seconds}

            @lock_task("a", **options)
            def work() -> None: ...

            app.task(work, shared=False, name="late", acks_late=True)
            app.task(work, shared=False, name="early")
            # Other tests have shared tasks, which belong to whichever app is the current one.
            ours = ("the task late ", "the task early ")
            found = [each for each in run_checks() if each.id == "locksmith.W005" and each.msg.startswith(ours)]
            assert len(found) == (warned is not None)
            assert all(
                f"the task late is acknowledged late and may hold its lock for {warned} s" in each.msg for each in found
            )
        finally:
            before.set_current()


# ---- other queues, with the plain decorator


@django_task
@locksmith("django:{key}", blocking=False)
def django_job(key: str) -> str:
    return holder_of(f"django:{key}")


@django_task
@locksmith("django:{key}", blocking=False, on_busy=str)
def cautious_django_job(key: str) -> str:
    return holder_of(f"django:{key}")


@django_task
@locksmith("django:{key}", blocking=False)
async def async_django_job(key: str) -> str | None:
    info = await locksmith.ainfo(f"django:{key}")
    return info and info.holder and info.holder.label


@pytest.mark.parametrize("job", [django_job, async_django_job], ids=["sync", "async"])
def test_django_tasks(valkey: Deployment, job: Any) -> None:
    """A function of django.tasks takes a lock, sync or async; when it is busy, the task fails with LockBusy."""
    assert job.enqueue("a").return_value
    assert not valkey.left_behind()
    hold("django:a")
    assert job.enqueue("a").errors[0].exception_class is LockBusy


def test_django_task_that_is_not_done(valkey: Deployment) -> None:
    """A function of django.tasks may say itself what its result is when the lock is busy."""
    hold("django:a")
    busy = cautious_django_job.enqueue("a")
    assert busy.status == "SUCCESSFUL"
    assert busy.return_value == "the lock is held by somebody else"


@django_task
@locksmith("django:{key}", blocking=False, on_busy="skip")
def skipped_django_job(key: str) -> str:
    return "done"


def test_django_task_that_is_skipped(valkey: Deployment) -> None:
    """A function of django.tasks that is skipped tells so by its result."""
    hold("django:a")
    skipped = skipped_django_job.enqueue("a")
    assert skipped.status == "SUCCESSFUL"
    assert skipped.return_value["skipped"] == "django:a"
    assert str(os.getpid()) in skipped.return_value["holder"]


def test_rq(queues: Queues, valkey: Deployment) -> None:
    """A function that an RQ worker runs takes a lock; a second worker that finds it busy skips it."""
    with redis.Redis(port=queues.server.port) as connection:
        queue = rq.Queue("jobs", connection=connection)

        def started_worker() -> Worker:
            url = queues.server.url
            return queues.start("-m", "rq.cli", "worker", "jobs", "--burst", "-w", "rq.SimpleWorker", "--url", url)

        working = queue.enqueue("tests.helpers.queue_project.job", "a")
        worker = started_worker()
        queues.entered("a")
        skipped = queue.enqueue("tests.helpers.queue_project.job", "a")
        started_worker().ends()
        assert skipped.return_value() == Skipped("a", locksmith.locks()[0].holder)
        queues.there.rpush("go:a", 1)
        worker.ends()
        assert working.return_value() == "done"
    assert not valkey.left_behind()


def test_huey(queues: Queues, valkey: Deployment) -> None:
    """A function that a huey consumer runs takes a lock; a second worker that finds it busy skips it."""
    consumer = queues.start("-m", "huey.bin.huey_consumer", "tests.helpers.queue_project.huey", "--workers", "2")
    said = queues.start("-c", "from tests.helpers.queue_project import ask_huey; ask_huey('a')").ends().splitlines()
    assert said[0].startswith("Skipped(key='a', holder=Holder(")
    assert said[1:] == ["'done'"]
    assert not valkey.left_behind()
    consumer.process.send_signal(signal.SIGINT)
    consumer.ends()


class NightlyReport(BaseCommand):
    """A command as users write them."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("region")

    @locksmith("report:{region}", blocking=False)
    def handle(self, *args: Any, region: str, **options: Any) -> str:
        return holder_of(f"report:{region}")


def test_management_command(valkey: Deployment) -> None:
    """A management command takes a lock whose key has its options in it; when it is busy, LockBusy is raised."""
    assert call_command(NightlyReport(), "north", stdout=StringIO())
    assert not valkey.left_behind()
    hold("report:north")
    with pytest.raises(LockBusy):
        call_command(NightlyReport(), "north")
    assert call_command(NightlyReport(), "south", stdout=StringIO())
