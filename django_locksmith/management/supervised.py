"""A command under its supervisor, as the process that holds the lock sees it."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import clock
from ..policy.locks import caution
from . import supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django_locksmith import Lease

_OVERDUE = 1.0
"""Seconds after the deadline, or after its SIGKILL, for which we wait for the end of a command."""

_LOOK_EVERY = 0.05
"""Seconds between looks for what nothing tells of."""


@dataclass
class End:
    """How a command ended. `code`: as a shell gives it, `None` if unknown. `failed`: the errno if it did not start.

    `stopped`: why it was stopped, "" if it was not: "deadline" (the lease could not be renewed in time), "lost", or
    "supervisor" (that was killed, or hung). `gone`: has all of its process group ended?
    """

    code: int | None = None
    failed: int | None = None
    stopped: str = ""
    gone: bool = False


class SupervisedCommand:
    """Runs a command under a supervisor of its own, for as long as a lease is held.

    Tells the supervisor of each renewal and of a loss; passes signals on. Should the supervisor be killed, or be
    too late, the command is stopped from here.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], lease: Lease, grace: float) -> None:
        self._lease = lease
        self._grace = grace
        self._told = lease.deadline
        self._told_loss = False
        self._heard = b""
        self._group: supervisor.Group | None = None
        self._over = False
        self.end = End()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)  # a hung supervisor must not hang us
        margin = caution(lease.timeout)
        arguments = (str(theirs.fileno()), repr(self._told), repr(grace), repr(margin), *command)
        # Blocked, and so inherited, so that a signal to all processes of a service cannot hit a supervisor just born.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, supervisor.SIGNALS)
        try:
            self._process = subprocess.Popen(
                # Isolated: our supervisor depends on nobody's PYTHONPATH, and starts in some 20 ms.
                [sys.executable, "-I", "-S", supervisor.__file__, *arguments],
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def signal(self, number: int) -> None:
        """Pass a signal on to the command."""
        self._say(f"signal {number}")

    def lost(self) -> None:
        """The lock is lost: stop the command. May be called in any thread."""
        self._told_loss = True
        self._say("lost")

    def watch(self) -> End:
        """Return when the command and all of its process group have ended."""
        try:
            self._attend()
            if not self._over:
                self._process.kill()
                self._hear()
                self._stop()
        finally:
            # Should we have been interrupted: it takes this for our death, and stops the command.
            self._socket.close()
            self._process.wait()
        return self.end

    def _attend(self) -> None:
        """Return when the command is over, or the supervisor is of no use any more."""
        look_every = min(1.0, max(0.005, self._lease.timeout / 30))
        while not self._over:
            left = self._lease.deadline - clock.now()
            readable, _, _ = select.select([self._socket], [], [], min(look_every, left) if left > 0 else _LOOK_EVERY)
            if readable and not self._hear():
                return
            self._tell_news()
            late = clock.now() - self._lease.deadline
            if late > 0 and self._group is not None and not self._over:
                self._group.signal(signal.SIGKILL)  # as the supervisor does now, unless somebody stopped it
            if late > _OVERDUE:
                return

    def _tell_news(self) -> None:
        deadline = self._lease.deadline
        if not self._lease.held:
            if not self._told_loss:
                self.lost()
        elif deadline != self._told:
            self._told = deadline
            # The supervisor has a process, and a clock, of its own.
            self._say(f"until {time.monotonic() + deadline - clock.now()!r}")

    def _say(self, line: str) -> None:
        with suppress(OSError):
            self._socket.send(line.encode() + b"\n")

    def _hear(self) -> bool:
        """Read what the supervisor said; `False` when it will say nothing more."""
        try:
            while data := self._socket.recv(4096):
                self._heard += data
            more = False
        except BlockingIOError:
            more = True
        except OSError:
            more = False  # reset, because it died before it had read all that we said
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "started":
                self._group = supervisor.Group(int(value))
            elif word == "ended":
                self.end.code = int(value)
            elif word == "failed":
                self.end.failed = int(value)
            else:
                self._over = self.end.gone = True
                self.end.stopped = "" if value == "-" else value
        return more

    def _stop(self) -> None:
        """Do the supervisor's work, when it cannot."""
        self.end.stopped = "supervisor" if self._lease.held else "lost"
        kill_at = clock.now() + self._grace
        if self._group is not None:
            self._group.ask_to_end()
        while self._group is not None and not self._group.is_gone():
            now, last = clock.now(), min(kill_at, self._lease.deadline)
            if now > last + _OVERDUE:
                return
            if now >= last:
                self._group.signal(signal.SIGKILL)
            time.sleep(min(_LOOK_EVERY, max(0.001, last - now)))
        self.end.gone = True
