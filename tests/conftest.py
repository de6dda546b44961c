"""The servers, the callers, and the deployments that the promises are held against."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from django.core.cache.backends import locmem
from django.test import override_settings

from django_locksmith import Locksmith
from django_locksmith.runtime.runtime import process
from tests.helpers import postgres as postgres_server
from tests.helpers import servers
from tests.helpers.callers import AsyncCaller, Caller, SyncCaller, running_loop
from tests.helpers.deployments import DEPLOYMENTS, SOCKET_TIMEOUT, Deployment, alias, available, deployment_of, in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.postgres import Postgres

# Who starts the tests in the background has Ctrl-C ignored, nohup a hang-up; and so have all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_cached_values() -> None:
    """What another test has put into a cache in memory is not there."""
    for values in locmem._caches.values():  # type: ignore[attr-defined]  # of all caches, whatever the settings in force
        values.clear()


@pytest.fixture(autouse=True)
def _nothing_in_the_background() -> Iterator[None]:
    """What a test has left is not tried on whoever has its port next: nothing is given back, and nothing renewed.

    Nor does it speak of a server that is gone in the log of another test.
    """
    yield
    for runtime in list(process.runtimes):
        if runtime._renewer is not None:
            runtime._renewer.end()
            runtime._renewer = None
        if runtime._giving_back is not None:
            runtime._giving_back.end()
            runtime._giving_back = None


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[str], Deployment]]:
    """Servers by kind, started at their first use and shared by all tests."""
    known: dict[str, Deployment] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Deployment:
            if kind not in known:
                known[kind] = stack.enter_context(deployment_of(kind))
            return known[kind]

        yield start


@pytest.fixture(params=available(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest, started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """Each kind of deployment in turn; settings lead to it, and it is empty."""
    where = started(request.param)
    where.flush()
    with in_force(where):
        yield where


@pytest.fixture
def valkey(started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """A single Valkey; settings lead to it, and it is empty."""
    where = started("valkey")
    where.flush()
    with in_force(where):
        yield where


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL, shared by all tests; each takes a database of its own."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[Deployment]:
    """A Valkey that the test may pause, kill and restart; settings lead to it."""
    with servers.running(servers.valkey_binary()) as server:
        how = {"SOCKET_TIMEOUT": SOCKET_TIMEOUT, "SOCKET_CONNECT_TIMEOUT": SOCKET_TIMEOUT}
        where = Deployment("valkey", alias(server.url, **how), [server])
        with override_settings(CACHES={"default": where.cache}, LOCKSMITH={"REDIS": "default"}):
            yield where


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Threads and tasks in turn."""
    if request.param == "sync":
        yield SyncCaller()
    else:
        with running_loop() as loop:
            yield AsyncCaller(loop)


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who waits looks on the side: what he is not told, he never learns."""
    monkeypatch.setattr("django_locksmith.policy.locks.PROBE_EVERY", 600.0)
    monkeypatch.setattr("django_locksmith.local.queues._LOOK_EVERY", 600.0)


@pytest.fixture
def service() -> Locksmith:
    """A service of the settings in force."""
    return Locksmith()
