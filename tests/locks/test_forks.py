"""Forks that run no hook of Python, as servers make them that fork in C."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from django_locksmith import LockLost, Locksmith
from django_locksmith.tokens import new_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork of the C library is called by its name")


def in_c_fork(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child that the C library has forked, without a word to Python."""
    reading, writing = os.pipe()
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        said = b"it did not end"
        try:
            said = json.dumps(work()).encode()
        except BaseException as error:
            said = json.dumps(repr(error)).encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as end:
            return json.loads(end.read())
    finally:
        os.waitpid(child, 0)


def test_child_owns_nothing(valkey: Deployment) -> None:
    """Such a child holds nothing of its parent's, cannot free it, and uses connections and tokens of its own."""
    service = Locksmith(timeout=30)
    lease = service("a").acquire()
    assert lease is not None

    def work() -> list[Any]:
        found: list[Any] = [lease.held, lease.remaining]
        try:
            found.append(lease.release())
        except LockLost:
            found.append("lost")
        found.append(service("a").acquire(blocking=False) is None)
        for _ in range(50):
            with service("b", renew=True, timeout=3) as own:
                found.append(own.held)
        found.append(new_token().split("-")[0])
        return found

    held, remaining, released, busy, *owned, random = in_c_fork(work)
    assert (held, remaining, released, busy) == (False, 0, "lost", True)
    assert owned == [True] * 50
    assert random != new_token().split("-")[0]
    for _ in range(50):
        with service("c"):
            pass
    assert lease.held
    assert lease.release() is True


def test_children_have_different_tokens(valkey: Deployment) -> None:
    """Two such children of one parent never make the same token, so that neither is taken for the other."""
    new_token()
    tokens = [in_c_fork(lambda: new_token().split("|")[0]) for _ in range(5)]
    assert len(set(tokens)) == 5


def test_renewal_goes_on_in_the_child(valkey: Deployment) -> None:
    """A child whose parent renews leases renews its own, by a thread of its own."""
    service = Locksmith(timeout=1.5, renew=True)
    lease = service("a").acquire()
    assert lease is not None

    def work() -> bool:
        from tests.helpers.servers import poll

        own = service("b").acquire()
        assert own is not None
        first = own.deadline
        poll(lambda: own.deadline > first)
        return own.release()

    assert in_c_fork(work) is True
    assert lease.release()
