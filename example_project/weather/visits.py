"""Who is visiting, and how they came by their forecast: what a view, and the API client under it, know of it.

This is for the picture on the page. A real project needs nothing of it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .client import Forecast

HEADER = "X-Visitor"
"""By this the crowd says who is who. People have no number."""
ANSWER = "X-Visit"
"""By this the view says how the visitor fared."""


@dataclass
class Visit:
    """One request of one visitor. Times are those of the wall clock: other servers compare them with their own."""

    visitor: str
    began: float = field(default_factory=time.time)
    fetched: bool = False

    def source(self, found: Forecast) -> str:
        """Where the forecast came from, as seen by this visitor. The lock library is not asked: times tell."""
        if self.fetched:
            return "fetched"
        if found["good_until"] <= time.time():
            return "stale"
        return "waited" if found["fetched"] > self.began else "cache"


_visit: ContextVar[Visit | None] = ContextVar("visit", default=None)


@contextmanager
def under_way(visit: Visit) -> Iterator[None]:
    """What is called in this block, in other threads as well, is called for this visit."""
    before = _visit.set(visit)
    try:
        yield
    finally:
        _visit.reset(before)


def name_of_visitor() -> str:
    """Who the API shall think is calling; empty where nobody visits, as in a task."""
    visit = _visit.get()
    return visit.visitor if visit else ""


def note_fetch() -> None:
    """The API gave its answer to this visit."""
    visit = _visit.get()
    if visit:
        visit.fetched = True
