"""What one caller of single flight wants, and what may become of it: plain values, and what the rules are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from ..exceptions import RetryLater
    from ..redis.key_names import FlightNames

OnError = Literal["share", "retry", "stale"]
OnTimeout = Literal["stale_or_raise", "raise", "compute"]


class Missing:
    """No value: `None` is one."""

    def __repr__(self) -> str:
        return "<not in the cache>"


MISSING = Missing()


class Values(Protocol):
    """One entry of a cache, and a copy of it that lives longer."""

    async def fresh(self) -> Any:
        """The value, or `MISSING`. Trouble with the cache is logged, and counts as missing."""

    async def old(self) -> Any:
        """The copy, which may be out of date, or `MISSING`. Trouble as above."""

    @property
    def old_lives(self) -> bool:
        """Is that copy as good as a new value, and only to be refreshed in time?"""

    async def put(self, value: Any, longest: float | None = None) -> None:
        """Store both; a value that may be out of date alone, and for so many seconds at most. Trouble is logged."""

    async def drop(self) -> None:
        """Delete both."""

    def copier(self, value: Any) -> Callable[[], Any]:
        """What makes copies of a value, as if each were read from the cache. Raises `TypeError` if none can be made."""


class LedFlight(Protocol):
    """The flight that we lead while we compute."""

    @property
    def held(self) -> bool:
        """Is it surely still ours?"""


class Allowance(Protocol):
    """One call of a rate limit."""

    async def place(self, seconds: float) -> None:
        """Return when its place has come; at once, if it has come and was not spent. `RetryLater`: it is further."""

    def spend(self) -> None:
        """The call goes out."""

    async def pause(self, seconds: float) -> bool:
        """No call by anybody for so long; `False` if nobody could be told."""


class Call(NamedTuple):
    """What one caller wants. Seconds; `until` and `place_until` are local monotonic time."""

    key: str
    names: FlightNames
    token: bytes
    values: Values
    compute: Callable[[], Awaitable[Any]]
    keep_alive: Callable[[float], AbstractContextManager[LedFlight]]
    """Renews the lease of a flight of ours that has this deadline, for as long as the block lasts."""
    warn: Callable[[str, Exception], None]
    lease: float
    until: float
    keeps_old: bool
    error_ttl: Callable[[Exception | None], float]
    """For how long newcomers get this failure, too."""
    on_error: OnError
    on_timeout: OnTimeout
    allowance: Allowance | None
    """Of the rate limit that the computation is to keep."""
    place_until: float
    """By when a place of it is to come."""
    patience: float
    """How long to wait where there is an old value."""
    in_background: bool
    """Where there is one, is everything else done in the background?"""
    refresh: Callable[[], None]
    """Have a new value computed in the background, unless that has been asked for."""


# ---- what becomes of a call


class Value(NamedTuple):
    """The value. `for_followers`: not where it is out of date already. `computed`: by this caller, not found.

    `copy` makes copies of what was computed.
    """

    value: Any
    for_followers: bool = True
    computed: bool = False
    copy: Callable[[], Any] | None = None


class Copies(NamedTuple):
    """The value, for followers in this process: each gets a copy."""

    copy: Callable[[], Any]


class Failed(NamedTuple):
    """The computation failed. `error`: for the caller who computed. `remembered`: it failed some time ago."""

    kind: str
    message: str
    error: Exception | None = None
    remembered: bool = False


class Later(NamedTuple):
    """Nobody may compute before this local monotonic time. `error`: for the caller whose computation said so."""

    at: float
    error: RetryLater | None = None


class TimeOver(NamedTuple):
    """The wait ended before the flight did."""

    leader: str = ""
    left: float | None = None


class NoPlace(NamedTuple):
    """The place in the rate limit comes at this local monotonic time, which is too far away for this caller."""

    at: float
    error: RetryLater


class ServeOld(NamedTuple):
    """Another caller computes, and there is an old value to go on with."""


class LookAgain(NamedTuple):
    """This flight brings nothing: start again."""


Outcome = Value | Copies | Failed | Later | TimeOver | NoPlace | ServeOld | LookAgain


class Obtained(NamedTuple):
    """The value, and how the caller came by it."""

    value: Any
    how: Literal["computed", "shared", "old"]
