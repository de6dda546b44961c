"""What the workers of tests/edge/test_tasks.py run: a Celery app, a huey, and functions for RQ, with their settings.

Only those processes import it: it wants to know by its environment where the locks are, and where the queues.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import redis
from celery import Celery
from django.conf import settings
from huey import RedisHuey

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKS, QUEUES, FOLDER = (os.environ[f"LOCKSMITH_TEST_{name}"] for name in ("LOCKS", "QUEUES", "FOLDER"))

settings.configure(
    CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": LOCKS}},
    LOCKSMITH={"REDIS": "default"},
    INSTALLED_APPS=["django_locksmith"],
)
django.setup()

from django_locksmith import locksmith  # noqa: E402  # only now there are settings
from django_locksmith.contrib.celery import lock_task  # noqa: E402  # as above
from django_locksmith.contrib.celery_messages import busy_since  # noqa: E402  # as above

app = Celery("queue_project", broker=QUEUES, backend=QUEUES)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 2,
        # Look every second for what was not acknowledged; kombu before 5.7 does so only when it starts.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
)
huey = RedisHuey("queue_project", url=QUEUES)
there = redis.Redis.from_url(QUEUES, decode_responses=True, socket_timeout=None)  # redis-py 8 would wait for 5 s


def meet_the_test(key: str) -> None:
    """Say that the function is at work, and go on when the test says so."""
    there.rpush(f"entered:{key}", json.dumps([os.getpid(), os.getppid()]))
    assert there.blpop([f"go:{key}"], 60), "the test did not let it go"


@contextmanager
def alone(key: str) -> Iterator[None]:
    """Tell on two who are in the block for one key at the same time. The system sees to it that the dead are out."""
    with (Path(FOLDER) / key).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            there.rpush("overlaps", key)
        yield


# ---- Celery


@app.task(bind=True, max_retries=0)
@lock_task("{key}")
def patient(self: Any, key: str, value: Any = None) -> dict[str, Any]:
    return {"value": value, "retries": self.request.retries, "busy": busy_since(self.request) is not None}


@app.task
@lock_task("{key}", busy_for=1)
def impatient(key: str) -> None: ...


@app.task
@lock_task("{key}", rate_limit=locksmith.rate_limit("api", "2/3s", caution=2))
def calls_the_api(key: str) -> str:
    seconds, micros = there.time()
    there.rpush("called", seconds + micros / 1e6)
    return "done"


@app.task(bind=True)
@lock_task("{key}")
def retries_once_itself(self: Any, key: str) -> list[Any]:
    if not self.request.retries:
        there.set(f"busy:{key}", int(busy_since(self.request) is not None))
        raise self.retry(countdown=0)
    return [there.get(f"busy:{key}"), busy_since(self.request)]


@app.task
@lock_task("{key}", on_busy="skip", label="nightly")
def skips(key: str) -> str:
    meet_the_test(key)
    return "done"


@app.task
@lock_task("{key}")
def adds_one(before: dict[str, Any], key: str) -> int:
    return before["value"] + 1


@app.task
def total(numbers: list[dict[str, Any]]) -> int:
    return sum(each["value"] for each in numbers)


@app.task(soft_time_limit=1)
@lock_task("{key}", blocking_timeout=60)
def waits_too_long(key: str) -> None: ...


@app.task(soft_time_limit=1)
@lock_task("{key}")
def works_too_long(key: str) -> None:
    meet_the_test(key)


@app.task(time_limit=1)
@lock_task("{key}", timeout=1, renew=True)
def hangs(key: str) -> None:
    meet_the_test(key)


@app.task(time_limit=50)
@lock_task("{key}", timeout=10, renew=True)
def longest(key: str) -> float | None:
    lease = locksmith.runtime().latest_lease(key)
    assert lease is not None
    return lease._rules.max_hold


@app.task(bind=True, acks_late=True)
# Longer than the five seconds after which Celery looks whether a process of its pool has died.
@lock_task("{key}", timeout=10, on_busy="skip")
def is_resumed(self: Any, key: str) -> str:
    with alone(key):
        if there.set(f"begun:{self.request.id}", 1, nx=True):
            meet_the_test(key)
    return "done"


@app.task(bind=True, acks_late=True)
@lock_task("{key}", timeout=2, renew=True, on_busy="retry")
def survives(self: Any, key: str, *, doomed: bool) -> None:
    with alone(key):
        there.incr("runs")
        if doomed and there.set(f"begun:{self.request.id}", 1, nx=True):
            meet_the_test("doomed")
        there.blpop(["work"], 0.01)
    there.sadd("done", self.request.id)


@app.task(bind=True, acks_late=True)
@lock_task("{key}", timeout=10, renew=True)
def outlasts(self: Any, key: str) -> str:
    with alone(key):
        there.rpush(f"runs:{self.request.id}", 1)
        meet_the_test(key)
    return "done"


@app.task(bind=True, acks_late=True)
@lock_task("{key}", timeout=10, renew=True, on_busy="skip")
def outlasts_and_skips(self: Any, key: str) -> str:
    there.rpush(f"runs:{self.request.id}", 1)
    meet_the_test(key)
    return "done"


@app.task(bind=True, acks_late=True)
@lock_task("{key}", timeout=10, renew=True, busy_for=1)
def outlasts_impatiently(self: Any, key: str) -> str:
    there.rpush(f"runs:{self.request.id}", 1)
    meet_the_test(key)
    return "done"


# ---- RQ and huey


@locksmith("{key}", blocking=False, on_busy="skip")
def job(key: str) -> str:
    meet_the_test(key)
    return "done"


huey_job = huey.task()(job)


def ask_huey(key: str) -> None:
    """Enqueue a job; once it is at work, the same again; say what came of the second, and then of the first."""
    first = huey_job(key)
    assert there.blpop([f"entered:{key}"], 30)
    print(repr(huey_job(key).get(blocking=True, timeout=30)), flush=True)
    there.rpush(f"go:{key}", 1)
    print(repr(first.get(blocking=True, timeout=30)), flush=True)
