"""A hundred callers and an empty key.

Four processes, 25 callers each, ask for the same key at once; to compute its value takes 200 ms. Measures how often
it was computed, how many commands Redis ran for it all (those that scripts call included, and those of the wait), and
how long until the last caller has the value: from the end of the first computation, and from the start.

Then the same with ten callers of a computation that fails after 300 ms: how often it was called, how many callers got
an error, and how long from the start until the last of them knows.

Computations are counted in the processes that do them. Callers are threads; those of cashews, which is made
for asyncio, are tasks; so ours is measured both ways.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ..caches import (
    ALL,
    AsyncCaching,
    Cacheops,
    Caching,
    Cashews,
    Ours,
    OursOnLoop,
    Populate,
    caching,
    configure_django,
)
from ..crew import Crew, sleep_until
from ..figures import Comparison, Result, ratios, rotated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..server import Stage

PROCESSES: Final = 4
CALLERS: Final = 100
CALLERS_OF_FAILURE: Final = 10
SECONDS: Final = 0.2
SECONDS_TO_FAILURE: Final = 0.3
HEAD_START: Final = 0.3
"""Seconds until all threads of all processes wait for the start."""
SETTLE: Final = 0.05
"""Seconds after the last answer until the commands are counted: a lock may still be cleaned up."""
PATIENCE: Final = 120.0

COMPUTATIONS: Final = "computations"
AFTER: Final = "last has it, after the computation"
SINCE_START: Final = "last has it, since the start"
COMMANDS: Final = "commands"
CALLS: Final = "failing: calls"
ERRORS: Final = "failing: errors"
KNOWN: Final = "failing: last knows, since the start"


class Report(NamedTuple):
    """What the callers of one process saw."""

    calls: int
    ended: list[float]
    values: int
    errors: list[str]
    last: float


class Rush(NamedTuple):
    """What became of one stampede."""

    calls: int
    errors: int
    after: float
    """Milliseconds from the end of the first computation until the last caller was answered."""
    since_start: float
    """Milliseconds from the start until then."""
    commands: int


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds = stage.pick(7, 2)
    stampede = _Stampede(stage)
    full: dict[str, list[Rush]] = {name: [] for name in ALL}
    failing: dict[str, list[Rush]] = {name: [] for name in ALL}
    with Crew(PROCESSES, stage.url, configure_django) as crew:
        for name in ALL:  # connect, and have the scripts loaded
            stampede.play(crew, name)
        for number in range(rounds):
            for name in rotated(list(ALL), number):
                full[name].append(stampede.play(crew, name))
                failing[name].append(stampede.fail(crew, name))
    return _result(full, failing)


class _Stampede:
    """Rushes on one server, each on a key of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._numbers = itertools.count()

    def play(self, crew: Crew, name: str) -> Rush:
        """Everybody wants a value that can be had."""
        rush, reports = self._rush(crew, name, CALLERS, SECONDS, fails=False)
        if sum(report.values for report in reports) < CALLERS:
            raise RuntimeError(f"{name}: not all {CALLERS} callers got the value; errors: {_errors(reports)}")
        return rush

    def fail(self, crew: Crew, name: str) -> Rush:
        """Everybody wants a value that cannot be had."""
        return self._rush(crew, name, CALLERS_OF_FAILURE, SECONDS_TO_FAILURE, fails=True)[0]

    def _rush(self, crew: Crew, name: str, callers: int, seconds: float, *, fails: bool) -> tuple[Rush, list[Report]]:
        key = f"bench:stampede:{next(self._numbers)}"
        before = self._stage.commands_run()
        start = time.monotonic() + HEAD_START
        for member, share in enumerate(_shares(callers)):
            crew.ask(member, rush, name, self._stage.url, key, share, seconds, fails, start)
        reports: list[Report] = [crew.answer(member, timeout=2 * PATIENCE) for member in range(PROCESSES)]
        time.sleep(SETTLE)
        commands = self._stage.commands_run() - before
        ended = _first_end(name, reports)
        last = max(report.last for report in reports)
        return Rush(
            calls=sum(report.calls for report in reports),
            errors=sum(len(report.errors) for report in reports),
            after=(last - ended) * 1000,
            since_start=(last - start) * 1000,
            commands=commands.total(),
        ), reports


def _first_end(name: str, reports: Sequence[Report]) -> float:
    """When the first computation ended: where there are more, they were not needed."""
    ends = [moment for report in reports for moment in report.ended]
    if not ends:
        raise RuntimeError(f"{name}: nothing was computed; errors: {_errors(reports)}")
    return min(ends)


def _errors(reports: Sequence[Report]) -> list[str]:
    return sorted({error for report in reports for error in report.errors})


def _shares(callers: int) -> list[int]:
    """How many of the callers each process has."""
    return [len(range(member, callers, PROCESSES)) for member in range(PROCESSES)]


