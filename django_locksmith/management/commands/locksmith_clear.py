"""manage.py locksmith_clear: take locks from holders who will not give them back."""

from __future__ import annotations

import logging
import os
import platform
import pwd
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError

from django_locksmith import LockUnavailable, locksmith

from ...formatting import describe, duration, printable, which_slot
from .. import common

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from django_locksmith import LockInfo

logger = logging.getLogger("django_locksmith.clear")

_STILL_AT_WORK = "Whoever holds them is not stopped, and learns of it at the next renewal, extension or release."


class Command(common.Command):
    help = (
        "Takes locks from their holders and lets their waiters go on. A holder that is alive is not stopped by it: it"
        " learns of the loss when it next renews, extends or releases. Each lock cleared is logged as a WARNING of"
        " django_locksmith.clear, with the user of the operating system."
    )
    exit_codes: ClassVar = {
        "0": "all of them were cleared; or --dry-run, and there are some",
        "1": "none of them is held; or the answer was not yes",
        "2": "wrong usage",
        "3": "some were not cleared, because they were released or in other hands meanwhile",
        "69": "Redis gave no usable answer; what had been cleared before is cleared",
        "78": "the settings are at fault",
        "130": "Ctrl-C at the question",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("keys", nargs="*", metavar="KEY", help="keys of the locks to clear")
        parser.add_argument("--pattern", help="clear the locks whose keys match this shell pattern")
        parser.add_argument("--all", action="store_true", help="clear every lock of this project")
        common.add_owner(parser)
        parser.add_argument(
            "--token",
            help="only the lock that is held by this token, or one that begins with it and a |, as --json lists them",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be cleared")

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        cleared: list[LockInfo] = []
        try:
            locks = _find(options)
            if not locks:
                raise CommandError("None of these locks is held.")
            for lock in locks:
                self.stdout.write(_line(lock))
            if options["dry_run"]:
                self.stdout.write(f"{common.count(locks)} would be cleared.")
                return
            self.stdout.write(_STILL_AT_WORK)
            if not options["yes"]:
                self._ask(locks)
            for lock in locks:
                if locksmith.clear(lock):
                    cleared.append(lock)
                    _log(lock)
        except LockUnavailable as error:
            before = f" ({common.count(cleared)} cleared before)" if cleared else ""
            raise CommandError(
                f"Nothing more can be cleared{before}: {error}", returncode=common.UNAVAILABLE
            ) from error
        self.stdout.write(f"{common.count(cleared)} cleared.")
        self._name_the_others(locks, cleared)

    def _ask(self, locks: list[LockInfo]) -> None:
        try:
            answer = input(f"Take {common.count(locks)} from the holders? [y/N] ")
        except EOFError:
            raise CommandError("Nobody answers; use --yes where nobody can be asked.") from None
        except KeyboardInterrupt:
            self.stdout.write("")  # behind the question
            raise CommandError("Nothing was cleared.", returncode=common.INTERRUPTED) from None
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was cleared.")

    def _name_the_others(self, locks: list[LockInfo], cleared: list[LockInfo]) -> None:
        left = [lock for lock in locks if lock not in cleared]
        if left:
            names = ", ".join(printable(lock.key) for lock in left)
            raise CommandError(f"Not cleared, because released or in other hands meanwhile: {names}", returncode=3)


def _check(options: dict[str, Any]) -> None:
    ways = [bool(options["keys"]), options["pattern"] is not None, options["all"]].count(True)
    if ways > 1 or (not ways and options["owner"] is None and options["token"] is None):
        raise CommandError(
            "Say which locks to clear: by KEY..., by --pattern, or --all of them; or those of an --owner or a --token.",
            returncode=2,
        )
    if options["token"] == "":
        raise CommandError("--token must not be empty: locksmith_list --json has the tokens.", returncode=2)


def _find(options: dict[str, Any]) -> list[LockInfo]:
    if options["keys"]:
        try:
            locks = [info for key in dict.fromkeys(options["keys"]) for info in locksmith.holders(key)]
        except ValueError as error:
            raise CommandError(str(error), returncode=2) from error
    else:
        locks = locksmith.locks("*" if options["pattern"] is None else options["pattern"])
    token = options["token"]
    return [lock for lock in common.owned_by(locks, options["owner"]) if token is None or _has(lock, token)]


def _has(lock: LockInfo, token: str) -> bool:
    return lock.holder is not None and token in (lock.holder.token, lock.holder.token.partition("|")[0])


def _line(lock: LockInfo) -> str:
    label = f" ({printable(lock.holder.label)})" if lock.holder and lock.holder.label else ""
    age = "" if lock.held_for is None else f" for {duration(lock.held_for)}"
    left = "never ends" if lock.remaining is None else f"{duration(lock.remaining)} left"
    return f"{printable(lock.key)}{_slot(lock)}  held by {describe(lock)}{label}{age}, {left}, {lock.waiters} waiting"


def _slot(lock: LockInfo) -> str:
    return f" ({which_slot(lock)})" if lock.slots else ""


def _log(lock: LockInfo) -> None:
    holder = lock.holder
    assert holder is not None  # between two holders there is nobody to take it from
    user = _user()
    logger.warning(
        "%s cleared the lock %r, held by %s with the token %r",
        user,
        lock.key,
        printable(str(holder)),
        holder.token.partition("|")[0],
        extra={"lock_key": lock.key, "lock_holder": str(holder), "user": user},
    )


def _user() -> str:
    """Who runs this, as the operating system knows it, and not the environment that anybody can set."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    return f"{name}@{platform.node()}"
