"""What a reader waits while a value is refreshed, and what a list of keys costs an API that answers for many.

A reader asks for one key, again and again: while it is fresh; then while it is out of date, and a thread of the process
computes a new one, for a second. Measures the 99th percentile of both, and of the same with one who computes in the
foreground, without `refresh`.

Then four processes ask for 100 keys each at the same time, of which each shares half with the next, from an API that
answers for 50 keys in 100 ms. Measures how many calls it gets, and how many keys are asked for twice.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from django.core.cache import cache

from django_locksmith import locksmith

from ..caches import configure_django
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, percentile, ratios

if TYPE_CHECKING:
    from ..server import Stage

PROCESSES: Final = 4
KEYS: Final = 100
DISTINCT: Final = 50 * (PROCESSES + 1)
MOST: Final = 50
SECONDS: Final = 1.0
HEAD_START: Final = 0.3
OLD: Final = "locksmith-old-1"

HIT: Final = "a hit"
REFRESHING: Final = "refresh"
FOREGROUND: Final = "without refresh, a reader"


class Calls(NamedTuple):
    """What one process asked the API for."""

    lists: list[list[str]]
    values: int


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds = stage.pick(5, 2)
    read: dict[str, list[float]] = {HIT: [], REFRESHING: [], FOREGROUND: []}
    calls: list[float] = []
    twice: list[float] = []
    with Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(rounds):
            for name, seconds in crew.run(read_all, f"bench:refresh:{number}", timeout=60).items():
                read[name].append(seconds)
            many = _ask_for_many(crew, number)
            asked = [key for each in many for keys in each.lists for key in keys]
            calls.append(sum(len(each.lists) for each in many))
            twice.append(len(asked) - len(set(asked)))
    result = Result(
        "refresh",
        f"reading while a value is refreshed for {SECONDS:g} s; {PROCESSES} processes with {KEYS} keys each,"
        f" {DISTINCT} in all, {MOST} a call",
    )
    result.add("99 of 100 reads take", "ms", {name: [1000 * each for each in found] for name, found in read.items()})
    result.add("calls", "", {"get_many_or_set": calls})
    result.add("keys computed twice", "", {"get_many_or_set": twice})
    most = DISTINCT / MOST + PROCESSES
    result.comparisons += [
        Comparison("reads, refresh / hit", ratios(read[REFRESHING], read[HIT]), target=1.2),
        Comparison("get_many_or_set, calls", calls, target=most, judged_by="worst"),
        Comparison("get_many_or_set, keys computed twice", twice, target=0, judged_by="worst"),
    ]
    return result


def read_all(key: str) -> dict[str, float]:
    """In one process: the 99th percentiles, seconds."""
    found = {}
    for name, how in ((HIT, None), (REFRESHING, "thread"), (FOREGROUND, None)):
        locksmith.get_or_set(f"{key}:{name}", lambda: 1, 60, stale=600)
        going_on = threading.Event()
        compute = _slow(going_on)
        if name != HIT:
            cache.delete(f"{key}:{name}")
            if name == FOREGROUND:
                leader = threading.Thread(
                    target=locksmith.get_or_set, args=(f"{key}:{name}", compute, 60), kwargs={"stale": 600}
                )
                leader.start()
            else:
                locksmith.get_or_set(f"{key}:{name}", compute, 60, stale=600, refresh=how)
            going_on.wait(10)
        times = []
        until = time.monotonic() + 0.9 * SECONDS
        while (begun := time.monotonic()) < until:
            locksmith.get_or_set(f"{key}:{name}", compute, 60, stale=600, refresh=how)
            times.append(time.monotonic() - begun)
        found[name] = percentile(times, 99)
        if name == FOREGROUND:
            leader.join()
    return found


def _slow(going_on: threading.Event) -> object:
    def compute() -> int:
        going_on.set()
        time.sleep(SECONDS)
        return 2

    return compute


def _ask_for_many(crew: Crew, number: int) -> list[Calls]:
    start = time.monotonic() + HEAD_START
    for member in range(PROCESSES):
        crew.ask(member, ask_for_many, f"bench:many:{number}", 50 * member, start)
    many: list[Calls] = [crew.answer(member, timeout=60) for member in range(PROCESSES)]
    if any(each.values != KEYS for each in many):
        raise RuntimeError("somebody did not get all that he asked for")
    return many


def ask_for_many(prefix: str, first: int, start: float) -> Calls:
    """In each process: ask for a list of keys at `start` (monotonic seconds)."""
    lists: list[list[str]] = []

    def api(keys: list[str]) -> dict[str, int]:
        lists.append(keys)
        time.sleep(0.1)
        return dict(zip(keys, itertools.count()))

    keys = [f"{prefix}:{number}" for number in range(first, first + KEYS)]
    cache.get("connected")
    sleep_until(start)
    return Calls(lists, len(locksmith.get_many_or_set(keys, api, 60, most=MOST)))
