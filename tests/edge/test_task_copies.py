"""Tasks whose messages are delivered twice: what was done is not done again, and stays what it was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from django_locksmith import LockBusy, locksmith
from django_locksmith.contrib.celery import lock_task
from django_locksmith.contrib.celery_messages import HEADER
from tests.edge.test_tasks import TO_CELERY, hold, trace
from tests.helpers.servers import poll
from tests.helpers.workers import Queues, without_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.deployments import Deployment

AGAIN = {"delivery_info": TO_CELERY | {"redelivered": True}}


@pytest.fixture
def queues(valkey: Deployment, tmp_path: Path) -> Iterator[Queues]:
    with without_workers(valkey, tmp_path) as queues:
        yield queues


@pytest.mark.parametrize("name", ["outlasts", "outlasts_and_skips", "outlasts_impatiently"])
def test_longer_than_the_visibility_timeout(queues: Queues, valkey: Deployment, name: str) -> None:
    """A task that outlasts the broker's patience runs once, succeeds, and leaves no message behind."""
    queues.celery(processes=2).has_said(" ready.")
    result = queues.task(name, "a").delay()
    queues.entered("a")
    # kombu before 5.7 looks for what was not acknowledged when a worker starts.
    poll(lambda: queues.there.zcount("unacked_index", 0, time.time() - 2.1), within=30)
    other = queues.celery()
    busy = f"{name}[{result.id}] retry: the lock 'a' is held"
    poll(lambda: any(busy in worker.said for worker in queues.workers), within=60, every=0.1)
    time_is_over = time.monotonic() + 1.5
    poll(lambda: time.monotonic() > time_is_over)  # longer than the impatient one waits for others
    queues.there.rpush("go:a", 1)
    assert result.get(timeout=30) == "done"
    done = f"{result.id} was done already"
    poll(lambda: any(done in worker.said for worker in queues.workers), within=60, every=0.1)
    poll(lambda: not queues.there.llen("celery") and not queues.there.hlen("unacked"), within=30)
    assert queues.there.llen(f"runs:{result.id}") == 1
    assert queues.app.AsyncResult(result.id).state == "SUCCESS"
    assert other.process.poll() is None
    with valkey.server.client() as client:
        assert client.pttl(f"__locksmith:<done>{result.id}") > 2 * 2000  # the visibility timeout of these queues


class Runs:
    """A task of the code by which workers run tasks, and how often it ran."""

    def __init__(self, app: Celery, **options: Any) -> None:
        self.count = 0

        @app.task(shared=False, acks_late=True)
        @lock_task("a", **options)
        def work() -> None:
            self.count += 1

        self.task = work
        self.app = app

    def run(self, **request: Any) -> Any:
        traced = trace(self.app, self.task, **request)
        return traced.info.state if traced.info else "SUCCESS"


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery(set_as_current=False, broker="memory://") as app:
        yield app


@pytest.mark.parametrize(
    ("copy", "runs"),
    [
        (AGAIN, 1),
        ({"headers": {HEADER: [1.0, 0]}}, 1),  # it found its lock busy while the first ran
        ({}, 2),  # sent again by somebody, with an id of his own
        ({"headers": {HEADER: [1e12, 0]}}, 2),  # so was this, and then it found its lock busy
        (AGAIN | {"id": "another"}, 2),
    ],
    ids=["delivered again", "sent again", "another message", "another message, sent again", "another task"],
)
def test_copies(valkey: Deployment, app: Celery, copy: dict[str, Any], runs: int) -> None:
    """What was done is not done again by a copy of its message; other messages are no copies."""
    work = Runs(app)
    work.run()
    state = work.run(**copy)
    assert work.count == runs
    assert state == ("SUCCESS" if runs == 2 else "IGNORED")
    assert locksmith.info("a") is None


def test_copy_of_what_failed(valkey: Deployment, app: Celery) -> None:
    """What failed, or whose worker died, is not done: its copy runs."""
    count = []

    @app.task(shared=False, acks_late=True)
    @lock_task("a")
    def work() -> None:
        count.append(1)
        raise ZeroDivisionError

    for request in ({}, AGAIN):
        assert trace(app, work, **request).info.state == "FAILURE"
    assert len(count) == 2


@pytest.mark.parametrize("on_busy", ["retry", "skip"])
def test_copy_that_finds_others_at_work(valkey: Deployment, app: Celery, on_busy: str) -> None:
    """A copy that is not needed does not wait for others that have its lock, nor fail because of them."""
    work = Runs(app, on_busy=on_busy, busy_for=1)
    work.run()
    hold("a")
    assert work.run(**AGAIN) == "IGNORED"
    assert work.run(headers={HEADER: [1.0, 0]}) == "IGNORED"
    with pytest.raises(LockBusy):
        locksmith("a", blocking=False).take()


def test_nothing_is_kept_of_tasks_that_come_once(valkey: Deployment, app: Celery) -> None:
    """What is acknowledged before it runs cannot be delivered again: nothing is remembered of it."""

    @app.task(shared=False)
    @lock_task("a")
    def work() -> None: ...

    trace(app, work)
    with valkey.server.client() as client:
        assert not client.keys("*<done>*")


def test_redis_goes_down_during_the_task(own_server: Deployment, app: Celery, caplog: Any) -> None:
    """Where nobody can be told that it is done, it is done all the same; that it may be done again is logged."""

    @app.task(shared=False, acks_late=True)
    @lock_task("a", on_lost="log")
    def work() -> str:
        own_server.server.kill()
        return "done"

    traced = trace(app, work)
    assert traced.info is None
    assert traced.retval == "done"
    assert "id-1 is done, and may be done again" in caplog.text


def test_names_of_marks_are_not_for_locks(valkey: Deployment) -> None:
    """A mark is no lock: nobody can take it, and it is not listed."""
    with pytest.raises(ValueError, match="reserved"):
        locksmith("<done>id-1")
