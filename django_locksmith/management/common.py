"""What the commands share: exit codes in their --help, seconds as arguments, and the choice of locks by owner."""

from __future__ import annotations

import argparse
import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo

UNAVAILABLE = 69
"""Exit code (EX_UNAVAILABLE) where Redis gave no usable answer."""


class _Formatter(DjangoHelpFormatter):
    """Fills paragraphs, and leaves tables as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Command(BaseCommand):
    """A command whose exit codes are part of its help."""

    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's own declaration
    exit_codes: ClassVar[dict[str, str]]

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        codes = "\n".join(f"  {code:6}  {meaning}" for code, meaning in self.exit_codes.items())
        kwargs.setdefault("formatter_class", _Formatter)
        return super().create_parser(prog_name, subcommand, epilog=f"exit codes:\n{codes}", **kwargs)


def seconds(text: str) -> float:
    """An argument in seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def add_owner(parser: CommandParser) -> None:
    """The option --owner."""
    parser.add_argument(
        "--owner",
        metavar="PATTERN",
        help="only locks whose holder's HOST, HOST:PID, HOST:PID:THREAD or LABEL matches this shell pattern",
    )


def is_owned_by(lock: LockInfo, pattern: str) -> bool:
    """Is its holder's host, host:pid, host:pid:thread or label matched by the shell pattern, from end to end?"""
    holder = lock.holder
    if holder is None or not holder.host:
        return False
    process = f"{holder.host}:{holder.pid}"
    names = (holder.host, process, f"{process}:{holder.thread}", holder.label)
    return any(fnmatchcase(name, pattern) for name in names)


def owned_by(locks: list[LockInfo], pattern: str | None) -> list[LockInfo]:
    """Those of this owner; all where none is asked for."""
    if pattern is None:
        return locks
    if not pattern:
        raise CommandError("--owner must not be empty: give a host, HOST:PID, a label, or a pattern.", returncode=2)
    return [lock for lock in locks if is_owned_by(lock, pattern)]


def count(locks: list[LockInfo]) -> str:
    """How many they are, in words."""
    return "1 lock" if len(locks) == 1 else f"{len(locks)} locks"
