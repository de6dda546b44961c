"""manage.py locksmith_run: run a command while holding a lock, one at a time in the whole fleet."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import threading
from contextlib import contextmanager
from itertools import takewhile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.management.base import CommandError

from django_locksmith import LockBusy, LockLost, LockUnavailable, RetryLater, SlotsDiffer, locksmith

from ... import clock
from ...formatting import printable
from .. import common
from ..supervised import SupervisedCommand
from ..supervisor import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from django.core.management.base import CommandParser

    from django_locksmith import Lease, Lock, RateLimit

    from ..supervised import End

NO_PROCESS, BUSY, LOST = 71, 75, 76
_DEFAULT_GRACE = 10.0
_CAPPED_BY = 0.5
"""Seconds by which a last deadline may lie before the end of --max-hold, which it was shortened to."""


class Command(common.Command):
    help = (
        "Runs a command while holding a lock, which is renewed for as long as it runs. If the lock is lost, or this"
        " process is killed, the command is stopped before Redis lets another one in."
    )
    exit_codes: ClassVar = {
        "CODE": "that of the command",
        "128+N": "the command, or the wait for the lock, was ended by signal N",
        "2": "wrong usage",
        "69": "Redis gave no usable answer; the command was not started",
        "71": "no process could be had for the command, or its supervisor was killed",
        "75": "the lock is busy, or the place of --rate too far away (--busy-exit-code); the command was not started",
        "76": "the lock was lost, or --max-hold is over, and the command stopped; or it had ended with 0 meanwhile",
        "78": "the settings are at fault; the command was not started",
        "126": "the command cannot be executed",
        "127": "the command was not found",
    }

    def add_arguments(self, parser: CommandParser) -> None:
        parser.usage = "%(prog)s KEY [options] -- COMMAND [ARGUMENT ...]"
        parser.add_argument("key", metavar="KEY", help="key of the lock")
        parser.add_argument(
            "command",
            nargs=argparse.PARSER,
            metavar="COMMAND [ARGUMENT ...]",
            help="what to run, without a shell; say -- before it, or Django takes some of its options for its own",
        )
        parser.add_argument(
            "--wait",
            type=_wait,
            default=0.0,
            metavar="SECONDS",
            help="how long to wait for the lock; 'forever' to wait without limit (default: do not wait)",
        )
        parser.add_argument(
            "--rate",
            metavar="RATE",
            help="a rate limit to keep, too: '15/15m' for one that is named as the lock is, or the name of one in"
            " LOCKSMITH['RATE_LIMITS']; under the lock, it waits for a place in what is left of --wait",
        )
        parser.add_argument(
            "--slots",
            type=_slots,
            default=1,
            metavar="N|NAME,NAME,...",
            help="how many may hold the lock at one time; or the names of these slots, of which the command finds its"
            " own in LOCKSMITH_SLOT (default: 1)",
        )
        parser.add_argument(
            "--timeout",
            type=common.seconds,
            metavar="SECONDS",
            help="the lease: how long others are blocked if this machine dies (default: LOCKSMITH['TIMEOUT'])",
        )
        parser.add_argument(
            "--max-hold",
            type=common.seconds,
            metavar="SECONDS",
            help="how long the command may run, to be stopped then (default: LOCKSMITH['MAX_HOLD'])",
        )
        parser.add_argument(
            "--grace",
            type=common.seconds,
            default=_DEFAULT_GRACE,
            metavar="SECONDS",
            help="time between SIGTERM and SIGKILL for a command that is stopped;"
            " a third of the lease at most (default: %(default)g)",
        )
        parser.add_argument(
            "--busy-exit-code",
            type=_exit_code,
            default=BUSY,
            metavar="CODE",
            help="exit code where the lock is busy; 0 also says nothing about it (default: %(default)s)",
        )
        parser.add_argument(
            "--label", default="", help="who this is, for locksmith_list (default: the command's first words)"
        )

    def handle(self, *args: Any, key: str, command: list[str], **options: Any) -> None:
        if command[:1] == ["--"]:
            command = command[1:]  # Pythons differ in whether they leave it
        if not command or not command[0]:
            raise CommandError("Say which command to run: KEY -- COMMAND [ARGUMENT ...]", returncode=2)
        signals = _Signals()
        wards: list[SupervisedCommand] = []

        def on_lost(lease: Lease) -> None:
            for supervised in wards:  # if there is none yet, it will find out by itself
                supervised.lost()

        times = {name: options[name] for name in ("timeout", "max_hold") if options[name] is not None}
        usual = locksmith.settings.timeout
        if "timeout" not in times and usual > times.get("max_hold", usual) > 0:
            times["timeout"] = times["max_hold"]
            self.stderr.write(
                f"LOCKSMITH['TIMEOUT'] ({usual:g} s) is longer than --max-hold: the lease is {times['max_hold']:g} s;"
                " say --timeout, a shorter one still, to have it so without this warning."
            )
        try:
            lock = locksmith(
                key,
                blocking_timeout=options["wait"],
                renew=True,
                on_lost=on_lost,
                label=options["label"] or _label(command),
                slots=options["slots"],
                **times,
            )
            limit = _limit(key, options["rate"])
        except (TypeError, ValueError) as error:
            raise CommandError(str(error), returncode=2) from error
        with signals.handled():
            lease = self._take(lock, limit, signals, options)
            if lease is not None:
                self._run(lease, command, wards, signals, options["grace"])

    def _take(self, lock: Lock, limit: RateLimit | None, signals: _Signals, options: dict[str, Any]) -> Lease | None:
        until = None if options["wait"] is None else clock.now() + options["wait"]
        try:
            # Not by `with`: what becomes of its release, this command says itself.
            lease = lock.take()
            if limit is not None:
                limit.take(blocking_timeout=None if until is None else max(0.0, until - clock.now()))
            signals.hold()
        except _Interrupted as interrupted:
            _release_if_held(lock)
            raise SystemExit(128 + interrupted.number) from None
        except LockBusy as busy:
            self._not_now(_explain(busy), options)
            return None
        except SlotsDiffer as differ:
            raise CommandError(f"The lock {printable(differ.key)} is {differ}.", returncode=2) from differ
        except RetryLater as later:
            _release_if_held(lock)
            name = printable(limit.name) if limit else ""
            self._not_now(f"The next place in the rate limit {name} is {later.seconds:.1f} s away.", options)
            return None
        except LockUnavailable as error:
            raise CommandError(
                f"Whether the lock is free is not known, and nothing was run: {error}", returncode=common.UNAVAILABLE
            ) from error
        return lease

    def _not_now(self, text: str, options: dict[str, Any]) -> None:
        if options["busy_exit_code"]:
            raise CommandError(text, returncode=options["busy_exit_code"])
        if options["verbosity"] > 1:
            self.stderr.write(text)

    def _run(
        self, lease: Lease, command: list[str], wards: list[SupervisedCommand], signals: _Signals, grace: float
    ) -> None:
        environment = {**os.environ, "LOCKSMITH_KEY": lease.key, "LOCKSMITH_FENCE": str(lease.fence)}
        if lease.slot:
            environment["LOCKSMITH_SLOT"] = lease.slot
        try:
            supervised = SupervisedCommand(command, environment, lease, min(grace, lease.timeout / 3))
        except BaseException as error:
            self._give_back(lease)
            if isinstance(error, OSError):
                raise CommandError(f"The command was not started: {error}", returncode=NO_PROCESS) from error
            raise
        wards.append(supervised)
        signals.forward_to(supervised)
        self._report(command, lease, supervised.watch())

    def _report(self, command: list[str], lease: Lease, end: End) -> None:
        name = printable(lease.key)
        stopped = _why(lease, end)
        if end.gone:
            loss = self._give_back(lease)
        else:
            lease.disown()  # renewed no more, but not given to others either while the command may be alive
            loss = None
            self.stderr.write(f"The command could not be stopped; the lock {name} is left to end with its lease.")
        if stopped:
            raise CommandError(
                f"{stopped}; the command was stopped.", returncode=NO_PROCESS if end.stopped == "supervisor" else LOST
            )
        if end.failed is not None:
            raise CommandError(
                f"{printable(command[0])} was not started: {os.strerror(end.failed)}",
                returncode=_start_code(end.failed),
            )
        if loss is not None:
            text = f"The lock {name} was lost while the command ran; others may have run at the same time"
            if not end.code:
                raise CommandError(f"{text}.", returncode=LOST)
            self.stderr.write(f"{text}. The command itself ended with {end.code}.")
        if end.code:
            raise SystemExit(end.code)

    def _give_back(self, lease: Lease) -> LockLost | None:
        try:
            lease.release()
        except LockLost as loss:
            return loss
        except LockUnavailable as error:
            self.stderr.write(
                f"The lock {printable(lease.key)} could not be released, and ends with its lease of"
                f" {lease.timeout:g} s: {error}"
            )
        return None


class _Interrupted(BaseException):
    """A signal came while we waited for the lock."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Signals:
    """What becomes of signals: they end the wait for the lock; then they are the command's."""

    def __init__(self) -> None:
        self._at_terminal = _has_terminal()
        self._waiting = True
        self._early: list[int] = []
        self._ward: SupervisedCommand | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them within this block; those that are ignored stay so. Only the main thread can."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """We have the lock: keep what comes for the command."""
        self._waiting = False

    def forward_to(self, supervised: SupervisedCommand) -> None:
        """There is the command."""
        self._ward = supervised
        for number in self._early:
            supervised.signal(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ward is not None:
            self._ward.signal(number)
            if number == signal.SIGHUP and self._at_terminal and not _has_terminal():
                # Nobody is left to see it or to end it. A server takes the signal for the wish to load anew.
                self._ward.signal(signal.SIGTERM)
        elif not self._waiting:
            self._early.append(number)
        elif number not in (signal.SIGUSR1, signal.SIGUSR2):  # these mean something to the command only
            self._waiting = False  # once is enough: what is cleaned up now is not to be interrupted
            raise _Interrupted(number)


def _limit(key: str, rate: str | None) -> RateLimit | None:
    if rate is None:
        return None
    return locksmith.rate_limit(rate) if rate in locksmith.settings.rate_limits else locksmith.rate_limit(key, rate)


def _has_terminal() -> bool:
    """Does this process belong to a terminal, which may have gone meanwhile?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _release_if_held(lock: Lock) -> None:
    """The signal may have come just after the grant."""
    try:
        lock.release()
    except (LockLost, LockUnavailable):
        pass  # there was none, as a rule; or it ends with its lease


