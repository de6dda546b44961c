"""Uncontended acquire + release.

Measures `with lock: pass`, the lock object made each time, by one thread while nobody else wants the key. Client and
server share one CPU: what is left is the work of both, without the wake-ups between CPUs. A round times a block of
pairs of each contender in turn and keeps the mean of the block.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from ..contenders import ALL, Ours, RedisPy, contender
from ..crew import Crew
from ..figures import Comparison, Result, ratios, rotated
from ..pinning import on_one_cpu

if TYPE_CHECKING:
    from ..server import Stage

KEY = "bench:pair"


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds, pairs = stage.pick((31, 400), (5, 200))
    result = Result("pair", "uncontended acquire + release, lock object made each time")
    with Crew(1, stage.url) as crew, on_one_cpu(stage.server_pid(), *crew.pids) as notes:
        result.notes += notes
        micros = crew.run(measure, stage.url, rounds, pairs, timeout=300)
    result.add("pair", "µs", micros)
    ours = micros[Ours.name]
    result.comparisons.append(Comparison("ours / redis-py", ratios(ours, micros[RedisPy.name]), target=0.60))
    for name in micros:
        if name not in (Ours.name, RedisPy.name):
            result.comparisons.append(Comparison(f"ours / {name}", ratios(ours, micros[name])))
    return result


def measure(url: str, rounds: int, pairs: int) -> dict[str, list[float]]:
    """In the client's process: µs per pair, by contender and round."""
    micros: dict[str, list[float]] = {name: [] for name in ALL}
    for name in ALL:
        _block(name, url, pairs)
    for number in range(rounds):
        for name in rotated(list(ALL), number):
            micros[name].append(_block(name, url, pairs))
    return micros


def _block(name: str, url: str, pairs: int) -> float:
    lock = contender(name, url).lock
    gc.collect()
    began = time.perf_counter()
    for _ in range(pairs):
        with lock(KEY):
            pass
    return (time.perf_counter() - began) / pairs * 1e6
