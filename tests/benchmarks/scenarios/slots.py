"""An API that does ten calls at a time; and a slot handed over, beside a lock.

Four processes, 25 callers each, call as often as they may; a call takes 20 ms, and the API refuses it while ten others
run. Measures how much of that is used, how many calls it refuses, how many round trips a call costs at the server of
the locks, how long a caller waits at worst for his next call, and how evenly the calls are shared.

The hand-over is that of `handoff.py`, of a lock and of one slot, in turn.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ..caches import configure_django
from ..contenders import Ours as OurLock
from ..contenders import OurSlot, contender
from ..crew import Crew, sleep_until
from ..crowd import (
    CALLERS,
    EACH,
    FAIR,
    PROCESSES,
    REFUSED,
    TRIPS,
    WORST,
    Caller,
    Report,
    call_all,
    in_threads,
    report,
    server_for_api,
)
from ..figures import Comparison, Result, percentile, ratios, rotated
from ..semaphores import ALL, SLOTS, CrowdedApi, Ours, semaphore
from .handoff import KEY, sample

if TYPE_CHECKING:
    from ..server import Stage

CALL_TAKES: Final = 0.02
"""Seconds."""
USED: Final = "capacity used"
IDEAL: Final = CALLERS / SLOTS * CALL_TAKES
"""Seconds between two calls of a caller, if all come in turn."""


def run(stage: Stage) -> Result:
    """Run the scenario."""
    seconds = stage.pick(20.0, 5.0)
    result = Result("slots", f"{CALLERS} callers, an API that does {SLOTS} calls of 20 ms at a time, {seconds:g} s")
    _hand_over(stage, result)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ALL}
    with server_for_api() as (url, control), Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(stage.pick(3, 1)):
            for name in rotated(list(ALL), number):
                stage.control.flushall()
                control.flushall()
                found = call_all(stage, crew, seconds, call_often, name, url)
                rounds[name].append({USED: found.accepted * CALL_TAKES / (SLOTS * seconds), **found.seen(IDEAL)})
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


def call_often(name: str, url: str, api_url: str, start: float, end: float) -> Report:
    """In each process: its callers call."""
    callers = [_Caller(CrowdedApi(api_url), start, end) for _ in range(EACH)]
    in_threads(callers, semaphore(name, url))
    return report(callers)


class _Caller(Caller):
    def __init__(self, api: CrowdedApi, start: float, end: float) -> None:
        super().__init__(start, end)
        self._api = api

    def turn(self, contender: Any) -> None:
        with contender.slot():
            self.called(self._call)

    def _call(self) -> bool:
        begun = time.monotonic()
        if not self._api.begin():
            return False
        sleep_until(begun + CALL_TAKES)
        self._api.end()
        return True
