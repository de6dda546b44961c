"""What a caller of single flight may say, checked once for each wish."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Union

from .. import conf
from ..runtime.options import UNSET, Options, Unset, check_template
from .rate_limit import RateLimit
from .stable_texts import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..policy.flight_outcomes import OnError, OnTimeout

Refresh = Union["Literal['thread']", "Callable[[Callable[[], Any]], object]", None]
"""Who computes where there is an old value: a thread, what a function makes of it, or the caller."""
LEASE = 30.0
"""Seconds that a computation whose process has died keeps all others waiting."""


class FlightOptions(TypedDict, total=False):
    """How a value is to be computed once; `SingleFlight.get_or_set` says what each means."""

    cache: str
    stale: conf.Seconds
    error_ttl: conf.Seconds | Callable[[Exception], conf.Seconds]
    on_error: OnError
    on_timeout: OnTimeout
    blocking_timeout: conf.Seconds | None
    lease: conf.Seconds
    max_hold: conf.Seconds | None
    template: str
    rate_limit: RateLimit | str | None
    patience: conf.Seconds
    refresh: Refresh
    early: float


class Plan(NamedTuple):
    """The same, checked. Seconds."""

    cache: str
    stale: float
    error_ttl: float | Callable[[Exception], Any]
    on_error: OnError
    on_timeout: OnTimeout
    wait: float | Unset | None
    options: Options
    """Of the lease."""
    template: str
    rate_limit: RateLimit | str | None
    patience: float
    refresh: Refresh
    early: float


def _checked_plan(
    *,
    cache: Any = "default",
    stale: Any = 0,
    error_ttl: Any = 0,
    on_error: Any = "share",
    on_timeout: Any = "stale_or_raise",
    blocking_timeout: Any = UNSET,
    lease: Any = LEASE,
    max_hold: Any = UNSET,
    template: Any = "",
    rate_limit: Any = None,
    patience: Any = 0,
    refresh: Any = None,
    early: Any = 0,
) -> Plan:
    if not isinstance(cache, str):
        raise TypeError(f"cache must be a str, an alias in CACHES, not {cache!r}")
    kept = conf.wait_seconds("stale", stale)
    remembered = error_ttl if callable(error_ttl) else conf.wait_seconds("error_ttl", error_ttl)
    if kept is None or remembered is None:
        raise TypeError("stale and error_ttl are seconds, not None; a timeout of None keeps a value for ever")
    if on_error not in ("share", "retry", "stale"):
        raise ValueError(f"on_error must be 'share', 'retry' or 'stale', not {on_error!r}")
    if on_timeout not in ("stale_or_raise", "raise", "compute"):
        raise ValueError(f"on_timeout must be 'stale_or_raise', 'raise' or 'compute', not {on_timeout!r}")
    if on_error == "stale" and not kept:
        raise ValueError("on_error='stale' serves an old value, which only stale=<seconds> keeps")
    wait = UNSET if blocking_timeout is UNSET else conf.wait_seconds("blocking_timeout", blocking_timeout)
    seconds = conf.lease_seconds("lease", lease)
    longest = None if max_hold is UNSET else conf.hold_seconds("max_hold", max_hold)
    if longest is not None and longest < seconds:
        raise ValueError(f"max_hold ({longest:g} s) is shorter than lease ({seconds:g} s)")
    template = check_template(template)
    options = Options(timeout=seconds, renew=True, max_hold=max_hold)
    if not (rate_limit is None or isinstance(rate_limit, (str, RateLimit))):
        raise TypeError(
            "rate_limit is what locksmith.rate_limit() makes, or a name in LOCKSMITH['RATE_LIMITS'],"
            f" not {rate_limit!r}"
        )
    longest_wait = conf.wait_seconds("patience", patience)
    if longest_wait is None:
        raise TypeError("patience is seconds, not None; without stale=<seconds> everybody waits anyway")
    if not (refresh in (None, "thread") or callable(refresh)):
        raise ValueError(f"refresh must be 'thread', a function that takes a function, or None, not {refresh!r}")
    if isinstance(early, bool) or not isinstance(early, (int, float)):
        raise TypeError(f"early must be a share of timeout, as 0.8, not {early!r}")
    if not 0 <= early < 1:
        raise ValueError(f"early must be a share of timeout, from 0 (never) to below 1, not {early!r}")
    for name, given in (("patience", longest_wait), ("refresh", refresh)):
        if given and not (kept or early):
            raise ValueError(f"{name} is for those who have an old value, which only stale=<seconds>, or early=, keeps")
    if longest_wait and refresh:
        raise ValueError("patience is how long those wait who have an old value; with refresh they do not: give one")
    more = rate_limit, longest_wait, refresh, float(early)
    return Plan(plain(cache), kept, remembered, on_error, on_timeout, wait, options, template, *more)


_cached_plan = lru_cache(maxsize=256, typed=True)(_checked_plan)


def plan_of(how: FlightOptions) -> Plan:
    """What was said, checked. Raises `TypeError` or `ValueError` that name the option at fault."""
    try:
        return _cached_plan(**how)
    except TypeError:
        for name in how:
            if name not in FlightOptions.__annotations__:
                has = ", ".join(FlightOptions.__annotations__)
                raise TypeError(f"single flight has no option {name!r}; it has {has}") from None
        return _checked_plan(**how)  # what cannot be cached is at fault, and gets its name
