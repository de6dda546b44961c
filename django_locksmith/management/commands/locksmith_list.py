"""manage.py locksmith_list: who holds which lock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from django_locksmith import LockUnavailable, locksmith
from django_locksmith.wording import describe, printable

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo

_TITLES = ("KEY", "HOLDER", "LABEL", "HELD FOR", "TIME LEFT", "FENCE", "WAITERS")


class Command(BaseCommand):
    help = "Lists the locks that are held now, with who holds them."
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own declaration

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("pattern", nargs="?", default="*", help="only keys that match this shell pattern")
        parser.add_argument(
            "--json", action="store_true", help="print a JSON list instead of a table; times in seconds"
        )

    def handle(self, *args: Any, pattern: str, **options: Any) -> None:
        try:
            locks = locksmith.locks(pattern)
        except LockUnavailable as error:
            raise CommandError(f"The locks cannot be listed: {error}", returncode=69) from error  # EX_UNAVAILABLE
        if options["json"]:
            self.stdout.write(json.dumps([lock.as_dict() for lock in locks], indent=2))
        elif locks:
            self.stdout.write(table([_TITLES, *map(_row, locks)]))
        else:
            self.stderr.write(f"No lock is held whose key matches {pattern!r}.")


def _row(lock: LockInfo) -> tuple[str, ...]:
    holder = lock.holder
    return (
        printable(lock.key),
        describe(lock),
        printable(holder.label) if holder else "",
        "" if lock.held_for is None else f"{lock.held_for:.1f} s",
        "never ends" if lock.remaining is None else f"{lock.remaining:.1f} s",
        "" if lock.fence is None else str(lock.fence),
        str(lock.waiters),
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
