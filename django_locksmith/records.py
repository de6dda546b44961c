"""What the layers hand to each other: plain values without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

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
    """One lock as Redis had it in one instant. Times in seconds.

    Attributes:
        key: the lock's key.
        holder: who holds it; `None` while the lock is handed from one holder to the next waiter, not yet claimed.
        held_for: since when; `None` for a lock that other software set.
        remaining: what is left of its lease; `None` if it never expires.
        fence: that of the grant; `None` for a lock that other software set.
        waiters: how many wait for it in Redis: one for each process or event loop.
    """

    key: str
    holder: Holder | None
    held_for: float | None
    remaining: float | None
    fence: int | None
    waiters: int

    def as_dict(self) -> dict[str, Any]:
        """The same as nested plain values, ready for JSON."""
        return asdict(self)


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
