"""What the headers of an API's response say of its rate limit, in the forms that are about."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import RetryLater

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_IS_A_DATE = 1_000_000_000
"""Larger numbers are times, Unix; others are seconds from now."""
_PARAMETER = re.compile(r';\s*([rt])\s*=\s*"?(\d{1,15})"?', re.ASCII)
_NUMBER = re.compile(r"\s*(\d{1,15})(?:\.\d*)?\s*(?:[,;].*)?", re.ASCII)


class Said(NamedTuple):
    """Seconds; `None` where nothing is said. `remaining` calls of `limit` until `reset`."""

    pause: float | None = None
    remaining: int | None = None
    reset: float | None = None
    limit: int | None = None


def read_headers(headers: Mapping[str, str]) -> Said:
    """What they say. What cannot be read says nothing."""
    known = {str(name).lower(): str(value) for name, value in headers.items()}
    pause = _pause(known.get("retry-after"))
    if (combined := known.get("ratelimit")) is not None:
        # draft-ietf-httpapi-ratelimit-headers-08 and later: "default";r=50;t=30. The tightest of several counts.
        found = [dict(_PARAMETER.findall(f";{each.partition(';')[2]}")) for each in combined.split(",")]
        told = [(int(each["r"]), float(each["t"])) for each in found if {"r", "t"} <= each.keys()]
        if told:
            return Said(pause, *min(told))
    for prefix in _PREFIXES:
        remaining, reset = _number(known.get(f"{prefix}remaining")), _number(known.get(f"{prefix}reset"))
        if remaining is not None and reset is not None:
            left = max(0.0, reset - time.time()) if reset > _IS_A_DATE else float(reset)
            return Said(pause, remaining, left, _number(known.get(f"{prefix}limit")))
    return Said(pause)


def _pause(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return RetryLater(text).seconds
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    match = _NUMBER.fullmatch(text or "")
    return int(match[1]) if match else None
