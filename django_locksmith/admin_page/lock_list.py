"""The locks as the admin's page shows them: the words for each, and the filters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from django.db.models import TextChoices
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..formatting import ORDERS, duration, printable, shortened, which_slot

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from django.utils.functional import _StrPromise

    from django_locksmith import LockInfo, Locksmith

LONGEST = 72
"""Letters of a key, a holder or a label in the list; the whole of it is what one sees when one points at it."""
SOON = 10
"""Seconds before the end of a lease from which on it is called running out, if less than a third of it is left, too."""


class State(TextChoices):
    """What one would want to know of a lock first."""

    HELD = "held", _("held")
    RUNNING_OUT = "running-out", _("running out")
    HANDED_OVER = "handed-over", _("being handed over")
    FOREIGN = "foreign", _("set by other software")
    ENDLESS = "endless", _("never expires")


class Order(TextChoices):
    """What comes first. The values are those of `ORDERS`."""

    KEY = "key", _("By key")
    HELD = "held", _("Oldest first")
    LEFT = "left", _("Ending soonest")
    WAITERS = "waiters", _("Most waited for")


class HeldLock(NamedTuple):
    """A lock in the hands of one holder: what a tick on the page means, and a release takes away."""

    key: str
    token: str

    def __str__(self) -> str:
        # Keys and tokens may hold what forms would change (line ends) or cannot carry (bytes that are no text).
        return json.dumps(self)

    @classmethod
    def read(cls, text: str) -> HeldLock:
        """Back from a form. Raises `ValueError`."""
        values = json.loads(text)
        if not (isinstance(values, list) and len(values) == 2 and all(isinstance(value, str) for value in values)):
            raise ValueError(f"not a key and a token: {text[:100]}")
        return cls(*values)


@dataclass(frozen=True)
class Row:
    """A lock in words. `lease`: that of the settings, seconds; what a lock's own lease was, Redis does not know."""

    info: LockInfo
    lease: float

    @cached_property
    def held_lock(self) -> HeldLock | None:
        """`None` between two holders: there is nobody to take it from."""
        return None if self.info.holder is None else HeldLock(self.info.key, self.info.holder.token)

    @cached_property
    def key(self) -> str:
        return printable(self.info.key)

    @cached_property
    def short_key(self) -> str:
        return shortened(self.key, LONGEST)

    @cached_property
    def slot(self) -> str:
        return which_slot(self.info)

    @cached_property
    def host(self) -> str:
        holder = self.info.holder
        return printable(holder.host) if holder and holder.host else ""

    @cached_property
    def holder(self) -> str:
        """Empty if it is not one of ours."""
        holder = self.info.holder
        if not holder or not holder.host:
            return ""
        return shortened(printable(f"{holder.host}:{holder.pid}:{holder.thread}"), LONGEST)

    @cached_property
    def label(self) -> str:
        """What the holder calls itself; of other software, what it has put into Redis."""
        holder = self.info.holder
        text = "" if holder is None else holder.label if holder.host else holder.token
        return shortened(printable(text), LONGEST) if text else ""

    @cached_property
    def fence(self) -> str:
        return "" if self.info.fence is None else str(self.info.fence)

    @cached_property
    def held_for(self) -> str:
        return "" if self.info.held_for is None else duration(self.info.held_for)

    @cached_property
    def since(self) -> datetime | None:
        seconds = self.info.held_for
        return None if seconds is None else timezone.now() - timedelta(seconds=seconds)

    @cached_property
    def left(self) -> str:
        return "" if self.info.remaining is None else duration(self.info.remaining)

    @cached_property
    def percent_left(self) -> int | None:
        """Of the usual lease, or of all its time so far if that is less. `None`: it never expires."""
        left = self.info.remaining
        if left is None:
            return None
        whole = left + self.info.held_for if self.info.held_for is not None else self.lease
        return round(100 * min(1, left / max(min(whole, self.lease), 0.001)))

    @cached_property
    def state(self) -> State:
        holder, left = self.info.holder, self.info.remaining
        if holder is None:
            return State.HANDED_OVER
        if left is None:
            return State.ENDLESS
        if not holder.host:
            return State.FOREIGN
        return State.RUNNING_OUT if left < SOON and (self.percent_left or 0) < 33 else State.HELD

    def speaks_of(self, text: str) -> bool:
        """Is this text in its key, or in what is said of its holder?"""
        holder = self.info.holder
        spoken = (self.info.key, printable(self.info.key), self.holder, holder.label if holder else "", self.label)
        return any(text.casefold() in each.casefold() for each in spoken)


class Choice(NamedTuple):
    """One line of a menu; of a filter, also how many locks it would leave."""

    value: str
    text: str | _StrPromise
    number: int | None
    selected: bool


class Filter(NamedTuple):
    """A way to see fewer locks. `all`: what it says when it is not used."""

    name: str
    title: str
    all: str
    number: int
    choices: list[Choice]


class LockList:
    """The locks that are asked for by the parameters of a page: `q`, `state` and `host`. `rows`: as `sort` says.

    Raises what `Locksmith.locks()` raises.
    """

    def __init__(self, service: Locksmith, parameters: Mapping[str, str]) -> None:
        asked = {name: parameters.get(name, "").strip() for name in ("q", "state", "host")}
        self.asked = {name: value for name, value in asked.items() if value}
        self.query, state, host = asked.values()
        locks = service.locks()
        self.total = len(locks)
        lease = service.settings.timeout
        rows = [Row(lock, lease) for lock in _with_the_one_named(service, self.query, locks)]
        if self.query:
            rows = [row for row in rows if row.speaks_of(self.query)]
        by_host = [row for row in rows if host in ("", row.host)]
        by_state = [row for row in rows if state in ("", row.state)]
        order = parameters.get("sort", "")
        order = order if order in Order.values else Order.KEY.value
        asked_for = [row for row in by_state if host in ("", row.host)]
        self.rows = sorted(asked_for, key=lambda row: ORDERS[order](row.info))
        self.orders = [Choice(each.value, each.label, None, each == order) for each in Order]
        self.filters = [
            Filter("state", gettext("State"), gettext("All states"), len(by_host), _states(by_host, state)),
            Filter("host", gettext("Host"), gettext("All hosts"), len(by_state), _hosts(rows, by_state, host)),
        ]


def _states(rows: list[Row], chosen: str) -> list[Choice]:
    counts = Counter(row.state for row in rows)
    return [Choice(each.value, each.label, counts[each], each == chosen) for each in State]


def _hosts(all_rows: list[Row], rows: list[Row], chosen: str) -> list[Choice]:
    counts = Counter(row.host for row in rows)
    hosts = {row.host for row in all_rows} | {chosen}
    return [Choice(each, each, counts[each], each == chosen) for each in sorted(hosts - {""})]


def _with_the_one_named(service: Locksmith, key: str, locks: list[LockInfo]) -> list[LockInfo]:
    # What other software locked is not in our index, and can only be asked for by its key.
    if not key or any(lock.key == key for lock in locks):
        return locks
    try:
        named = service.holders(key)
    except ValueError:  # no lock can have this key
        return locks
    return sorted([*locks, *named], key=lambda lock: lock.key)
