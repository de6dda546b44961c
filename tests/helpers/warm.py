"""Processes of management commands, forked from a warm one: each starts in milliseconds, not in a second of imports."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

_HEAVY = ["django.core.management", "django.urls", "django_locksmith", "redis.asyncio", "redis.cluster", "asyncio"]


class Warm:
    """The warm process. Its children read their settings, and connect, by themselves."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, *arguments: str, stdin: int | None = None, **environment: str) -> Running:
        """Start `manage.py ARGUMENTS` with this environment besides ours; `stdin=subprocess.PIPE` to write to it."""
        (read_in, write_in), (read_out, write_out), (read_err, write_err), (read_end, write_end) = (
            os.pipe() for _ in range(4)
        )
        order = json.dumps([arguments, {**os.environ, **environment}]).encode()
        theirs = [read_in, write_out, write_err, write_end]
        socket.send_fds(self._orders, [len(order).to_bytes(4, "big") + order], theirs)
        for end in theirs:
            os.close(end)
        if stdin is None:
            os.close(write_in)
            write_in = -1
        return Running(write_in, read_out, read_err, read_end)

    def close(self) -> None:
        self._orders.close()
        self._process.wait(10)


class Running:
    """A process of a management command."""

    def __init__(self, stdin: int, stdout: int, stderr: int, end: int) -> None:
        self._stdin = stdin
        self._ends = {"out": stdout, "err": stderr, "end": end}
        self._texts = dict.fromkeys(self._ends, b"")
        self.pid = int(self.line("end"))

    def line(self, which: str = "out", within: float = 30) -> str:
        """The next line of its stdout ("out") or stderr ("err")."""
        until = time.monotonic() + within
        while b"\n" not in self._texts[which]:
            assert which in self._ends, f"it ended after {self._texts}"
            self._read(until)
        line, _, self._texts[which] = self._texts[which].partition(b"\n")
        return line.decode(errors="surrogateescape") + "\n"

    def ends(self, say: str = "", within: float = 30) -> tuple[int, str, str]:
        """Write this to its stdin and close it; its exit code, and the rest of its stdout and stderr."""
        if self._stdin >= 0:
            os.write(self._stdin, say.encode())
            os.close(self._stdin)
            self._stdin = -1
        until = time.monotonic() + within
        while self._ends:
            self._read(until)
        out, err = (self._texts[name].decode(errors="surrogateescape") for name in ("out", "err"))
        return int(self._texts["end"]), out, err

    def errors(self, within: float = 30) -> str:
        """All that it, and what it started, write to stderr."""
        until = time.monotonic() + within
        while "err" in self._ends:
            self._read(until)
        return self._texts["err"].decode(errors="surrogateescape")

    def _read(self, until: float) -> None:
        ready, _, _ = select.select(list(self._ends.values()), [], [], max(0.0, until - time.monotonic()))
        assert ready, f"it neither ended in time nor said what it should; it said {self._texts}"
        for name, end in list(self._ends.items()):
            if end in ready:
                data = os.read(end, 65536)
                self._texts[name] += data
                if not data:
                    os.close(self._ends.pop(name))

    def hang_up(self) -> None:
        """Close its stdout."""
        os.close(self._ends.pop("out"))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def close(self) -> None:
        """Kill it, if it is still there."""
        if "end" in self._ends and not select.select([self._ends["end"]], [], [], 0)[0]:
            self.signal(signal.SIGKILL)
        for end in self._ends.values():
            os.close(end)
        if self._stdin >= 0:
            os.close(self._stdin)


def _serve(orders: socket.socket) -> None:
    for name in _HEAVY:
        importlib.import_module(name)
    while True:
        data, ends, _, _ = socket.recv_fds(orders, 4, 4)
        if not data:
            return
        order = b""
        while len(order) < int.from_bytes(data, "big"):
            order += orders.recv(65536)
        attendant = os.fork()
        if not attendant:
            orders.close()
            _attend(*json.loads(order), ends)
        for end in ends:
            os.close(end)
        os.waitpid(attendant, 0)


def _attend(arguments: list[str], environment: dict[str, str], ends: list[int]) -> None:
    """Start the command in a child, say its process id and, when it has ended, its exit code."""
    if os.fork():
        os._exit(0)
    pid = os.fork()
    if not pid:
        _run(arguments, environment, ends)
    for end in ends[:3]:
        os.close(end)
    with suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(ends[3], f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(ends[3], str(code).encode())
    os._exit(0)


def _run(arguments: list[str], environment: dict[str, str], ends: list[int]) -> None:
    code: Any = 1
    try:
        for number, end in enumerate(ends[:3]):
            os.dup2(end, number)
        for end in ends:
            os.close(end)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["manage.py", *arguments]
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
