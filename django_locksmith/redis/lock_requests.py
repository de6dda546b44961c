"""The lock's requests as bytes."""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

from .packing import bulk, head

if TYPE_CHECKING:
    from .messages import Attempt, Mode


@lru_cache(maxsize=256)
def _lease_ms(seconds: float) -> bytes:
    return bulk(b"%d" % int(seconds * 1000))


LONG_WAIT = 10.0
"""As much as a script wants to know of a wait: for so long a waiter counts as alive; a live one is heard of before."""
EVER = 10**16 - 1
_LONG_WAIT_MS = bulk(b"%d" % (LONG_WAIT * 1000))
_MODES: dict[Mode, bytes] = {mode: bulk(mode.encode()) for mode in ("try", "again", "claim", "probe")}


def acquire(attempt: Attempt, wait: float, mode: Mode, valid: int, *, full: bool = False) -> bytes:
    """The script that acquires. `valid`: until when, by the server's clock, in µs."""
    attempt.packed = token = bulk(attempt.token)
    names, slots = attempt.names, attempt.names.slots
    short = mode == "try" and wait >= LONG_WAIT and slots is None
    # The time has 16 digits from 2001 to 2286.
    packed = b"%b%b%b$16\r\n%016d\r\n" % (
        head(names.scripts.try_ if short else names.scripts.acquire, names, full),
        token,
        _lease_ms(attempt.lease),
        valid,
    )
    if short:
        return packed
    packed += (_LONG_WAIT_MS if wait >= LONG_WAIT else bulk(b"%d" % ceil(wait * 1000))) + _MODES[mode]
    return packed if slots is None else packed + bulk(b"%d" % slots.most) + bulk(slots.listed)
