"""How many calls in how many seconds: rates as people write them, `"15/15m"`, or several at once, `"20/s, 1000/h"`."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MOST_CALLS: Final = 10_000
LONGEST_WINDOW: Final = 31 * 86400.0
_UNITS: Final = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_DAYS: Final = {"d": 86400, "day": 86400}
_WINDOW: Final = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9})?\s*([a-z]+)", re.ASCII)


class Window(NamedTuple):
    """So many calls in so many seconds, wherever in time they are counted."""

    calls: int
    seconds: float


class Rate(NamedTuple):
    """All windows hold at once. `text`: as it was written."""

    text: str
    windows: tuple[Window, ...]

    @property
    def dearest(self) -> int:
        """What one call may cost at most."""
        return min(window.calls for window in self.windows)

    @property
    def longest(self) -> float:
        """Seconds."""
        return max(window.seconds for window in self.windows)


def read_rate(text: object, title: str = "a rate") -> Rate:
    """The rate that a text says. Raises `TypeError` or `ValueError` that name it by `title`."""
    if not isinstance(text, str):
        raise TypeError(f"{title} is a text like '15/15m' or '20/s, 1000/h', not {text!r}")
    windows = tuple(_window(part.strip(), text, title) for part in text.split(","))
    return Rate(str.__str__(text), windows)


def _window(part: str, text: str, title: str) -> Window:
    match = _WINDOW.fullmatch(part)
    units = {**_UNITS, **_DAYS}
    unit = units.get(match[3], units.get(match[3].removesuffix("s"), 0)) if match else 0
    if match is None or not unit:
        raise ValueError(
            f"{title} is written as calls per time, like '15/15m' or '20/s, 1000/h' (s, m, h, d), not {text[:100]!r}"
        )
    calls, seconds = int(match[1]), float(int(match[2] or 1) * unit)
    if not 1 <= calls <= MOST_CALLS:
        raise ValueError(
            f"{title} allows from 1 to {MOST_CALLS:,} calls in a window, and {text[:100]!r} says {calls:,}; count in"
            " larger units, and give calls a cost"
        )
    if not 1 <= seconds <= LONGEST_WINDOW:
        raise ValueError(f"{title} has windows from 1 s to 31 days, and {text[:100]!r} has one of {seconds:,.0f} s")
    return Window(calls, seconds)
