"""Eight processes on one key.

Each takes and releases the lock in a loop, with nothing to do in between. Measures grants per second of all together,
how evenly they were spread (Jain's index: 1 = evenly), the longest that anybody waited once, and what an acquisition
sends to Redis: commands, and requests, which count a BLPOP and the claim pipelined behind it, one write, as one.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from ..contenders import WAITING, Ours, PythonRedisLock, RedisPy, contender
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, jain, ratios, rotated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..server import Stage

KEY = "bench:contended"
PROCESSES = 8


class Share(NamedTuple):
    """What one process got."""

    in_time: int
    in_all: int
    worst_wait: float


class Round(NamedTuple):
    """What one contender did in one round."""

    per_second: float
    fairness: float
    worst_wait: float
    commands: float
    requests: float


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds, seconds = stage.pick((5, 3.0), (1, 1.0))
    played: dict[str, list[Round]] = {name: [] for name in WAITING}
    with Crew(PROCESSES, stage.url) as crew:
        for name in WAITING:
            crew.run_all(warm_up, name, stage.url, timeout=60)
            _play(crew, stage, name, 0.3)
        for number in range(rounds):
            for name in rotated(WAITING, number):
                played[name].append(_play(crew, stage, name, seconds))
    return _result(played)


def _result(played: dict[str, list[Round]]) -> Result:
    result = Result("contended", f"{PROCESSES} processes on one key, nothing to do while holding it")
    for field, what, unit in (
        ("per_second", "throughput", "grants/s"),
        ("fairness", "fairness", "Jain"),
        ("worst_wait", "worst wait", "ms"),
        ("commands", "commands", "per acquisition"),
        ("requests", "requests", "per acquisition"),
    ):
        result.add(what, unit, {name: _column(rounds, field) for name, rounds in played.items()})
    ours, prl, redis_py = (
        _column(played[name], "per_second") for name in (Ours.name, PythonRedisLock.name, RedisPy.name)
    )
    result.comparisons += [
        Comparison("ours / python-redis-lock, throughput", ratios(ours, prl), target=1.5, better=">=", aim=1.8),
        Comparison("ours / redis-py, throughput", ratios(ours, redis_py)),
        Comparison("ours, Jain", _column(played[Ours.name], "fairness"), target=0.99, better=">="),
        Comparison("ours, requests per acquisition", _column(played[Ours.name], "requests"), target=3.1),
    ]
    result.notes.append(
        "redis-py's holder takes the lock again while the others sleep: mind its fairness and worst wait"
    )
    return result


def _column(rounds: list[Round], field: str) -> list[float]:
    return [getattr(played, field) for played in rounds]


def _play(crew: Crew, stage: Stage, name: str, seconds: float) -> Round:
    before = stage.commands_run()
    start = time.monotonic() + 0.1
    shares: list[Share] = crew.run_all(grab, name, stage.url, start, start + seconds, timeout=seconds + 60)
    calls = stage.commands_run()
    calls.subtract(before)
    grants = sum(share.in_all for share in shares)
    commands = _commands_sent(name, calls)
    return Round(
        per_second=sum(share.in_time for share in shares) / seconds,
        fairness=jain([share.in_time for share in shares]),
        worst_wait=max(share.worst_wait for share in shares) * 1000,
        commands=commands / grants,
        requests=(commands - calls["blpop"] if name == Ours.name else commands) / grants,
    )


def _commands_sent(name: str, calls: Mapping[str, int]) -> int:
    """How many of these commands came from clients.

    Scripts call others than the clients send, with one exception: the release of python-redis-lock calls GET once.
    """
    scripts = calls["evalsha"] + calls["eval"]
    if name == PythonRedisLock.name:
        return scripts + calls["blpop"] + calls["set"] + calls["get"] - calls["evalsha"]
    if name == RedisPy.name:
        return scripts + calls["set"]
    return scripts + calls["blpop"]


def warm_up(name: str, url: str) -> None:
    """In each process: connect, and have the scripts loaded."""
    for _ in range(20):
        with contender(name, url).lock(f"{KEY}:{os.getpid()}"):
            pass


def grab(name: str, url: str, start: float, end: float) -> Share:
    """In each process: take and release the lock from `start` to `end` (monotonic seconds)."""
    lock = contender(name, url).lock
    in_time = in_all = 0
    worst = 0.0
    sleep_until(start)
    while (wanted := time.monotonic()) < end:
        with lock(KEY):
            got = time.monotonic()
        in_all += 1
        in_time += got < end
        worst = max(worst, got - wanted)
    return Share(in_time, in_all, worst)
