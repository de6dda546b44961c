"""What the layers hand to each other: plain values without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its token tells.

    Every field but `token` is empty for a lock that other software set.
    """

    token: str
    host: str = ""
    pid: int = 0
    thread: str = ""
    since: float | None = None
    label: str = ""

    def __str__(self) -> str:
        if not self.host:
            return f"an unknown client ({self.token[:40]!r})"
        label = f" ({self.label})" if self.label else ""
        return f"{self.host}:{self.pid}:{self.thread}{label}"


@dataclass(frozen=True)
class LockInfo:
    """One lock, or one slot of it, as Redis had it in one instant. Times in seconds.

    Attributes:
        key: the lock's key.
        holder: who holds it; `None` while the lock is handed from one holder to the next waiter, not yet claimed.
        held_for: since when; `None` for a lock that other software set.
        remaining: what is left of its lease; `None` if it never expires.
        fence: that of the grant; `None` for a lock that other software set.
        waiters: how many wait for it in Redis: one for each process or event loop.
        slots: how many may hold it at one time; `None` for a lock, which one holds.
        taken: how many do, those to whom a slot is being handed over included.
        slot: which one this is, where slots have names.
    """

    key: str
    holder: Holder | None
    held_for: float | None
    remaining: float | None
    fence: int | None
    waiters: int
    slots: int | None = None
    taken: int = 1
    slot: str = ""

    @property
    def is_full(self) -> bool:
        """Would somebody else have to wait for it?"""
        return self.taken >= (self.slots or 1)

    def as_dict(self) -> dict[str, Any]:
        """The same as nested plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class WindowInfo:
    """So many calls in so many seconds (the caution included), of which so many are used now."""

    calls: int
    seconds: float
    used: int


@dataclass(frozen=True)
class RateInfo:
    """One rate limit as Redis had it in one instant. Times in seconds.

    Attributes:
        name: the limit's name.
        rate: as it was written by whoever booked last.
        windows: of each, what is used of it.
        waiting: calls that have places in the time to come.
        last_place_in: how far away the last of these is; 0 if nobody waits.
        next_place_in: how far away the place of a caller who came now would be.
        paused_for: how long there will be no place; 0 if it is not paused.
    """

    name: str
    rate: str
    windows: tuple[WindowInfo, ...]
    waiting: int
    last_place_in: float
    next_place_in: float
    paused_for: float

    def as_dict(self) -> dict[str, Any]:
        """The same as nested plain values, ready for JSON."""
        return {**asdict(self), "windows": [asdict(window) for window in self.windows]}


@dataclass(frozen=True)
class Skipped(Mapping[str, str]):
    """What a function decorated with `on_busy="skip"` returns instead of its result when the lock is busy. Falsy.

    For result backends, which want JSON, it is the mapping `{"skipped": key, "holder": "..."}`.
    """

    key: str
    holder: Holder | None = None

    def __bool__(self) -> bool:
        return False

    def __json__(self) -> dict[str, str]:
        """What Celery stores for a task that was skipped."""
        return {"skipped": self.key, "holder": str(self.holder or "")}

    # django.tasks stores mappings.

    def __getitem__(self, name: str) -> str:
        return self.__json__()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__json__())

    def __len__(self) -> int:
        return len(self.__json__())


class NotModified:
    """What a computation returns that finds its old value to be true still, as an API says by HTTP 304."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOT_MODIFIED"


NOT_MODIFIED: Final = NotModified()
"""Keep the old value, for another `timeout`."""
