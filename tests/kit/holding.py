"""What the tests of the test kit have in common."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from django_locksmith import Locksmith, locksmith

if TYPE_CHECKING:
    from collections.abc import Callable

    from django_locksmith import Lease
    from tests.helpers.callers import Caller


def acquire(caller: Caller, key: str, service: Locksmith = locksmith, **options: Any) -> Lease:
    lease = caller.acquire(service(key, **options))
    assert lease is not None
    return lease


def succeeds_in_a_forked_child(service: Locksmith, work: Callable[[], object]) -> bool:
    """Fork while another thread, so to speak, is using the server in memory; does the work give something true?"""
    server = service.runtime().deployment().nodes()[0]._settings["server"]
    with server.lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # rather than to hang
            code = 1
            try:
                code = 7 if work() else 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
