"""Where the locks of these tests are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from django_locksmith.testing import (
    override_locks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["memory", "valkey"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """In memory and in a real server in turn: what works with any Redis."""
    if request.param == "valkey":
        request.getfixturevalue("valkey")
        yield
    else:
        with override_locks():
            yield
