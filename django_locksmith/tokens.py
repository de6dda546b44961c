"""Tokens: one for each holding, unique by its first part, and readable for people.

`<random>-<count>|host|pid|thread|since|label`: 96 random bits of the process, and its how-many-eth token this is. What
comes behind is there to be shown, never compared; `since` is when its owner asked for the lock, Unix time in ms.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from itertools import count
from pathlib import PurePath
from typing import TYPE_CHECKING

from . import forks
from .records import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator

HANDED_OVER = "locksmith:handed-over"
"""What a lock holds while it is handed from one holder to the next: no token can be it. Stands in baton.lua, too."""

_RANDOM_BYTES = 12
_LONGEST_TOKEN, _LONGEST_FIELD = 20_000, 200
_TOKEN = re.compile(r"[0-9a-f]{24}-[0-9a-f]{1,16}\|([^|]*)\|(\d{1,18})\|([^|]*)\|(\d{1,14})\|(.*)", re.DOTALL)
_TEXT_OF_JSON = ("{", "[", '"')
_NO_TEXT = re.compile("[\ud800-\udfff]")

_WORD = re.compile(r"[A-Za-z_-]{1,40}")


def _describe_process() -> tuple[str, str]:
    # The first argument tells what `manage.py` or `celery` does; an argument that is no plain word may be a secret.
    words = [word for word in sys.argv[1:2] if _WORD.fullmatch(word)]
    program = [PurePath(sys.argv[0]).name if sys.argv else "", *words]
    return f"{_field(platform.node())}|{os.getpid()}", " ".join(filter(None, program))[:_LONGEST_FIELD]


def _field(text: str) -> str:
    return text.replace("|", "/")[:_LONGEST_FIELD]


class _Process:
    """Who this process is, made again in a forked child."""

    def __init__(self) -> None:
        self.place, self.program = _describe_process()
        self.random = os.urandom(_RANDOM_BYTES).hex()
        self.count = count(1)


class _Thread(threading.local):
    place: tuple[str, Iterator[int], str] = ("", iter(()), "")


process = _Process()
_thread = _Thread()
forks.in_child(process.__init__)  # type: ignore[misc]  # the same object, filled again


def new_token(label: str = "") -> str:
    """A token for one holding; `label` defaults to the program's name and first argument.

    For those who have just asked whether this process is a fork (`forks.generation`).
    """
    random, count, place = _thread.place
    if random is not process.random:  # the first of this thread, or of a forked child
        random, count = process.random, process.count
        place = f"{process.place}|{_field(threading.current_thread().name)}"
        _thread.place = random, count, place
    return f"{random}-{next(count)}|{place}|{time.time_ns() // 1_000_000}|{label[:_LONGEST_FIELD] or process.program}"


def looks_like_a_token(text: str) -> bool:
    """Could a lock be held by this: by us, or by other software that sets `SET key token NX PX`?

    Other values, as those of a cache (bytes that are no text; JSON), are nobody's to see or to delete by way of locks.
    """
    if len(text) > _LONGEST_TOKEN:
        return False
    return _TOKEN.fullmatch(text) is not None or not (text.startswith(_TEXT_OF_JSON) or _NO_TEXT.search(text))


def read_holder(token: str) -> Holder | None:
    """Who a token speaks of; `None` for the mark of a lock that is being handed over."""
    if token == HANDED_OVER:
        return None
    match = _TOKEN.fullmatch(token)
    if match is None:
        return Holder(token)
    host, pid, thread, since, label = match.groups()
    return Holder(token, host, int(pid), thread, int(since) / 1000, label)
