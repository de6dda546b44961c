"""What the layers hand to each other: plain values without behaviour of their own."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .exceptions import LockBusy


@dataclass(frozen=True)
class Rules:
    """How a lock is to be taken and kept. Times in seconds.

    `timeout`: the lease. `wait`: longest wait, `None` = without limit, 0 = not at all. `release`: whether a release
    inside of a database transaction waits for its end.
    """

    timeout: float
    wait: float | None
    renew: bool = False
    max_hold: float | None = None
    on_busy: Literal["raise", "skip"] | Callable[[LockBusy], Any] = "raise"
    on_lost: Literal["raise", "log"] | Callable[[Any], Any] = "raise"
    label: str = ""
    release: Literal["now", "commit"] = "now"


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
    """One lock as Redis had it in one instant.

    `holder` is `None` while the lock is handed from one holder to the next waiter, not yet claimed. `held_for` and
    `fence` are `None` for a lock that other software set; `remaining` is `None` if it never expires. Seconds.
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


class Renewal(enum.Enum):
    """What Redis said to a renewal."""

    RENEWED = "renewed"
    LOST = "lost"
    UNKNOWN = "unknown"
    """No answer: neither kills the work nor moves the deadline."""


# Answers are made on the hot path, where being frozen would cost three times as much.


@dataclass(slots=True)
class Granted:
    """Redis granted the lock. `sent` is local monotonic time, `server_time` the server's; both in seconds."""

    fence: int
    sent: float
    server_time: float


@dataclass(slots=True)
class Busy:
    """Redis said that somebody holds the lock. `left`: seconds of its lease, `None` = it never expires."""

    sent: float
    server_time: float
    left: float | None
    holder: str


@dataclass(slots=True)
class Refused:
    """Redis no longer knows this waiter in the queue."""


class NoReply:
    """None came within the time: not even a nil, which is `None`."""


NO_REPLY = NoReply()


# ---- flights: what Redis says to one who wants to lead, and what is told at the end


class Leads(NamedTuple):
    """Nobody else leads this flight. `sent`: local monotonic seconds."""

    sent: float


class Follows(NamedTuple):
    """Somebody leads it. `left`: seconds of the leader's lease. `since`: the last news before this."""

    sent: float
    left: float
    leader: str
    since: bytes


class Paused(NamedTuple):
    """Nobody may lead for so many seconds: an API wants to be left alone, or a failure is remembered."""

    left: float
    news: News


class News(NamedTuple):
    """How a flight ended. `kind` and `message`: of the error, if it failed; seconds to wait, if it is for later."""

    what: Literal["landed", "failed", "later", "void"]
    kind: str = ""
    message: str = ""
