"""Three hundred keys behind one API, and a hundred callers who want them all.

Four processes, 25 callers each, go through 300 keys, each in an order of its own. A strict API of 20 calls a second has
the values; what it refuses, it refuses for one second. Measures how many calls it refuses, how many `RetryLater` reach
the callers, how many commands are sent to Redis (and how many it runs, those that scripts call included), how long
until everything is computed, and until all have it: with `get_or_set` alone, and with a rate limit. Then once more, and
in the middle the API wants no call for three seconds: which come nevertheless, while that is told, and which after it?

A caller who gets `RetryLater` sleeps for as long as it says, and asks again.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import redis
from django.core.cache import cache

from django_locksmith import RetryLater, locksmith

from ..caches import configure_django
from ..crew import Crew, sleep_until
from ..crowd import PROCESSES, round_trips, server_for_api
from ..figures import Comparison, Result
from ..limiters import StrictApi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..server import Stage

RATE: Final = 20
KEYS: Final = 300
EACH: Final = 25
"""Callers of each process."""
IDEAL: Final = KEYS / RATE - 1
"""Seconds: the calls of the first second come at once."""
PAUSE: Final = 3.0
HEARD_WITHIN: Final = 0.05
"""Seconds from the API's word until everybody should know."""
PAUSE_AFTER: Final = 100
"""Calls that the API has accepted, when it wants to be left alone."""
HEAD_START: Final = 1.0
PATIENCE: Final = 300.0

ALONE: Final = "get_or_set"
LIMITED: Final = "get_or_set, rate_limit"
PAUSED: Final = "the same, and a pause"


class Report(NamedTuple):
    """What the callers of one process saw."""

    refused: int
    deaf: int
    postponed: int
    computed: float
    last: float


class Round(NamedTuple):
    """One run."""

    refused: int
    deaf: int
    """Of these, so long after the pause that everybody should have heard of it."""
    postponed: int
    sent: int
    commands: int
    computed: float
    seconds: float
    calls: int


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds: dict[str, list[Round]] = {name: [] for name in (ALONE, LIMITED, PAUSED)}
    with server_for_api() as (url, control), Crew(PROCESSES, stage.url, configure_django) as crew:
        for number in range(stage.pick(2, 1)):
            for name in rounds:
                stage.control.flushall()
                control.flushall()
                rounds[name].append(_round(stage, crew, control, name, url, number))
    return _result(rounds)


def _round(stage: Stage, crew: Crew, control: redis.Redis, name: str, url: str, number: int) -> Round:
    start = time.monotonic() + HEAD_START
    before, sent = stage.commands_run(), round_trips(stage)
    for member in range(PROCESSES):
        crew.ask(member, want_everything, name, url, f"{name}:{number}", start, member * EACH)
    reports: list[Report] = [crew.answer(member, timeout=2 * PATIENCE) for member in range(PROCESSES)]
    commands, sent = stage.commands_run() - before, round_trips(stage) - sent
    return Round(
        refused=sum(report.refused for report in reports),
        deaf=sum(report.deaf for report in reports),
        postponed=sum(report.postponed for report in reports),
        sent=sent,
        commands=commands.total(),
        computed=max(report.computed for report in reports) - start,
        seconds=max(report.last for report in reports) - start,
        calls=int(control.get("accepted") or 0),
    )


class _Api:
    """The strict API, which in one case wants to be left alone for a while."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._mine = threading.local()
        self._pauses = name == PAUSED
        self.refused = itertools.count()
        self.deaf = itertools.count()
        self.last = 0.0

    def connect(self) -> None:
        """Each thread has connections of its own, before it begins."""
        self._mine.api = StrictApi(self._url, RATE)
        self._mine.client = redis.Redis.from_url(self._url)
        self._mine.client.ping()

    def call(self) -> str:
        """A value. Raises `RetryLater`."""
        client = self._mine.client
        if self._pauses and (left := client.pttl("paused")) > 0:
            next(self.refused)
            if left / 1000 < PAUSE - HEARD_WITHIN:
                next(self.deaf)
            raise RetryLater(left / 1000)
        if not self._mine.api.call():
            next(self.refused)
            raise RetryLater(1)
        if client.incr("accepted") == PAUSE_AFTER and self._pauses:
            client.set("paused", 1, px=int(PAUSE * 1000))
            raise RetryLater(PAUSE)
        self.last = time.monotonic()
        return "value"


def want_everything(name: str, url: str, prefix: str, start: float, first: int) -> Report:
    """In each process: its callers go through all keys."""
    api = _Api(url, name)
    limit = None if name == ALONE else locksmith.rate_limit(prefix, f"{RATE}/s")
    postponed = itertools.count()
    ended: list[float] = []

    def want_all(seed: int) -> None:
        keys = list(range(KEYS))
        random.Random(seed).shuffle(keys)
        api.connect()
        cache.get("connected")
        sleep_until(start)
        for key in keys:
            while True:
                try:
                    locksmith.get_or_set(f"{prefix}:{key}", api.call, 600, rate_limit=limit)
                    break
                except RetryLater as later:
                    next(postponed)
                    time.sleep(later.seconds)
        ended.append(time.monotonic())

    threads = [threading.Thread(target=want_all, args=(first + number,), daemon=True) for number in range(EACH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, start + PATIENCE - time.monotonic()))
    if len(ended) < EACH:
        raise RuntimeError(f"only {len(ended)} of {EACH} callers had everything after {PATIENCE:g} s")
    return Report(next(api.refused), next(api.deaf), next(postponed), api.last, max(ended))


def _result(rounds: dict[str, list[Round]]) -> Result:
    result = Result(
        "many_keys",
        f"{PROCESSES} processes, {PROCESSES * EACH} callers, {KEYS} keys each, a strict API of {RATE} calls a second",
    )
    for field, what, unit in (
        ("calls", "calls accepted", ""),
        ("refused", "calls refused", ""),
        ("deaf", "calls refused, later than 50 ms after the pause began", ""),
        ("postponed", "RetryLater at callers", ""),
        ("sent", "round trips to Redis", ""),
        ("commands", "commands run", ""),
        ("computed", "until everything is computed", "s"),
        ("seconds", "until all have everything", "s"),
    ):
        result.add(what, unit, {name: _column(found, field) for name, found in rounds.items()})
    computed = [each / IDEAL for each in _column(rounds[LIMITED], "computed")]
    result.comparisons += [
        Comparison(f"{LIMITED}, calls refused", _column(rounds[LIMITED], "refused"), target=0, judged_by="worst"),
        Comparison(f"{LIMITED}, computed after / ideal", computed, target=1.1),
        Comparison(f"{LIMITED}, round trips", _column(rounds[LIMITED], "sent"), target=40_000),
        Comparison(
            f"{PAUSED}, calls refused after 50 ms", _column(rounds[PAUSED], "deaf"), target=0, judged_by="worst"
        ),
    ]
    result.notes += [
        f"ideal: {RATE} calls at once, and then {RATE} each second, so {IDEAL:g} s",
        "30,000 reads of the cache take their time, too: that is what is left until all have everything",
        f"pause: after {PAUSE_AFTER} calls the API wants none for {PAUSE:g} s; each that comes is counted as refused",
    ]
    return result


def _column(rounds: Sequence[Round], field: str) -> list[float]:
    return [getattr(each, field) for each in rounds]
