"""Tasks of a rate limit: sent again for their places, while workers do other work."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Retry
from django.test import override_settings

from django_locksmith import Locksmith, RetryLater, locksmith
from django_locksmith.contrib.celery import lock_task
from django_locksmith.contrib.celery_messages import PLACE
from tests.edge.test_tasks import trace
from tests.helpers.servers import poll
from tests.helpers.workers import Queues, without_workers
from tests.rates.test_rate_limits import Bookings, most_within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Celery

    from tests.helpers.deployments import Deployment


@pytest.fixture
def queues(valkey: Deployment, tmp_path: Path) -> Iterator[Queues]:
    with without_workers(valkey, tmp_path) as queues:
        yield queues


def task_of(app: Celery, rate: str = "1/60s", **how: Any) -> Any:
    """A task that says that it has run; its own limit, of which somebody has taken the first place."""
    limit = locksmith.rate_limit("api", rate)
    limit.take()

    @app.task(shared=False)
    @lock_task("a", rate_limit=limit, **how)
    def work() -> str:
        return "done"

    return work


def sent_for(queues: Queues, task: Any, **request: Any) -> tuple[float, list[Any]]:
    """It is sent again: in how many seconds, and with which place."""
    outcome = trace(queues.app, task, **request)
    assert isinstance(outcome.info.retval, Retry)
    place: list[Any] = json.loads(queues.there.lindex("celery", 0) or "")["headers"][PLACE]
    return outcome.info.retval.when, place


def places(valkey: Deployment) -> list[float]:
    """Those that are booked, as seconds by the server's clock."""
    with valkey.server.client() as client:
        return [int(place) / 1e6 for key in client.keys("*<places>*") for place in client.lrange(key, 0, -1)]


@pytest.mark.slow
def test_at_their_places(queues: Queues, valkey: Deployment) -> None:
    """However many tasks come, each runs at its place, and a worker does other work while they are to come."""
    queues.celery(processes=1).has_said(" ready.")
    results = [queues.task("calls_the_api", f"{number}").delay() for number in range(7)]
    poll(lambda: queues.there.llen("called") >= 2, within=30)
    other = queues.task("patient", "x").delay()
    other.get(timeout=30)
    assert queues.there.llen("called") < 7, "it had to wait for those that sleep"
    assert [result.get(timeout=60) for result in results] == ["done"] * 7
    called = sorted(float(each) for each in queues.there.lrange("called", 0, -1))
    assert most_within(called, 3) <= 2
    assert locksmith.locks() == []


def test_sent_again_for_its_place(queues: Queues, valkey: Deployment) -> None:
    """A task whose place is not near is sent again for it, holds no lock meanwhile, and keeps the place."""
    task = task_of(queues.app, "1/30s")
    seconds, place = sent_for(queues, task)
    assert 20 < seconds < 30.1
    assert (place[0], place[2]) == ("api", 0)
    assert locksmith.locks() == []
    again, same = sent_for(queues, task, headers={PLACE: place})
    assert again <= seconds
    assert same == place
    assert len(places(valkey)) == 2


def test_comes_at_its_place(queues: Queues, valkey: Deployment) -> None:
    """Who comes at its place, or a moment before, runs, and books no other."""
    task = task_of(queues.app, "1/3s")
    _, place = sent_for(queues, task)
    booked = Bookings(valkey)
    (_, at) = places(valkey)
    poll(lambda: time.time() > at - 0.8)
    assert trace(queues.app, task, headers={PLACE: place}).retval == "done"
    assert time.time() >= at
    assert booked.are(0)


def test_comes_too_late(queues: Queues, valkey: Deployment) -> None:
    """Whose place is over books another one: others' places rest on its having been used in time."""
    task = task_of(queues.app, "1/2s")
    _, place = sent_for(queues, task)
    (_, at) = places(valkey)
    poll(lambda: time.time() > at + 0.1)
    booked = Bookings(valkey)
    sent_for(queues, task, headers={PLACE: place})
    assert booked.are(1)


