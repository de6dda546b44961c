"""How locks are put into words, for terminals and pages alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import LockInfo

_LONGEST = 300
_HEAD, _TAIL = 200, 60


def describe(lock: LockInfo) -> str:
    """Who holds it, in a word."""
    holder = lock.holder
    if holder is None:
        return "(being handed over)"
    if not holder.host:
        return "(set by other software)"
    return printable(f"{holder.host}:{holder.pid}:{holder.thread}")


def printable(text: str) -> str:
    """A key may contain anything; it must not give commands to a terminal, nor turn the text of a page around."""
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def shortened(text: str) -> str:
    """Its two ends, if it is too long to be looked at."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_HEAD]} … {text[-_TAIL:]}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
