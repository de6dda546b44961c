"""The tables that a terminal shows, of locks and of rate limits: where it is narrow, columns are left out by rank."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from ..formatting import describe, duration, printable, which_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django_locksmith import LockInfo, RateInfo

_GAP = "  "
_CUT = ".."  # a single sign for it would be eight letters long at a terminal that knows ASCII only


class Column(NamedTuple):
    """`least`: the width that it may be shortened to; 0 = not at all. `rank`: the highest goes first, 0 never does."""

    title: str
    text: Callable[[Any], str]
    rank: int
    least: int = 0


def _label(lock: LockInfo) -> str:
    return printable(lock.holder.label) if lock.holder and lock.holder.label else ""


def _age(lock: LockInfo) -> str:
    return "" if lock.held_for is None else duration(lock.held_for)


def _left(lock: LockInfo) -> str:
    return "never ends" if lock.remaining is None else duration(lock.remaining)


def _fence(lock: LockInfo) -> str:
    return "" if lock.fence is None else str(lock.fence)


COLUMNS = (
    Column("KEY", lambda lock: printable(lock.key), rank=0, least=24),
    Column("SLOTS", which_slot, rank=0, least=10),
    Column("HOLDER", describe, rank=3, least=16),
    Column("LABEL", _label, rank=4, least=10),
    Column("HELD FOR", _age, rank=2),
    Column("TIME LEFT", _left, rank=1),
    Column("FENCE", _fence, rank=5),
    Column("WAITERS", lambda lock: str(lock.waiters), rank=0),  # they tell what a lock costs
)


def _used(limit: RateInfo) -> str:
    return ", ".join(f"{window.used} of {window.calls}" for window in limit.windows)


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds else ""


def columns_for(locks: Sequence[LockInfo]) -> Sequence[Column]:
    """Those that have something to say of these locks."""
    return [column for column in COLUMNS if column.title != "SLOTS" or any(lock.slots for lock in locks)]


LIMIT_COLUMNS = (
    Column("NAME", lambda limit: printable(limit.name), rank=0, least=24),
    Column("RATE", lambda limit: printable(limit.rate), rank=2),
    Column("USED", _used, rank=0),
    Column("WAITING", lambda limit: str(limit.waiting), rank=0),
    Column("NEXT PLACE IN", lambda limit: _seconds(limit.next_place_in), rank=3),
    Column("PAUSED FOR", lambda limit: _seconds(limit.paused_for), rank=1),
)


class _Shown:
    """A column with its cells."""

    def __init__(self, column: Column, locks: Sequence[Any]) -> None:
        self.title, _, self.rank, _ = column
        self.cells = [column.title, *map(column.text, locks)]
        self.width = max(map(_width, self.cells))
        self.least = min(self.width, column.least or self.width)

    def cell(self, row: int) -> str:
        text = _cut(self.cells[row], self.width)
        return text + " " * (self.width - _width(text))


def table(locks: Sequence[Any], width: int | None, what: Sequence[Column]) -> tuple[str, str]:
    """One line for each lock, below titles, of so many letters at the most; and in words, what there is no room for."""
    columns = [_Shown(column, locks) for column in what]
    left_out = [] if width is None else _fit(columns, width)
    lines = [_GAP.join(column.cell(row) for column in columns).rstrip() for row in range(1 + len(locks))]
    note = f"(no room for {', '.join(left_out)}; --json has all)" if left_out else ""
    return "\n".join(lines), _cut(note, width or 0) if left_out else ""


def _fit(columns: list[_Shown], width: int) -> list[str]:
    """Leave out and shorten what does not fit into the width. Returns the titles of what was left out."""
    left_out = []
    while _least(columns) > width and (first := max(columns, key=lambda column: column.rank)).rank:
        columns.remove(first)
        left_out.append(first.title)
    excess = sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1) - width
    while excess > 0 and (wide := [column for column in columns if column.width > column.least]):
        max(wide, key=lambda column: column.width).width -= 1
        excess -= 1
    if excess > 0:  # narrower than what is never left out
        columns[0].width = max(len(_CUT) + 1, columns[0].width - excess)
    return left_out


def _least(columns: list[_Shown]) -> int:
    return sum(column.least for column in columns) + len(_GAP) * (len(columns) - 1)


def _cut(text: str, width: int) -> str:
    """Its two ends, where it is too long."""
    letters = max(0, width - len(_CUT))
    cut = text
    while _width(cut) > width and letters:
        tail = letters // 2
        cut = text[: letters - tail] + _CUT + (text[-tail:] if tail else "")
        letters -= 1
    return cut


def _width(text: str) -> int:
    """How many letters wide a terminal shows it: signs of East Asia take the room of two, accents of their own none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
