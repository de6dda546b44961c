"""A look at a thousand locks in a big keyspace.

A thousand of our locks are held among a million keys of others. Measures `locksmith.locks()`, and, in calls of their
own, the longest that one of its commands kept the server to itself (SLOWLOG of everything). A SCAN for our prefix shows
what a list costs without an index.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import ResponseError

from django_locksmith import locksmith

from ..crew import Crew
from ..figures import Comparison, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django_locksmith import Lease

    from ..server import Stage

KEY = "bench:listing"
LOCKS = 1000
FILLER = "bench:filler"
_BATCH = 5000
_leases: list[Lease] = []


def run(stage: Stage) -> Result:
    """Run the scenario."""
    rounds, others = stage.pick((21, 1_000_000), (5, 100_000))
    result = Result("listing", f"locks() with {LOCKS:,} locks held, among {others:,} other keys")
    with _filled(stage.control, others), Crew(1, stage.url) as crew:
        crew.run(take, timeout=60)
        try:
            crew.run(look, 3, timeout=60)
            ours = crew.run(look, rounds, timeout=120)
            scans = crew.run(scan, stage.url, stage.pick(5, 2), timeout=120)
            longest = [_longest_command(stage.control, crew) for _ in range(stage.pick(7, 3))]
        finally:
            crew.run(give_back, timeout=60)
    result.add("locks()", "ms", {"ours": ours, "SCAN for the prefix": scans})
    result.comparisons += [
        Comparison("ours, locks()", ours, target=40, unit="ms"),
        Comparison(
            "ours, longest command",
            [millis for millis, _ in longest],
            target=5,
            judged_by="worst",
            unit="ms",
        ),
    ]
    result.notes.append(f"the longest command was {max(longest)[1]}")
    return result


def take() -> None:
    """In the locks' process: take them."""
    for number in range(LOCKS):
        lease = locksmith(f"{KEY}:{number}").acquire(blocking=False)
        if lease is None:
            raise RuntimeError(f"{KEY}:{number} is held by somebody else")
        _leases.append(lease)


def give_back() -> None:
    """In the locks' process: release them."""
    while _leases:
        _leases.pop().release()


def look(rounds: int) -> list[float]:
    """In the locks' process: milliseconds of each look."""
    millis = []
    for _ in range(rounds):
        began = time.perf_counter()
        found = locksmith.locks(f"{KEY}:*")
        millis.append((time.perf_counter() - began) * 1000)
        if len(found) != LOCKS:
            raise RuntimeError(f"locks() found {len(found)} of {LOCKS} locks")
    return millis


def scan(url: str, rounds: int) -> list[float]:
    """In the locks' process: milliseconds to find the same keys by SCAN, and nothing but the keys."""
    millis = []
    with Redis.from_url(url) as client:
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in client.scan_iter(f"{locksmith.settings.prefix}{KEY}:*", count=1000):
                continue
            millis.append((time.perf_counter() - began) * 1000)
    return millis


def _longest_command(control: Redis, crew: Crew) -> tuple[float, str]:
    """Milliseconds and name of the longest command of one look."""
    wanted = {"slowlog-log-slower-than": "0", "slowlog-max-len": "100000"}
    before = {name: str(control.config_get(name)[name]) for name in wanted}
    try:
        for name, value in wanted.items():
            control.config_set(name, value)
        control.slowlog_reset()
        crew.run(look, 1, timeout=60)
        entries = control.slowlog_get(100_000)
    finally:
        for name, previous in before.items():
            control.config_set(name, previous)
    commands = [(entry["duration"] / 1000, entry["command"].split()[0].decode()) for entry in entries]
    return max(command for command in commands if command[1] not in ("CONFIG", "SLOWLOG"))


@contextmanager
def _filled(control: Redis, count: int) -> Iterator[None]:
    try:
        try:
            populate: Any = control.execute_command
            populate("DEBUG", "POPULATE", count, FILLER, 16)
        except ResponseError:
            _fill_slowly(control, count)
        yield
    finally:
        for start in range(0, count, _BATCH):
            control.unlink(*_filler_keys(start, count))


def _fill_slowly(control: Redis, count: int) -> None:
    """For servers that do not allow DEBUG."""
    for start in range(0, count, _BATCH):
        control.mset(dict.fromkeys(_filler_keys(start, count), "x" * 16))


def _filler_keys(start: int, count: int) -> list[str]:
    return [f"{FILLER}:{number}" for number in range(start, min(start + _BATCH, count))]
