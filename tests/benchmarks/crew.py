"""Processes that work for a scenario: started before it, kept warm through it, surely ended after it."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, final

from .contenders import configure_django

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

_SPAWN: Final = multiprocessing.get_context("spawn")
_GRACE: Final = 3.0


@final
class Crew:
    """So many processes, each with Django set up for the server; a context manager."""

    def __init__(self, size: int, url: str, configure: Callable[[str], None] = configure_django) -> None:
        self._size = size
        self._url = url
        self._configure = configure
        self._members: list[tuple[SpawnProcess, Connection]] = []

    def __enter__(self) -> Crew:
        try:
            for _ in range(self._size):
                self._hire()
            self.run_all(_nothing, timeout=60)
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dismiss()

    @property
    def pids(self) -> list[int]:
        """The process ids, in order."""
        return [process.pid for process, _ in self._members if process.pid is not None]

    def ask(self, member: int, task: Callable[..., Any], *arguments: Any) -> None:
        """Have a member call a module's function; `answer` brings the result."""
        self._members[member][1].send((task, arguments))

    def answer(self, member: int, *, timeout: float) -> Any:
        """The result of what the member was asked last. Raises `RuntimeError` if it failed or takes too long."""
        process, desk = self._members[member]
        if not desk.poll(timeout):
            raise RuntimeError(f"no answer from process {process.pid} after {timeout:g} s")
        try:
            succeeded, result = desk.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"process {process.pid} has died") from error
        if not succeeded:
            raise RuntimeError(f"a process failed:\n{result}")
        return result

    def run(self, task: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
        """The result of a function that the first member calls."""
        self.ask(0, task, *arguments)
        return self.answer(0, timeout=timeout)

    def run_all(self, task: Callable[..., Any], *arguments: Any, timeout: float) -> list[Any]:
        """The results of a function that all members call at once."""
        for member in range(self._size):
            self.ask(member, task, *arguments)
        return [self.answer(member, timeout=timeout) for member in range(self._size)]

    def _hire(self) -> None:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, self._url, self._configure), daemon=True)
        self._members.append((process, ours))
        process.start()
        theirs.close()

    def _dismiss(self) -> None:
        for _, desk in self._members:
            desk.close()
        until = time.monotonic() + _GRACE
        for process, _ in self._members:
            if process.pid is None:
                continue
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(_GRACE)
        self._members.clear()


def sleep_until(moment: float) -> None:
    """Sleep until then (monotonic seconds, which all processes of a machine share)."""
    time.sleep(max(0.0, moment - time.monotonic()))


def _work(desk: Connection, url: str, configure: Callable[[str], None]) -> None:
    # Ctrl-C is for the process that started us: it closes the desk.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure(url)
    while True:
        try:
            task, arguments = desk.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, task(*arguments)
        except Exception:
            answer = False, traceback.format_exc()
        try:
            desk.send(answer)
        except OSError:
            return


def _nothing() -> None:
    """Show that the process is up."""