def _explain(busy: LockBusy) -> str:
    by = printable(str(busy.holder)) if busy.holder else "somebody"
    left = "" if busy.retry_after is None else f"; unless it renews, its lease ends in {busy.retry_after:.1f} s"
    if busy.slots > 1:
        return f"All {busy.slots} slots of {printable(busy.key)} are taken, the next to end by {by}{left}."
    return f"The lock {printable(busy.key)} is held by {by}{left}."


def _why(lease: Lease, end: End) -> str:
    """Why the command was stopped; "" if it was not."""
    name = printable(lease.key)
    if not end.stopped:
        return ""
    if end.stopped == "supervisor":
        return f"The supervisor of the command was killed, or hung, under the lock {name}"
    if lease.hold_until - lease.deadline < _CAPPED_BY:
        return f"The time to hold the lock {name} (--max-hold, or LOCKSMITH['MAX_HOLD']) is over"
    try:
        lease.ensure_held()
    except LockLost as loss:
        return f"The lock {name} was lost ({loss.why})"
    return f"The lease of {lease.timeout:g} s of the lock {name} could not be renewed in time"


def _start_code(failure: int) -> int:
    if failure in (errno.EAGAIN, errno.ENOMEM):
        return NO_PROCESS
    return 127 if failure in (errno.ENOENT, errno.ENOTDIR) else 126


def _label(command: list[str]) -> str:
    """Its first words, up to what may be an option, a URL, or a secret."""
    words = takewhile(re.compile(r"[\w.][\w.,/-]*").fullmatch, command[1:3])
    return " ".join([PurePath(command[0]).name, *words])


def _wait(text: str) -> float | None:
    return None if text == "forever" else common.seconds(text)


def _slots(text: str) -> int | list[str]:
    try:
        return int(text)
    except ValueError:
        return text.split(",")


def _exit_code(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not an exit code, from 0 to 255")
    return int(text)
