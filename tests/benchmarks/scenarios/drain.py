"""A queue of threads.

Two hundred threads of one process wait for a key that is held. Measures from just before its release until the last
of them has had the lock. Each releases it at once, so this is the price of two hundred turns.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..contenders import WAITING, Ours, PythonRedisLock, RedisPy, contender
from ..crew import Crew
from ..figures import Comparison, Result, ratios, rotated

if TYPE_CHECKING:
    from ..server import Stage

KEY = "bench:drain"
SETTLE = 0.8
"""Seconds from the last thread's call until the release: all wait in Redis, or in the process, by then."""
PATIENCE = 60.0


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds, waiters = stage.pick((9, 200), (2, 200))
    result = Result("drain", f"{waiters} threads of one process wait for one key; until the last has had it")
    millis: dict[str, list[float]] = {name: [] for name in WAITING}
    with Crew(1, stage.url) as crew:
        for name in WAITING:
            crew.run(drain, name, stage.url, waiters, timeout=2 * PATIENCE)
        for number in range(rounds):
            for name in rotated(WAITING, number):
                seconds = crew.run(drain, name, stage.url, waiters, timeout=2 * PATIENCE)
                millis[name].append(seconds * 1000)
    result.add("drained", "ms", millis)
    ours = millis[Ours.name]
    result.comparisons += [
        Comparison("ours / python-redis-lock", ratios(ours, millis[PythonRedisLock.name]), target=0.80),
        Comparison("ours / redis-py", ratios(ours, millis[RedisPy.name])),
    ]
    return result


def drain(name: str, url: str, waiters: int) -> float:
    """In the waiters' process: seconds that one queue takes."""
    lock = contender(name, url).lock
    calling: list[int] = []
    had_it: list[float] = []

    def wait(number: int) -> None:
        calling.append(number)
        with lock(KEY):
            had_it.append(time.monotonic())

    threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(waiters)]
    with lock(KEY):
        for thread in threads:
            thread.start()
        while len(calling) < waiters:
            time.sleep(0.01)
        time.sleep(SETTLE)
        released = time.monotonic()
    give_up = released + PATIENCE
    for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
    if len(had_it) < waiters:
        raise RuntimeError(f"only {len(had_it)} of {waiters} threads got the lock")
    return max(had_it) - released
