"""A server's master that forks its workers in C, as uWSGI does: no hook of Python runs.

    python c_fork.py REDIS_URL     # says as JSON what its workers found, and what it found afterwards

A process of its own with few threads: what another thread holds at such a fork, nobody lets go in the child.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def in_c_fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child that the C library has forked."""
    reading, writing = os.pipe()
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        said: Any = "it did not end"
        try:
            said = work()
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writing, json.dumps(said).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as end:
        text = end.read()
    os.waitpid(child, 0)
    return json.loads(text)


def main(url: str) -> None:
    import django
    from django.conf import settings

    settings.configure(LOCKSMITH={"REDIS": url}, INSTALLED_APPS=["django_locksmith"])
    django.setup()

    from django_locksmith import LockLost, Locksmith, forks
    from django_locksmith.tokens import new_token
    from tests.helpers.servers import poll

    service = Locksmith(timeout=30)
    lease = service("a").acquire()
    assert lease is not None

    def fresh_token() -> str:
        forks.generation()
        return new_token().split("|", 1)[0]

    def owns_nothing() -> dict[str, Any]:
        found: dict[str, Any] = {"held": lease.held, "remaining": lease.remaining}
        try:
            found["released"] = lease.release()
        except LockLost:
            found["released"] = "lost"
        found["busy"] = service("a").acquire(blocking=False) is None
        own = []
        for _ in range(50):
            with service("b", timeout=3) as taken:
                own.append(taken.held)
        found["own"] = all(own)
        return found

    def renews() -> bool:
        own = service("c", renew=True, timeout=6).acquire()
        assert own is not None
        first = own.deadline
        poll(lambda: own.deadline > first)
        return own.release()

    said = {
        "child": in_c_fork(owns_nothing),
        "tokens": [in_c_fork(fresh_token) for _ in range(5)],
        "ours": fresh_token(),
    }
    for _ in range(50):
        with service("d"):
            pass
    kept = service("kept", renew=True, timeout=5).acquire()
    assert kept is not None
    # A thread that wants to run at the moment of such a fork keeps the child's threads from running: Python's affair.
    renewal = next(iter(service.runtime().renewer()._servers.values()))._clockwork
    poll(lambda: time.monotonic() + 0.5 < renewal._wakes_at < inf)
    said["renews"] = in_c_fork(renews)
    said["after"] = [lease.held, kept.held, lease.release(), kept.release()]
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
