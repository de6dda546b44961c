"""The rate limits as the admin's page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from django.utils import timezone
from django.utils.translation import gettext

from ..formatting import duration, printable, shortened
from .lock_list import LONGEST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from django_locksmith import Locksmith, RateInfo


class Used(NamedTuple):
    """What is used of one window, in words and as a bar."""

    text: str
    percent: int


@dataclass(frozen=True)
class LimitRow:
    """A rate limit in words."""

    info: RateInfo

    @cached_property
    def name(self) -> str:
        return printable(self.info.name)

    @cached_property
    def short_name(self) -> str:
        return shortened(self.name, LONGEST)

    @cached_property
    def rate(self) -> str:
        return printable(self.info.rate)

    @cached_property
    def used(self) -> list[Used]:
        return [
            Used(
                gettext("%(used)s of %(calls)s in %(seconds)s")
                % {"used": each.used, "calls": each.calls, "seconds": duration(each.seconds)},
                min(100, round(100 * each.used / each.calls)),
            )
            for each in self.info.windows
        ]

    @cached_property
    def next_place(self) -> str:
        """How far away it is; empty if a call may go out now."""
        return duration(self.info.next_place_in) if self.info.next_place_in > 0 else ""

    @cached_property
    def paused_for(self) -> str:
        return duration(self.info.paused_for) if self.info.paused_for > 0 else ""

    @cached_property
    def paused_until(self) -> datetime:
        return timezone.now() + timedelta(seconds=self.info.paused_for)


def limits_for(service: Locksmith, parameters: Mapping[str, str]) -> list[LimitRow]:
    """Those that are in use, by name; with `q`, whose names have this text in them. Raises as `rate_limits` does."""
    query = parameters.get("q", "").strip().casefold()
    return [LimitRow(info) for info in service.rate_limits() if query in info.name.casefold()]
