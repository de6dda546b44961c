"""manage.py locksmith_list: who holds which lock, and what of which rate limit is used."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError

from django_locksmith import LockUnavailable, locksmith
from django_locksmith.formatting import ORDERS

from .. import common
from ..lock_table import LIMIT_COLUMNS, columns_for, table

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

_CLEAR_SCREEN = "\x1b[H\x1b[J"


class Command(common.Command):
    help = "Lists the locks that are held now, with who holds them; or the rate limits, with what of them is used."
    exit_codes: ClassVar = {
        "0": "listed, whether any or none; with --watch, ended by Ctrl-C",
        "1": "--fail-if-any, and there were some",
        "2": "wrong usage",
        "69": "Redis gave no usable answer",
        "78": "the settings are at fault",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("pattern", nargs="?", default="*", help="only keys that match this shell pattern")
        parser.add_argument(
            "--limits",
            action="store_true",
            help="rate limits instead of locks, by name: those used within their windows, or paused",
        )
        common.add_owner(parser)
        parser.add_argument(
            "--older-than",
            type=common.seconds,
            metavar="SECONDS",
            help="only locks that have been held for so long; not those of which that is unknown",
        )
        parser.add_argument(
            "--sort",
            choices=ORDERS,
            default="key",
            help="what comes first: the smallest key (default), what has been held for the longest, what has the least"
            " time left, or what most others wait for",
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
        if options["limits"]:
            for name, usual in (("owner", None), ("older_than", None), ("sort", "key"), ("fail_if_any", False)):
                if options[name] != usual:
                    raise CommandError(f"--{name.replace('_', '-')} is for locks, not for --limits.", returncode=2)
        if options["watch"] is not None:
            self._watch(options)
            return
        try:
            locks = _find(options)
        except LockUnavailable as error:
            raise CommandError(f"{_whats(options)} cannot be listed: {error}", returncode=common.UNAVAILABLE) from error
        if locks or options["json"] or options["count"]:
            self.stdout.write("\n".join(filter(None, _text(locks, options, self._width(), indent=2))))
        elif not options["fail_if_any"]:
            self.stderr.write(_nothing(options))
        if locks and options["fail_if_any"]:
            raise CommandError(f"{common.count(locks)} held.")

    def _width(self) -> int | None:
        """That of the terminal; in a file or a pipe, nobody knows."""
        return shutil.get_terminal_size().columns if self.stdout.isatty() else None

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
            text, note = _text(locks, options, self._width()) if locks or plain else (_nothing(options), "")
        except LockUnavailable as error:
            text, note = f"{_whats(options)} cannot be listed, trying again: {error}", ""
            if plain or not terminal:
                self.stderr.write(f"{now}  {text}")
                return
        if plain:
            self.stdout.write(text)
        elif terminal:
            self.stdout.write(_CLEAR_SCREEN + _fitted(f"{now}\n{note}\n{text}"), ending="")
        else:
            self.stdout.write(f"{now}\n{text}\n")
        self.stdout.flush()


def _whats(options: dict[str, Any]) -> str:
    return "The rate limits" if options["limits"] else "The locks"


def _find(options: dict[str, Any]) -> list[Any]:
    if options["limits"]:
        return locksmith.rate_limits(options["pattern"])
    locks = common.owned_by(locksmith.locks(options["pattern"]), options["owner"])
    oldest = options["older_than"]
    old = [lock for lock in locks if oldest is None or (lock.held_for is not None and lock.held_for >= oldest)]
    return sorted(old, key=ORDERS[options["sort"]])


def _text(locks: list[Any], options: dict[str, Any], width: int | None, indent: int | None = None) -> tuple[str, str]:
    """The list, and what it leaves out."""
    if options["count"]:
        return str(len(locks)), ""
    if options["json"]:
        return json.dumps([lock.as_dict() for lock in locks], indent=indent), ""
    return table(locks, width, LIMIT_COLUMNS if options["limits"] else columns_for(locks))


def _nothing(options: dict[str, Any]) -> str:
    if options["limits"]:
        return f"No rate limit is in use whose name matches {options['pattern']!r}."
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
