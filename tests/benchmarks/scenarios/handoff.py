"""Hand-over between two processes.

One process holds the lock, another waits for it. Measures from just before the holder's release to the waiter having
the lock, on the clock that both share. The holder releases at a random moment within the tenth of a second that polling
locks sleep, so that none is helped or hurt by its phase. Samples in which the waiter was not yet waiting are thrown
away.
"""

from __future__ import annotations

import random
import time
from itertools import chain
from typing import TYPE_CHECKING

from ..contenders import WAITING, Ours, PythonRedisLock, RedisPy, contender
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, percentile, ratios, rotated

if TYPE_CHECKING:
    from ..server import Stage

KEY = "bench:handoff"
LEAD = 0.01
WAITS_AFTER = 0.02
RELEASES_AFTER = 0.06
POLLING = 0.1
"""Seconds that redis-py's lock sleeps between two tries."""


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds, samples = stage.pick((8, 25), (2, 8))
    taken: dict[str, list[list[float]]] = {name: [[] for _ in range(rounds)] for name in WAITING}
    with Crew(2, stage.url) as crew:
        for _ in range(5):
            for name in WAITING:
                sample(crew, name, stage.url)
        for number in range(rounds):
            for turn in range(samples):
                for name in rotated(WAITING, turn):
                    taken[name][number].append(sample(crew, name, stage.url))
    return _result(taken)


def _result(taken: dict[str, list[list[float]]]) -> Result:
    result = Result("handoff", "from just before a release to the waiter in another process having the lock")
    middle = {name: [percentile(samples, 50) for samples in rounds] for name, rounds in taken.items()}
    tail = {name: [percentile(list(chain(*rounds)), 99)] for name, rounds in taken.items()}
    result.add("p50", "ms", middle)
    result.add("p99", "ms", tail)
    ours, prl, redis_py = Ours.name, PythonRedisLock.name, RedisPy.name
    result.comparisons += [
        Comparison(f"ours / {prl}, p50", ratios(middle[ours], middle[prl]), target=0.60, aim=0.50),
        Comparison(f"ours / {redis_py}, p50", ratios(middle[ours], middle[redis_py]), target=0.01),
        Comparison(f"ours / {prl}, p99", ratios(tail[ours], tail[prl])),
        Comparison(f"ours / {redis_py}, p99", ratios(tail[ours], tail[redis_py])),
    ]
    return result


def sample(crew: Crew, name: str, url: str) -> float:
    """One hand-over, milliseconds."""
    for _ in range(20):
        start = time.monotonic() + LEAD
        release_at = start + RELEASES_AFTER + random.uniform(0, POLLING)
        crew.ask(0, hold, name, url, start, release_at)
        crew.ask(1, wait, name, url, start + WAITS_AFTER)
        held_from, released = crew.answer(0, timeout=30)
        began, got = crew.answer(1, timeout=30)
        if held_from < began < released - WAITS_AFTER:
            return float(got - released) * 1000
    raise RuntimeError("the machine is too busy to have one process wait for another")


def hold(name: str, url: str, start: float, release_at: float) -> tuple[float, float]:
    """In the holder's process: when it got the lock, and when it began to release it."""
    sleep_until(start)
    with contender(name, url).lock(KEY):
        held_from = time.monotonic()
        sleep_until(release_at)
        released = time.monotonic()
    return held_from, released


def wait(name: str, url: str, start: float) -> tuple[float, float]:
    """In the waiter's process: when it began to wait, and when it got the lock."""
    sleep_until(start)
    began = time.monotonic()
    with contender(name, url).lock(KEY):
        got = time.monotonic()
    return began, got
