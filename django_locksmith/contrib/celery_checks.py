"""A system check for users of `lock_task`. It asks no server, and looks at the tasks that have been imported."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from celery import current_app
from django.core import checks

_DEFAULTS = {"redis": 3600.0, "rediss": 3600.0, "redis+socket": 3600.0, "sentinel": 3600.0, "sqs": 1800.0}
"""Seconds after which a broker delivers again what was not acknowledged; others wait until the connection ends."""


def check_visibility_timeout(**kwargs: Any) -> list[checks.CheckMessage]:
    """W005: the broker delivers a task again while its first run may still hold the lock."""
    locked = {
        task: locks for name, task in current_app.tasks.items() if (locks := getattr(task.run, "task_locks", None))
    }
    visible = _visibility_timeout() if locked else None
    if visible is None:
        return []
    found: list[checks.CheckMessage] = []
    for task, locks in locked.items():
        longest = [seconds for lock in locks if (seconds := lock.longest_hold(task)) is not None]
        if task.acks_late and longest and max(longest) > visible:
            found.append(
                checks.Warning(
                    f"the task {task.name} is acknowledged late and may hold its lock for {max(longest):g} s, but the"
                    f" broker delivers it again after {visible:g} s",
                    hint="Let broker_transport_options['visibility_timeout'] be longer than the longest task.",
                    id="locksmith.W005",
                )
            )
    return found


def _visibility_timeout() -> float | None:
    settings = current_app.conf
    given = (settings.broker_transport_options or {}).get("visibility_timeout")
    if given is not None:
        return float(given)
    broker = settings.broker_read_url or settings.broker_url
    first = broker[0] if isinstance(broker, (list, tuple)) and broker else broker
    return _DEFAULTS.get(urlsplit(str(first or "")).scheme)
