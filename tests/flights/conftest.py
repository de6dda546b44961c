"""What the tests of flights that fail have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import caches
from django.test import override_settings

from tests.flights.caches import Hooked, in_process
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.deployments import Deployment


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a promise does: in the end nobody leads a flight or waits for one, and its news are soon forgotten."""
    name = next((name for name in ("valkey", "own_server", "deployment") if name in request.fixturenames), None)
    where = request.getfixturevalue(name) if name else None
    yield
    if where is not None:
        poll(lambda: not where.flying())
        poll(lambda: where.blocked() == 0)
        assert not where.news_outlive(5000)


@pytest.fixture
def hooks() -> Iterator[dict[str, Callable[[], None]]]:
    """What happens in the cache "local", on top of what CACHES says."""
    Hooked.hooks.clear()
    yield Hooked.hooks
    Hooked.hooks.clear()


@pytest.fixture
def local(valkey: Deployment) -> Iterator[Any]:
    """A cache of this process, beside the Redis of the locks. A test may hook into it."""
    entry = in_process("tests.flights.caches.Hooked")
    with override_settings(CACHES={"default": valkey.cache, "local": entry}):
        yield caches["local"]
