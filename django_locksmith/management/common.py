"""What the commands share: exit codes in their --help, seconds as arguments, and the choice of locks by owner."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter, OutputWrapper

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo

UNAVAILABLE = 69
"""Exit code (EX_UNAVAILABLE) where Redis gave no usable answer."""
MISCONFIGURED = 78
"""Exit code (EX_CONFIG) where the settings are at fault."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


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

    def run_from_argv(self, argv: list[str]) -> None:
        """As a program: what its terminal cannot show is written in other words, and a closed one is no error."""
        self.stdout = OutputWrapper(_stream("stdout"))
        self.stderr = OutputWrapper(_stream("stderr"))
        super().run_from_argv(argv)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """As ever; settings that are at fault are one line, and no traceback with an exit code that means otherwise."""
        try:
            return super().execute(*args, **options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error), returncode=MISCONFIGURED) from error


def _stream(name: str) -> Any:
    stream = getattr(sys, name)
    if stream is None:  # it was closed before we began
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # it lives as long as the process
        setattr(sys, name, stream)
    elif isinstance(stream, io.TextIOWrapper):
        with suppress(OSError):  # it may have become another file under our hands
            stream.reconfigure(errors="backslashreplace")
    return stream


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
