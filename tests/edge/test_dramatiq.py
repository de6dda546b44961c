"""The recipe of docs/tasks.md for dramatiq, with workers of its own in this process."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from django_locksmith import LockBusy, locksmith

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.deployments import Deployment


@pytest.fixture
def broker() -> Iterator[StubBroker]:
    """Two workers that take what comes."""
    broker = StubBroker()
    broker.emit_after("process_boot")
    worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=2)
    worker.start()
    yield broker
    worker.stop()
    broker.close()


def test_dramatiq(valkey: Deployment, broker: StubBroker, caplog: pytest.LogCaptureFixture) -> None:
    """An actor that finds its lock busy comes again until it was its turn: each message is done, one at a time."""
    caplog.set_level(logging.INFO)
    at_work, go_on = threading.Event(), threading.Event()
    done: list[int] = []
    crowded: list[int] = []

    def try_later(busy: LockBusy) -> None:
        go_on.set()
        raise dramatiq.Retry(str(busy), delay=50)

    @locksmith("import:{account_id}", blocking=False, on_busy=try_later)
    def work(account_id: int) -> None:
        if at_work.is_set():
            crowded.append(account_id)
        at_work.set()
        assert go_on.wait(30)
        at_work.clear()
        done.append(account_id)

    actor = dramatiq.actor(work, broker=broker, max_retries=600)
    for _ in range(3):
        actor.send(7)
    broker.join(actor.queue_name, timeout=30_000)
    assert (done, crowded) == ([7, 7, 7], [])
    assert not [record for record in caplog.records if record.exc_info], "a busy try has no traceback"
    assert locksmith.locks() == []
