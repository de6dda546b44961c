"""manage.py locksmith_clear: take locks from holders who will not give them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from django_locksmith import LockUnavailable, locksmith
from django_locksmith.wording import describe, printable

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo


class Command(BaseCommand):
    help = (
        "Takes locks from their holders and lets their waiters go on. A holder that is alive is not stopped by it: it"
        " learns of the loss when it next renews, extends or releases."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own declaration

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("keys", nargs="*", metavar="KEY", help="keys of the locks to clear")
        parser.add_argument("--pattern", help="clear the locks whose keys match this shell pattern")
        parser.add_argument("--all", action="store_true", help="clear every lock of this project")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be cleared")

    def handle(self, *args: Any, keys: list[str], pattern: str | None, **options: Any) -> None:
        if [bool(keys), pattern is not None, options["all"]].count(True) != 1:
            raise CommandError("Say which locks to clear: by KEY..., by --pattern, or --all of them.", returncode=2)
        try:
            locks = _find(keys, "*" if options["all"] else pattern)
            if not locks:
                raise CommandError("None of these locks is held.")
            for lock in locks:
                self.stdout.write(f"{printable(lock.key)}  held by {describe(lock)}, {lock.waiters} waiting")
            if options["dry_run"]:
                self.stdout.write(f"{_count(locks)} would be cleared.")
                return
            if not options["yes"]:
                self._ask(locks)
            cleared = locksmith.clear(*locks)
        except LockUnavailable as error:
            raise CommandError(f"Nothing more can be cleared: {error}", returncode=69) from error  # EX_UNAVAILABLE
        self.stdout.write(f"{_count(cleared)} cleared.")
        self._name_the_others(locks, cleared)

    def _ask(self, locks: list[LockInfo]) -> None:
        try:
            answer = input(f"Take {_count(locks)} from the holders? [y/N] ")
        except EOFError:
            raise CommandError("Nobody answers; use --yes where nobody can be asked.") from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was cleared.")

    def _name_the_others(self, locks: list[LockInfo], cleared: list[LockInfo]) -> None:
        left = [lock for lock in locks if lock not in cleared]
        if left:
            names = ", ".join(printable(lock.key) for lock in left)
            raise CommandError(f"Not cleared, because released or in other hands meanwhile: {names}", returncode=3)


def _find(keys: list[str], pattern: str | None) -> list[LockInfo]:
    if pattern is not None:
        return locksmith.locks(pattern)
    try:
        found = [locksmith.info(key) for key in dict.fromkeys(keys)]
    except ValueError as error:
        raise CommandError(str(error), returncode=2) from error
    return [info for info in found if info is not None]


def _count(locks: list[LockInfo]) -> str:
    return "1 lock" if len(locks) == 1 else f"{len(locks)} locks"
