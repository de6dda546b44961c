"""How locks are put into words and into an order, for terminals and pages alike."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from django.utils.formats import number_format
from django.utils.translation import gettext

if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import LockInfo

_LONGEST = 300

ORDERS: dict[str, Callable[[LockInfo], Any]] = {
    "key": lambda lock: lock.key,
    # By the instant of the grant: ages are as of when each was looked at, and these instants differ.
    "held": lambda lock: inf if lock.held_for is None or lock.fence is None else lock.fence,
    "left": lambda lock: inf if lock.remaining is None else lock.remaining,
    "waiters": lambda lock: -lock.waiters,
}
"""What lists are sorted by: the key, what is oldest, what ends soonest, what most wait for. Those alike stay by key."""


def describe(lock: LockInfo) -> str:
    """Who holds it, in a word."""
    holder = lock.holder
    if holder is None:
        return "(being handed over)"
    if not holder.host:
        return "(set by other software)"
    return printable(f"{holder.host}:{holder.pid}:{holder.thread}")


def which_slot(lock: LockInfo) -> str:
    """Of slots: which this is, if they have names, and how many are taken; else nothing."""
    if lock.slots is None:
        return ""
    taken = gettext("%(taken)s of %(slots)s") % {"taken": lock.taken, "slots": lock.slots}
    return f"{printable(lock.slot)}, {taken}" if lock.slot else taken


def printable(text: str) -> str:
    """A key may contain anything; it must not give commands to a terminal, nor turn the text of a page around."""
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Its two ends, if it is too long to be looked at."""
    if len(text) <= longest:
        return text
    return f"{text[: 2 * longest // 3]} … {text[-longest // 5 :]}"


def duration(seconds: float) -> str:
    """Seconds in two units at most."""
    if seconds < 10:
        return gettext("%(seconds)s s") % {"seconds": number_format(int(seconds * 10) / 10, 1)}
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not minutes:
        return gettext("%(seconds)s s") % {"seconds": whole}
    if not hours:
        return gettext("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": whole % 60}
    if not days:
        return gettext("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes % 60}
    return gettext("%(days)s d %(hours)s h") % {"days": days, "hours": hours % 24}
