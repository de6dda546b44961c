"""manage.py locksmith_list: who holds which lock."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError

from django_locksmith import LockUnavailable, locksmith

from ...formatting import describe, printable, table
from .. import common

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo

_TITLES = ("KEY", "HOLDER", "LABEL", "HELD FOR", "TIME LEFT", "FENCE", "WAITERS")
_CLEAR_SCREEN = "\x1b[H\x1b[J"


class Command(common.Command):
    help = "Lists the locks that are held now, with who holds them."
    exit_codes: ClassVar = {
        "0": "listed, whether any or none; with --watch, ended by Ctrl-C",
        "1": "--fail-if-any, and there were some",
        "2": "wrong usage",
        "69": "Redis gave no usable answer",
        "78": "the settings are at fault",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("pattern", nargs="?", default="*", help="only keys that match this shell pattern")
        common.add_owner(parser)
        parser.add_argument(
            "--older-than",
            type=common.seconds,
            metavar="SECONDS",
            help="only locks that have been held for so long; not those of which that is unknown",
        )
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="print a JSON list instead of a table; times in seconds")
        form.add_argument("--count", action="store_true", help="print only how many they are")
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--fail-if-any", action="store_true", help="end with exit code 1 if there are any")
        end.add_argument(
            "--watch",
            type=common.seconds,
            metavar="SECONDS",
            help="list again and again, so many seconds apart, until Ctrl-C; with --json, a line for each list",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["watch"] is not None:
            self._watch(options)
            return
        try:
            locks = _find(options)
        except LockUnavailable as error:
            raise CommandError(f"The locks cannot be listed: {error}", returncode=common.UNAVAILABLE) from error
        if locks or options["json"] or options["count"]:
            self.stdout.write(_text(locks, options, indent=2))
        elif not options["fail_if_any"]:
            self.stderr.write(_nothing(options))
        if locks and options["fail_if_any"]:
            raise CommandError(f"{common.count(locks)} held.")

    def _watch(self, options: dict[str, Any]) -> None:
        if options["watch"] <= 0:
            raise CommandError("--watch must be more than 0 seconds.", returncode=2)
        try:
            while True:
                self._look(options)
                time.sleep(options["watch"])
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # Who read it (head, say) has seen enough. Python would complain once more at the end, when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _look(self, options: dict[str, Any]) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        plain, terminal = options["json"] or options["count"], self.stdout.isatty()
        try:
            locks = _find(options)
            text = _text(locks, options) if locks or plain else _nothing(options)
        except LockUnavailable as error:
            text = f"The locks cannot be listed, trying again: {error}"
            if plain or not terminal:
                self.stderr.write(f"{now}  {text}")
                return
        if plain:
            self.stdout.write(text)
        elif terminal:
            self.stdout.write(_CLEAR_SCREEN + _fitted(f"{now}\n\n{text}"), ending="")
        else:
            self.stdout.write(f"{now}\n{text}\n")
        self.stdout.flush()


def _find(options: dict[str, Any]) -> list[LockInfo]:
    locks = common.owned_by(locksmith.locks(options["pattern"]), options["owner"])
    oldest = options["older_than"]
    return [lock for lock in locks if oldest is None or (lock.held_for is not None and lock.held_for >= oldest)]


def _text(locks: list[LockInfo], options: dict[str, Any], indent: int | None = None) -> str:
    if options["count"]:
        return str(len(locks))
    if options["json"]:
        return json.dumps([lock.as_dict() for lock in locks], indent=indent)
    return table([_TITLES, *map(_row, locks)])


def _nothing(options: dict[str, Any]) -> str:
    owner = "" if options["owner"] is None else f", by an owner that matches {options['owner']!r}"
    age = "" if options["older_than"] is None else f", for {options['older_than']:g} s or longer"
    return f"No lock is held whose key matches {options['pattern']!r}{owner}{age}."


def _fitted(text: str) -> str:
    """As much of it as the terminal shows at once."""
    width, height = shutil.get_terminal_size()
    lines = [line[:width] for line in text.split("\n")]
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines[height - 1 :] = [f"and {hidden} more"]
    return "\n".join(lines)


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