def rush(name: str, url: str, key: str, callers: int, seconds: float, fails: bool, start: float) -> Report:
    """In each process: its callers ask for the key at `start` (monotonic seconds)."""
    contender = caching(name, url)
    populate = Populate(seconds, fails=fails)
    if isinstance(contender, AsyncCaching):
        answers = contender.loop.run_until_complete(_tasks(contender, populate, key, callers, start))
    else:
        answers = _threads(contender, populate, key, callers, start)
    return Report(
        calls=len(populate.calls),
        ended=populate.ended,
        values=sum(answer == Populate.VALUE for _, answer in answers),
        errors=[repr(answer) for _, answer in answers if isinstance(answer, Exception)],
        last=max(moment for moment, _ in answers),
    )


_Answers = list[tuple[float, object]]
"""For each caller, when it was answered and what: the value or an exception."""


def _threads(contender: Caching, populate: Populate, key: str, callers: int, start: float) -> _Answers:
    get = contender.wrapped(populate)
    answers: _Answers = []

    def call() -> None:
        answer: object
        sleep_until(start)
        try:
            answer = get(key)
        except Exception as error:
            answer = error
        answers.append((time.monotonic(), answer))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, start + PATIENCE - time.monotonic()))
    if len(answers) < callers:
        raise RuntimeError(f"only {len(answers)} of {callers} callers were answered")
    return answers


async def _tasks(contender: AsyncCaching, populate: Populate, key: str, callers: int, start: float) -> _Answers:
    get = contender.wrapped(populate)

    async def call() -> tuple[float, object]:
        answer: object
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        try:
            answer = await get(key)
        except Exception as error:
            answer = error
        return time.monotonic(), answer

    return await asyncio.wait_for(asyncio.gather(*(call() for _ in range(callers))), PATIENCE)


def _result(full: dict[str, list[Rush]], failing: dict[str, list[Rush]]) -> Result:
    result = Result(
        "stampede",
        f"{PROCESSES} processes, {CALLERS} callers, an empty key, {SECONDS * 1000:.0f} ms to compute its value; "
        f"then {CALLERS_OF_FAILURE} callers, and it fails after {SECONDS_TO_FAILURE * 1000:.0f} ms",
    )
    for rushes, field, what, unit in (
        (full, "calls", COMPUTATIONS, ""),
        (full, "after", AFTER, "ms"),
        (full, "since_start", SINCE_START, "ms"),
        (full, "commands", COMMANDS, ""),
        (failing, "calls", CALLS, ""),
        (failing, "errors", ERRORS, ""),
        (failing, "since_start", KNOWN, "ms"),
    ):
        result.add(what, unit, {name: _column(rounds, field) for name, rounds in rushes.items()})
    result.comparisons += _comparisons(full)
    for name in (Ours.name, OursOnLoop.name):
        result.comparisons += _promises(name, full[name], failing[name])
    result.notes += [
        "commands: all that the server ran, those that scripts call included",
        "callers are threads; those of cashews and of `ours, asyncio` are tasks, on one event loop in each process",
        "failing: where one caller after the other repeats the call, each adds its duration; hence only ten of them",
    ]
    return result


def _comparisons(full: dict[str, list[Rush]]) -> list[Comparison]:
    threads, tasks, cacheops, cashews = (
        _column(full[name], "after") for name in (Ours.name, OursOnLoop.name, Cacheops.name, Cashews.name)
    )
    return [
        Comparison(f"ours / cacheops, {AFTER}", ratios(threads, cacheops), target=1),
        Comparison(f"ours / cashews, {AFTER}", ratios(threads, cashews), target=1),
        Comparison(f"ours, asyncio / cashews, {AFTER}", ratios(tasks, cashews), target=1),
    ]


def _promises(name: str, full: list[Rush], failing: list[Rush]) -> list[Comparison]:
    known = SECONDS_TO_FAILURE * 1000 + 50
    errors = _column(failing, "errors")
    return [
        Comparison(f"{name}, {COMPUTATIONS}", _column(full, "calls"), target=1, judged_by="worst"),
        Comparison(f"{name}, {AFTER}", _column(full, "after"), target=15, unit="ms"),
        Comparison(f"{name}, {COMMANDS}", _column(full, "commands"), target=150, judged_by="worst"),
        Comparison(f"{name}, {CALLS}", _column(failing, "calls"), target=1, judged_by="worst"),
        Comparison(f"{name}, {ERRORS}", errors, target=CALLERS_OF_FAILURE, better=">=", judged_by="worst"),
        Comparison(f"{name}, {KNOWN}", _column(failing, "since_start"), target=known, unit="ms"),
    ]


def _column(rushes: Sequence[Rush], field: str) -> list[float]:
    return [getattr(rush, field) for rush in rushes]
