"""Client and server on one CPU: without the wake-ups between CPUs a round trip costs what it costs, and no luck."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@contextmanager
def on_one_cpu(server: int | None, *clients: int) -> Iterator[list[str]]:
    """Pin all threads of these processes to one CPU. Yields notes, that say so where it cannot be done."""
    if server is None:
        yield ["NOT PINNED: the server is no process of this machine; the figures contain wake-ups between CPUs"]
        return
    if not hasattr(os, "sched_setaffinity"):
        yield ["NOT PINNED: this system has no sched_setaffinity; the figures contain wake-ups between CPUs"]
        return
    pids = (server, *clients)
    before = {pid: os.sched_getaffinity(pid) for pid in pids}
    cpu = max(set.intersection(*before.values()))
    try:
        for pid in pids:
            _pin(pid, {cpu})
    except PermissionError:
        _restore(before)
        yield ["NOT PINNED: not permitted; the figures contain wake-ups between CPUs"]
        return
    try:
        yield [f"client and server pinned to CPU {cpu}"]
    finally:
        _restore(before)


def _restore(before: dict[int, set[int]]) -> None:
    for pid, cpus in before.items():
        with suppress(FileNotFoundError, PermissionError):  # it has ended, or was never pinned
            _pin(pid, cpus)


def _pin(pid: int, cpus: Collection[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended
            os.sched_setaffinity(int(thread.name), cpus)
