"""The supervisor of a command: it sees to its end, whatever becomes of the process that holds the lock.

    python -I -S supervisor.py SOCKET DEADLINE GRACE MARGIN COMMAND [ARGUMENT ...]

A script of its own, for the standard library alone, which `locksmith_run` starts by its path. It starts COMMAND in a
process group of its own and stops it (SIGTERM, GRACE seconds later SIGKILL) so that nothing of the group is alive at
DEADLINE, on the clock of `time.monotonic()` that all processes of a machine share; at once when told that the lock is
lost; and at once when the socket closes, for then the process that held the lock is dead. (Should the supervisor die or
hang itself, `supervised.py` stops the command by the same times.) Redis ends the lease MARGIN seconds after DEADLINE.

SOCKET is the number of an inherited descriptor. Lines heard: `until DEADLINE`, `signal NUMBER`, `lost`. Lines said:
`started PID`, then `ended CODE` or `failed ERRNO`, then `over WHY` when the whole group is gone; WHY it was stopped is
`deadline`, `lost`, `orphaned`, or `-` if it was not.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from math import inf

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What is passed on to the command."""

_LOOK_EVERY = 0.05
"""Seconds between looks for what nothing tells of: the end of processes that are not our children."""
_LEFT_FOR = 1.0
"""Seconds after the end of a command in which the rest of a pipeline may well end, too."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PYTHON_IGNORES = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)]


class Group:
    """The processes of a command: its first one, and what that started and left in its process group."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def signal(self, number: int) -> None:
        """Send a signal to all that may be sent one (not to those of another user)."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.leader, number)

    def ask_to_end(self) -> None:
        """SIGTERM, also to those that are stopped."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def is_gone(self) -> bool:
        """Has the last of them ended? To be asked when the first one has been waited for."""
        try:
            os.killpg(self.leader, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class Supervisor:
    """Watches over one command until the last of its group is gone."""

    def __init__(self, socket: int, deadline: float, grace: float, margin: float) -> None:
        self._socket = socket
        self._deadline = deadline
        self._grace = grace
        self._margin = margin
        self._kept = 0.0
        self._heard = b""
        self._orphaned = False
        self._group: Group | None = None
        self._failure = -1
        self._ended = False
        self._complain_at = inf
        self._why = ""
        self._kill_at = inf
        self._killing = False
        self._early: list[int] = []
        self._woken, self._wake = os.pipe()
        for end in (socket, self._woken, self._wake):
            os.set_blocking(end, False)
            os.set_inheritable(end, False)

    def run(self, command: list[str]) -> None:
        """Start the command, unless there is no time left for it, and watch it to its end."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whom the group leaves behind, we wait for: it may have no other init
        self._hear()
        self._act(time.monotonic())
        if not self._why:
            self._start(command)
        while self._group is not None and not (self._ended and self._group.is_gone()):
            ends = [self._woken] if self._orphaned else [self._woken, self._socket]
            before = time.monotonic()
            pause = self._pause(before)
            select.select(ends, [], [], pause)
            after = time.monotonic()
            if after > self._deadline - self._grace:
                # Once they are killed, all waiting is for the system.
                self._kept += after - before if self._killing else max(0.0, after - before - pause)
            self._hear()
            self._reap()
            self._act(time.monotonic())
        self._say(f"over {self._why or '-'}")
        self._own_up(time.monotonic())

    def _own_up(self, now: float) -> None:
        """The margin before the end of the lease is for machines that are late; but some are later than that."""
        if self._killing and now > self._deadline + self._margin:
            _complain(
                f"the command ended {now - self._deadline - self._margin:.3f} s after its lease, so that another may"
                f" have begun meanwhile; the system kept its supervisor waiting for {self._kept:.3f} s"
            )

    def _start(self, command: list[str]) -> None:
        # Closes by itself when the command is executed; else it brings the reason.
        self._failure, failing = os.pipe()
        os.set_blocking(self._failure, False)
        supervisor = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say(f"failed {error.errno}")
            return
        if not pid:
            _become(command, failing, supervisor)
        os.close(failing)
        _to_group_of_its_own(pid)  # the child does it, too: whoever comes first
        self._group = Group(pid)
        self._say(f"started {pid}")
        for number in self._early:
            self._group.signal(number)

    # ---- what comes in

    def _hear(self) -> None:
        while not self._orphaned:
            try:
                data = os.read(self._socket, 4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""  # reset, because it died before it had read all that we said
            self._orphaned = not data
            self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "until":
                self._deadline = float(value)
            elif word == "lost":
                self._stop("lost", time.monotonic())
            elif self._group is None:
                self._early.append(int(value))
            elif not self._ended or not self._group.is_gone():
                self._group.signal(int(value))

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, 4096)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if self._group is not None and pid == self._group.leader:
                    self._ended = True
                    self._complain_at = time.monotonic() + _LEFT_FOR
                    self._tell_end(os.waitstatus_to_exitcode(status))

    def _tell_end(self, code: int) -> None:
        reason = os.read(self._failure, 16)
        self._say(f"failed {reason.decode()}" if reason else f"ended {code if code >= 0 else 128 - code}")

    # ---- what is to be done

    def _act(self, now: float) -> None:
        if not self._why:
            if self._orphaned:
                self._stop("orphaned", now)
            elif now >= self._deadline - self._grace:
                self._stop("deadline", now)
            elif now >= self._complain_at:
                self._complain_at = inf
                _complain(
                    "the command has ended, but left processes in the background: they hold the lock until they end"
                )
        if now >= self._kill_at and self._group is not None and not (self._ended and self._group.is_gone()):
            self._killing = True
            self._group.signal(signal.SIGKILL)

    def _stop(self, why: str, now: float) -> None:
        if self._why:
            return
        self._why = why
        self._kill_at = min(now + self._grace, self._deadline)
        if self._group is None:
            return
        if why == "orphaned":
            _complain(f"killed; its command (process group {self._group.leader}) is stopped, too")
        self._group.ask_to_end()

    def _pause(self, now: float) -> float:
        if self._killing:
            return _LOOK_EVERY
        due = self._kill_at if self._why else self._deadline - self._grace
        return max(0.0, min(due - now, _LOOK_EVERY if self._ended else 3600))

    def _say(self, line: str) -> None:
        with suppress(OSError):
            os.write(self._socket, line.encode() + b"\n")


def _complain(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"locksmith_run: {text}\n".encode())


def _become(command: list[str], failing: int, supervisor: int) -> None:
    """In the forked child: turn into the command."""
    try:
        _to_group_of_its_own(0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should the supervisor be killed
        if os.getppid() != supervisor:
            os._exit(127)
        for number in (*SIGNALS, *_PYTHON_IGNORES):
            # What whoever started locksmith_run had ignored (nohup does) stays so.
            if number in _PYTHON_IGNORES or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(failing, str(error.errno).encode())
    finally:
        os._exit(127)


def _to_group_of_its_own(pid: int) -> None:
    with suppress(PermissionError, ProcessLookupError):  # it has become the command, or ended, already
        os.setpgid(pid, pid)


def _prctl(option: int, value: int) -> None:
    # Linux has it. Elsewhere the group's end is seen a little later; and should the supervisor be killed, the
    # process that holds the lock stops the command.
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(socket: str, deadline: str, grace: str, margin: str, *command: str) -> None:
    # Blocked for good: systemd, say, sends SIGTERM to every process of a service, but the supervisor still has work.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    Supervisor(int(socket), float(deadline), float(grace), float(margin)).run(list(command))


if __name__ == "__main__":
    main(*sys.argv[1:])
