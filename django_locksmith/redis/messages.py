"""What the policy and the stores say to each other: plain values without behaviour of their own."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from .packing import request

if TYPE_CHECKING:
    from .key_names import Keyring, Names

Mode = Literal["try", "again", "claim", "probe"]
"""How the script that acquires is asked; docs/internals.md has the table."""


class Place(Protocol):
    """Where an attempt stands among those of its process."""

    def leave(self) -> None:
        """Make way for the others. Harmless if repeated."""


class Attempt:
    """One attempt to hold a lock. Seconds; `wait` 0 = do not wait, `inf` = without limit.

    The token exists before the first byte is sent: whatever is lost on the way, it can be asked for, or taken back.
    """

    __slots__ = ("lease", "names", "packed", "place", "sent", "slot", "token", "wait")

    def __init__(self, names: Names, token: bytes, lease: float, wait: float) -> None:
        self.names = names
        self.token = token
        self.packed = b""  # the store keeps the token here as it sends it
        self.lease = lease
        self.wait = wait
        self.sent = False  # may Redis know the token?
        self.slot = ""  # which of those that have names was granted
        self.place: Place | None = None

    def undo(self) -> bytes:
        """What ends it, whatever became of it. With its text: nobody may be left to hear that it is unknown."""
        return request(self.names.scripts.abandon, self.names, self.token, b"1", full=True)


class Holding(Protocol):
    """What has been granted, and can be renewed: an `Attempt`, or a flight."""

    @property
    def names(self) -> Keyring:
        """Its keys."""

    @property
    def token(self) -> bytes:
        """What stands in Redis while it is held."""


class Renewal(enum.Enum):
    """What Redis said to a renewal."""

    RENEWED = "renewed"
    LOST = "lost"
    UNKNOWN = "unknown"
    """No answer: neither kills the work nor moves the deadline."""


# Made on the hot path, where being frozen would cost three times as much.


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


Answer = Granted | Busy | Refused
"""What Redis says to an attempt."""


class NoReply:
    """No reply came within the time: not even a nil, which is `None`."""


NO_REPLY = NoReply()


# ---- flights: the replies to a caller who wants to lead, and what is told at the end


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


NewsOf = Literal["landed", "failed", "later", "void"]


class News(NamedTuple):
    """How a flight ended. `kind` and `message`: of the error, if it failed; seconds to wait, if it is for later."""

    what: NewsOf
    kind: str = ""
    message: str = ""


class Permission(enum.IntEnum):
    """May the value of a flight be stored?"""

    REFUSED = 0
    GRANTED = 1
    BRIEFLY = 2
    """What it was computed from may be about to change."""