@pytest.mark.parametrize("unknown", [["other", 2, 0, 2e9], ["api", 2, 3, 2e9], ["api", 99, 0, 2e9], [], "x", None])
def test_message_of_others(queues: Queues, valkey: Deployment, unknown: Any) -> None:
    """A place that is none of this task, of this try, or of this limit counts for nothing."""
    task = task_of(queues.app)
    booked = Bookings(valkey)
    sent_for(queues, task, headers={PLACE: unknown})
    assert booked.are(1)


def test_pause_meanwhile(queues: Queues) -> None:
    """A pause that moved its place has the task sent again, for where that is now."""
    task = task_of(queues.app, "1/4s")
    _, place = sent_for(queues, task)
    locksmith.rate_limit("api", "1/4s").pause(50)
    seconds, same = sent_for(queues, task, headers={PLACE: place})
    assert 40 < seconds < 51
    assert same == place


def test_api_says_so(queues: Queues) -> None:
    """A `RetryLater` of the function pauses the limit for all, and the task comes again after that."""

    @queues.app.task(shared=False)
    @lock_task("a", rate_limit=locksmith.rate_limit("api", "1/s"))
    def work() -> None:
        raise RetryLater(30)

    seconds, _ = sent_for(queues, work)
    assert 25 < seconds < 31
    (limit,) = locksmith.rate_limits()
    assert 25 < limit.paused_for <= 31


@pytest.mark.parametrize("says_so", [False, True])
def test_busy_for(queues: Queues, valkey: Deployment, says_so: bool) -> None:
    """Whose place is further away than `busy_for` fails with `RetryLater`, and books nothing."""
    task = task_of(queues.app, busy_for=10)
    if says_so:

        @queues.app.task(shared=False)
        @lock_task("b", rate_limit=locksmith.rate_limit("other", "1/s"), busy_for=10)
        def task() -> None:
            raise RetryLater(90)

    outcome = trace(queues.app, task)
    assert outcome.info.state == "FAILURE"
    assert isinstance(outcome.info.retval, RetryLater)
    assert outcome.info.retval.seconds > 40
    assert len(places(valkey)) == 1 + says_so
    waited: Any = [None, 0, 0, time.time() - 3600]
    assert trace(queues.app, task, headers={PLACE: waited}).info.state == "FAILURE"


def test_names(queues: Queues, valkey: Deployment) -> None:
    """The limit's name is a template over the arguments, that of `bind=True` not among them; or in the settings."""
    limit = locksmith.rate_limit("github:{token}", "1/60s")

    @queues.app.task(shared=False, bind=True)
    @lock_task("{token}", rate_limit=limit)
    def work(self: Any, token: str) -> None: ...

    for token in ("x", "y"):
        work.run(token)
    assert [info.name for info in locksmith.rate_limits()] == ["github:x", "github:y"]
    with pytest.raises(ValueError, match="names 'self'"):
        queues.app.task(lock_task("a", rate_limit=locksmith.rate_limit("{self}", "1/s"))(work.__wrapped__), bind=True)
    with pytest.raises(ValueError, match="names 'other'"):
        lock_task("a", rate_limit=locksmith.rate_limit("{other}", "1/s"))(lambda: None)
    with pytest.raises(TypeError, match=r"rate_limit is what locksmith.rate_limit\(\) makes"):
        lock_task("a", rate_limit=5)(lambda: None)  # type: ignore[call-overload]  # that is the point
    with override_settings(LOCKSMITH={"RATE_LIMITS": {"twitter": "1/60s"}}):
        lock_task("a", rate_limit="twitter", service=Locksmith())(lambda: None)
        with pytest.raises(ValueError, match="has no 'github'"):
            lock_task("a", rate_limit="github", service=Locksmith())(lambda: None)


def test_without_a_message(queues: Queues) -> None:
    """Called directly there is no message that could wait: the call does, for as long as the limit says."""
    limit = locksmith.rate_limit("api", "1/60s", blocking_timeout=0)

    @lock_task("a", rate_limit=limit)
    def work() -> str:
        return "done"

    assert work() == "done"
    with pytest.raises(RetryLater):
        work()
    assert queues.app.task(work, shared=False).apply().state == "FAILURE"
