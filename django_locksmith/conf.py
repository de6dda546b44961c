"""`settings.LOCKSMITH`, read once into one frozen object. Defaults and rules for numbers stand here, and only here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypedDict

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from .rates import Rate, read_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Seconds = float | int | timedelta

SHORTEST_LEASE: Final = 0.001  # Redis counts in milliseconds
LONGEST_LEASE: Final = 365 * 86400.0
_LONGEST_PREFIX: Final = 200
_LONGEST_CAUTION: Final = 60.0


@dataclass(frozen=True)
class Settings:
    """What `settings.LOCKSMITH` says. Times in seconds.

    Attributes:
        redis: an alias in CACHES with a django-redis backend, or a `redis://`, `rediss://`, `unix://` or
            `redis+cluster://` URL; for tests, `memory://`.
        prefix: what all keys in Redis begin with; may be empty. A function is asked for it with each request, for those
            who tell tenants apart by it.
        timeout: the lease: for so long a dead holder can block others.
        blocking_timeout: the longest wait; `None` = without limit.
        renew: whether the leases of live holders are kept alive.
        max_hold: how long renewal goes on; `None` = as long as the holder lives.
        min_replicas: how many replicas must have a grant before it counts.
        rate_limits: rates by the names of rate limits: `{"twitter": "15/15m"}`.
        rate_caution: seconds that a rate limit keeps beyond each of its windows, for callers wake up late.
    """

    redis: str = field(default="default", repr=False)  # it may have a password in it
    prefix: str | Callable[[], str] = "__locksmith:"
    timeout: float = 120.0
    blocking_timeout: float | None = 120.0
    renew: bool = False
    max_hold: float | None = None
    min_replicas: int = 0
    rate_limits: Mapping[str, Rate] = field(default_factory=dict)
    rate_caution: float = 0.02

    def prefix_now(self) -> str:
        """The prefix, also where a function makes it. Raises `ImproperlyConfigured` for what cannot be one."""
        if isinstance(self.prefix, str):
            return self.prefix
        try:
            return _prefix("LOCKSMITH['PREFIX']()", self.prefix())
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(str(error)) from error


class GivenSettings(TypedDict, total=False):
    """Settings over those of the project; `Settings` says what each means."""

    redis: str
    prefix: str | Callable[[], str]
    timeout: Seconds
    blocking_timeout: Seconds | None
    renew: bool
    max_hold: Seconds | None
    min_replicas: int
    rate_limits: Mapping[str, str]
    rate_caution: Seconds


_NAMES: Final = tuple(field.name for field in fields(Settings))


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """`settings.LOCKSMITH` over the defaults, and `overrides` (lower-case names) over both.

    Raises `ImproperlyConfigured` that names the setting at fault; for `overrides`, `TypeError` or `ValueError`.
    """
    given = getattr(django_settings, "LOCKSMITH", None)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"settings.LOCKSMITH is a dict, not {type(given).__name__}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if not isinstance(name, str) or name.lower() not in _NAMES or name != name.upper():
            raise ImproperlyConfigured(f"LOCKSMITH has no setting {name!r}{_nearest(name)}")
        values[name.lower()] = value
    try:
        result = _checked(Settings(), values, lambda name: f"LOCKSMITH[{name.upper()!r}]")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from error
    return _checked(result, overrides, lambda name: name) if overrides else result


def _nearest(name: object) -> str:
    near = get_close_matches(str(name).upper(), [known.upper() for known in _NAMES], n=1)
    known = ", ".join(known.upper() for known in _NAMES)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {known}"


def _checked(base: Settings, values: Mapping[str, Any], title: Any) -> Settings:
    checks: dict[str, Any] = {
        "redis": _text,
        "prefix": _prefix_or_function,
        "timeout": lease_seconds,
        "blocking_timeout": wait_seconds,
        "renew": flag,
        "max_hold": hold_seconds,
        "min_replicas": _count,
        "rate_limits": _rates,
        "rate_caution": caution_seconds,
    }
    for name in values:
        if name not in checks:
            raise TypeError(f"there is no setting {name!r}{_nearest(name).lower()}")
    result = replace(base, **{name: checks[name](title(name), value) for name, value in values.items()})
    if result.max_hold is not None and result.max_hold < result.timeout:
        raise ValueError(
            f"{title('max_hold')} ({result.max_hold:g} s) is shorter than {title('timeout')} ({result.timeout:g} s)"
        )
    return result


def lease_seconds(name: str, value: Seconds) -> float:
    """A lease in seconds, or an error that names the argument: every lock expires."""
    seconds = _seconds(name, value)
    if not SHORTEST_LEASE <= seconds <= LONGEST_LEASE:
        raise ValueError(
            f"{name} must be from {SHORTEST_LEASE} s to {LONGEST_LEASE:.0f} s, not {value!r}: every lock expires;"
            " to hold one for as long as the work takes, use renew=True"
        )
    return seconds


def wait_seconds(name: str, value: Seconds | None) -> float | None:
    """A longest wait in seconds, 0 = none, `None` = without limit; or an error that names the argument."""
    if value is None:
        return None
    seconds = _seconds(name, value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} must be 0 or more seconds, or None to wait without limit, not {value!r}")
    return seconds


def hold_seconds(name: str, value: Seconds | None) -> float | None:
    """How long renewal may go on in seconds, `None` = without limit; or an error that names the argument."""
    if value is None:
        return None
    seconds = _seconds(name, value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be more than 0 seconds, or None for no limit, not {value!r}")
    return seconds


def caution_seconds(name: str, value: Seconds) -> float:
    """What a rate limit keeps beyond its windows in seconds, or an error that names the argument."""
    seconds = _seconds(name, value)
    if not 0 <= seconds <= _LONGEST_CAUTION:
        raise ValueError(f"{name} must be from 0 to {_LONGEST_CAUTION:g} seconds, not {value!r}")
    return seconds


def _rates(name: str, value: Any) -> dict[str, Rate]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is a dict of rates by names, like {{'twitter': '15/15m'}}, not {value!r}")
    return {_text(f"{name}'s names", key): read_rate(rate, f"{name}[{key!r}]") for key, rate in value.items()}


def _seconds(name: str, value: Seconds) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    # bool is an int to Python; nobody means one second by True.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds (int, float or timedelta), not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(f"{name} is far too large") from None
    if math.isnan(seconds):
        raise ValueError(f"{name} must be a number of seconds, not nan")
    return seconds


def _prefix_or_function(name: str, value: Any) -> str | Callable[[], str]:
    return value if callable(value) else _prefix(name, value)


def _prefix(name: str, value: Any) -> str:
    text = _text(name, value) if value != "" else ""
    if len(text) > _LONGEST_PREFIX:
        raise ValueError(f"{name} must have at most {_LONGEST_PREFIX} characters, not {len(text)}")
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        # The value is not quoted: it may have a password in it.
        raise TypeError(f"{name} must be a str, not a {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be written as UTF-8: {error.reason}") from error
    return str.__str__(value)  # an Enum, say, is formatted otherwise than it compares


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return value
