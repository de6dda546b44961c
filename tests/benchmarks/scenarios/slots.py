"""An API that does ten calls at a time; and a slot handed over, beside a lock.

Four processes, 25 callers each, call as often as they may; a call takes 20 ms, and the API refuses it while ten others
run. Measures how much of that is used, how many calls it refuses, how many round trips a call costs at the server of
the locks, how long a caller waits at worst for his next call, and how evenly the calls are shared.

The hand-over is that of `handoff.py`, of a lock and of one slot, in turn.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..caches import configure_django
from ..contenders import Ours as OurLock
from ..contenders import OurSlot, contender
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, jain, percentile, ratios, rotated
from ..semaphores import ALL, SLOTS, CrowdedApi, Ours, semaphore
from .handoff import KEY, sample
from .rate_limit import (
    CONNECTED_AFTER,
    EACH,
    FAIR,
    HEAD_START,
    PATIENCE,
    REFUSED,
    TRIPS,
    WORST,
    round_trips,
    strict_api,
)

if TYPE_CHECKING:
    from ..server import Stage

PROCESSES: Final = 4
CALL_TAKES: Final = 0.02
"""Seconds."""
USED: Final = "capacity used"
IDEAL: Final = PROCESSES * EACH / SLOTS * CALL_TAKES
"""Seconds between two calls of a caller, if all come in turn."""


class Report(NamedTuple):
    """What each caller of one process saw: calls, and the longest time without one; and of all, what was refused, and
    calls since all were connected."""

    done: list[int]
    longest: list[float]
    refused: int
    late: int


def run(stage: Stage) -> Result:
    """Run the scenario."""
    seconds = stage.pick(20.0, 5.0)
    result = Result(
        "slots", f"{PROCESSES * EACH} callers, an API that does {SLOTS} calls of 20 ms at a time, {seconds:g} s"
    )
    _hand_over(stage, result)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ALL}
    with strict_api() as (url, control), Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(stage.pick(3, 1)):
            for name in rotated(list(ALL), number):
                stage.control.flushall()
                control.flushall()
                rounds[name].append(_round(stage, crew, name, url, seconds))
    for what in (USED, REFUSED, TRIPS, WORST, FAIR):
        result.add(what, "", {name: [each[what] for each in found] for name, found in rounds.items()})
    ours = rounds[Ours.name]
    result.comparisons += [
        Comparison(f"ours, {REFUSED}", [each[REFUSED] for each in ours], target=0, judged_by="worst"),
        Comparison(f"ours, {FAIR}", [each[FAIR] for each in ours], target=0.95, better=">="),
    ]
    result.notes += [
        f"ideal: all callers in turn, so {IDEAL:g} s between two calls of one",
        "Redisson's way is written after its description, a lock for each as one would write it with redis-py",
    ]
    return result


def _hand_over(stage: Stage, result: Result) -> None:
    rounds, samples = stage.pick((8, 25), (2, 8))
    names = (OurLock.name, OurSlot.name)
    taken: dict[str, list[list[float]]] = {name: [[] for _ in range(rounds)] for name in names}
    with Crew(2, stage.url) as crew:
        crew.ask(0, take_the_other, stage.url)
        crew.answer(0, timeout=30)
        for number in range(rounds):
            for turn in range(samples):
                for name in rotated(names, turn):
                    taken[name][number].append(sample(crew, name, stage.url))
    middle = {name: [percentile(each, 50) for each in found] for name, found in taken.items()}
    result.add("hand-over, p50", "ms", {"a lock": middle[OurLock.name], "a slot": middle[OurSlot.name]})
    slot_over_lock = ratios(middle[OurSlot.name], middle[OurLock.name])
    result.comparisons.append(Comparison("hand-over, slot / lock, p50", slot_over_lock, target=1.05, aim=1.0))


def take_the_other(url: str) -> None:
    """In the first process: it has one of the two slots all the time, and hands over the other one."""
    contender(OurSlot.name, url).take_the_other(KEY)


def _round(stage: Stage, crew: Crew, name: str, url: str, seconds: float) -> dict[str, float]:
    start = time.monotonic() + HEAD_START
    for member in range(PROCESSES):
        crew.ask(member, call_often, name, stage.url, url, start, start + seconds)
    sleep_until(start + CONNECTED_AFTER)
    before = round_trips(stage)
    sleep_until(start + seconds)
    trips = round_trips(stage) - before
    reports: list[Report] = [crew.answer(member, timeout=seconds + 2 * PATIENCE) for member in range(PROCESSES)]
    done = [calls for report in reports for calls in report.done]
    refused = sum(report.refused for report in reports)
    return {
        USED: sum(done) * CALL_TAKES / (SLOTS * seconds),
        REFUSED: refused / (sum(done) + refused),
        TRIPS: trips / sum(report.late for report in reports),
        WORST: max(each for report in reports for each in report.longest) / IDEAL,
        FAIR: jain(done),
    }


def call_often(name: str, url: str, api_url: str, start: float, end: float) -> Report:
    """In each process: its callers call from `start` to `end` (monotonic seconds)."""
    callers = [_Caller(CrowdedApi(api_url), start, end) for _ in range(EACH)]
    threads = [threading.Thread(target=each.run, args=(semaphore(name, url),), daemon=True) for each in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + PATIENCE - time.monotonic()))
    return Report(
        [each.done for each in callers],
        [each.longest for each in callers],
        sum(each.refused for each in callers),
        sum(each.late for each in callers),
    )


class _Caller:
    """One who calls, and calls again when he may."""

    def __init__(self, api: CrowdedApi, start: float, end: float) -> None:
        self._api = api
        self._start = self._last = start
        self._end = end
        self.done = self.refused = self.late = 0
        self.longest = 0.0

    def run(self, contender: Any) -> None:
        """In a thread."""
        sleep_until(self._start)
        while time.monotonic() < self._end:
            with contender.slot():
                self._call()

    def _call(self) -> None:
        now = time.monotonic()
        # What comes after the end counts for the wait alone.
        self.longest = max(self.longest, now - self._last)
        if now >= self._end:
            return
        self.late += now >= self._start + CONNECTED_AFTER
        if self._api.begin():
            sleep_until(now + CALL_TAKES)
            self._api.end()
            self.done += 1
            self._last = now
        else:
            self.refused += 1
