"""Notices that this process is a forked child, whichever code forked it.

`os.fork` runs the hooks of Python; a server that forks in C, as uWSGI does, does not. So the process id is compared
wherever state that must not be shared with the parent is reached.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_getpid = os.getpid


class _Forks:
    """`generation`: how many forks lie between this process and the one that imported us first."""

    def __init__(self) -> None:
        self.pid = _getpid()
        self.generation = 0
        self.hooks: list[Callable[[], object]] = []

    def start_again(self) -> None:
        if self.pid != _getpid():
            self.pid = _getpid()
            self.generation += 1
            for hook in self.hooks:
                hook()


state = _forks = _Forks()
"""`state.generation` is `generation()`, for those who have just asked: to ask the system takes a while."""
os.register_at_fork(after_in_child=_forks.start_again)


def in_child(hook: Callable[[], object]) -> None:
    """Have this called in each forked child, before anything else of ours runs there."""
    _forks.hooks.append(hook)


def generation() -> int:
    """A number that this process does not share with the one that it was forked from."""
    if _forks.pid != _getpid():
        _forks.start_again()
    return _forks.generation
