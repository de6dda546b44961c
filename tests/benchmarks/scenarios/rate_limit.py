"""A hundred callers, and an API of 50 calls a second.

Four processes, 25 callers each, call as often as they may. The API refuses each call that has 50 others in the second
before it, wherever that begins. Measures how much of its allowance is used, how many calls it refuses, how many round
trips a call costs at the limiter's server, how long a caller waits at worst for his next call, and how evenly the calls
are shared.

The API is a server of its own. Callers are threads; `ours, asyncio` are tasks on one event loop in each process.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from ..caches import configure_django
from ..crew import Crew
from ..crowd import (
    CALLERS,
    CONNECTED_AFTER,
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
from ..figures import Comparison, Result, rotated
from ..limiters import ALL, RATE, Ours, OursOnLoop, StrictApi, limiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..server import Stage

USED: Final = "allowance used"
IDEAL: Final = CALLERS / RATE
"""Seconds between two calls of a caller, if all come in turn."""


def run(stage: Stage) -> Result:
    """Run the scenario."""
    seconds = stage.pick(60.0, 8.0)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ALL}
    with server_for_api() as (url, control), Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(stage.pick(1, 1)):
            for name in rotated(list(ALL), number):
                stage.control.flushall()
                control.flushall()
                found = call_all(stage, crew, seconds, call_often, name, url)
                rounds[name].append({USED: found.accepted / (RATE * seconds), **found.seen(IDEAL)})
    return _result(rounds, seconds)


def call_often(name: str, url: str, api_url: str, start: float, end: float) -> Report:
    """In each process: its callers call."""
    contender = limiter(name, url)
    callers = [_Caller(StrictApi(api_url), start, end) for _ in range(EACH)]
    if isinstance(contender, OursOnLoop):
        contender.loop.run_until_complete(_tasks(contender, callers))
    else:
        in_threads(callers, contender)
    return report(callers)


async def _tasks(contender: OursOnLoop, callers: Sequence[_Caller]) -> None:
    await asyncio.gather(*(caller.arun(contender) for caller in callers))


class _Caller(Caller):
    def __init__(self, api: StrictApi, start: float, end: float) -> None:
        super().__init__(start, end)
        self._api = api

    def turn(self, contender: Any) -> None:
        contender.wait()
        self.called(self._api.call)

    async def arun(self, contender: OursOnLoop) -> None:
        """As a task."""
        await asyncio.sleep(max(0.0, self.start - time.monotonic()))
        while time.monotonic() < self.end:
            await contender.await_turn()
            self.called(self._api.call)


def _result(rounds: dict[str, list[dict[str, float]]], seconds: float) -> Result:
    result = Result(
        "rate_limit",
        f"{PROCESSES} processes, {CALLERS} callers, a strict API of {RATE} calls a second, for {seconds:.0f} s",
    )
    for what in (USED, REFUSED, TRIPS, WORST, FAIR):
        result.add(what, "", {name: [each[what] for each in found] for name, found in rounds.items()})
    for name in (Ours.name, OursOnLoop.name):
        found = rounds[name]
        result.comparisons += [
            Comparison(f"{name}, {USED}", [each[USED] for each in found], target=0.98, better=">="),
            Comparison(f"{name}, {REFUSED}", [each[REFUSED] for each in found], target=0.001),
            Comparison(f"{name}, {TRIPS}", [each[TRIPS] for each in found], target=1.1),
            Comparison(f"{name}, {WORST}", [each[WORST] for each in found], target=1.05),
            Comparison(f"{name}, {FAIR}", [each[FAIR] for each in found], target=0.95, better=">="),
        ]
    result.notes += [
        f"ideal: all callers in turn, so {IDEAL:g} s between two calls of one",
        f"round trips: reads of the limiter's server from {CONNECTED_AFTER:g} s on; what is sent in one go counts once",
        "Redisson's and Celery's way are written after their descriptions; the others are the libraries themselves",
    ]
    return result
