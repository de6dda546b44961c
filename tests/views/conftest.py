"""What the tests of locked views have in common."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from django_locksmith import signals
from tests.helpers.servers import poll
from tests.views.sites import Site, Taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.deployments import Deployment


@pytest.fixture(autouse=True)
def _nothing_is_left(valkey: Deployment) -> Iterator[None]:
    """Whatever a promise does: in the end no lock is held."""
    yield
    gc.collect()
    # Rate limits remember their calls for as long as their windows are.
    words = ("<rate>", "<places>", "<moved>", "<limits>")
    poll(lambda: not [key for key in valkey.left_behind() if not any(word in key for word in words)])


@pytest.fixture(params=["sync", "async"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


@pytest.fixture
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATOMIC_REQUESTS is on for the default database."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


@pytest.fixture
def taken() -> Iterator[Taken]:
    taken = Taken()
    signals.acquired.connect(taken)
    yield taken
    signals.acquired.disconnect(taken)
