"""The same on asyncio.

First uncontended acquire + release in one task, client and server on one CPU, as in `pair`. Then 500 tasks of one event
loop wait for a key that is held: from just before its release until the last has had the lock, how many were served
before one that came earlier, and how many connections all this took (those in CLIENT LIST that were not there before,
the holder's included).
"""

from __future__ import annotations

import asyncio
import gc
import time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from redis import Redis

from ..async_contenders import ALL, WAITING, AsyncContender, BareStream, Ours, RedisAsyncio
from ..crew import Crew
from ..figures import Comparison, Result, ratios, rotated
from ..pinning import on_one_cpu

if TYPE_CHECKING:
    from ..server import Stage

KEY = "bench:asyncio"
SETTLE = 1.5
"""Seconds from the start of the tasks until the release: all of them wait by then."""
PATIENCE = 60.0


class Drained(NamedTuple):
    """What became of one queue of tasks."""

    seconds: float
    connections: int
    overtaken: int


def run(stage: Stage) -> Result:
    """Run the scenario."""
    result = Result("asyncio", "uncontended acquire + release; then 500 tasks of one event loop wait for one key")
    with Crew(1, stage.url) as crew:
        _pairs(stage, crew, result)
        _queues(stage, crew, result)
    return result


def _pairs(stage: Stage, crew: Crew, result: Result) -> None:
    rounds, pairs = stage.pick((31, 300), (5, 150))
    with on_one_cpu(stage.server_pid(), *crew.pids) as notes:
        result.notes += [f"pair: {note}" for note in notes]
        micros = crew.run(measure_pairs, stage.url, rounds, pairs, timeout=300)
    result.add("pair", "µs", micros)
    ours = micros[Ours.name]
    result.comparisons += [
        Comparison("ours / redis.asyncio, pair", ratios(ours, micros[RedisAsyncio.name]), target=0.60),
        Comparison("ours / bare stream, pair", ratios(ours, micros[BareStream.name])),
    ]


def _queues(stage: Stage, crew: Crew, result: Result) -> None:
    rounds = stage.pick(7, 2)
    drained: dict[str, list[Drained]] = {name: [] for name in WAITING}
    for name in WAITING:
        crew.run(measure_queue, stage.url, name, 500, timeout=2 * PATIENCE)
    for number in range(rounds):
        for name in rotated(WAITING, number):
            drained[name].append(crew.run(measure_queue, stage.url, name, 500, timeout=2 * PATIENCE))
    millis = {name: [one.seconds * 1000 for one in rounds] for name, rounds in drained.items()}
    result.add("500 tasks drained", "ms", millis)
    result.add("connections", "", {name: [one.connections for one in rounds] for name, rounds in drained.items()})
    result.add(
        "served out of order", "tasks", {name: [one.overtaken for one in rounds] for name, rounds in drained.items()}
    )
    ours = drained[Ours.name]
    result.comparisons += [
        Comparison("ours / redis.asyncio, drained", ratios(*(millis[name] for name in WAITING)), target=0.15),
        Comparison("ours, connections", [one.connections for one in ours], target=3, judged_by="worst"),
        Comparison("ours, served out of order", [one.overtaken for one in ours], target=0, judged_by="worst"),
    ]
    result.notes.append("redis.asyncio may open 1000 connections here; with its default of 100 the tasks would fail")


def measure_pairs(url: str, rounds: int, pairs: int) -> dict[str, list[float]]:
    """In the client's process: µs per pair, by contender and round, all in one event loop."""
    return asyncio.run(_measure_pairs(url, rounds, pairs))


async def _measure_pairs(url: str, rounds: int, pairs: int) -> dict[str, list[float]]:
    contenders = {name: kind(url) for name, kind in ALL.items()}
    micros: dict[str, list[float]] = {name: [] for name in ALL}
    try:
        for contender in contenders.values():
            await _block(contender, pairs)
        for number in range(rounds):
            for name in rotated(list(ALL), number):
                micros[name].append(await _block(contenders[name], pairs))
    finally:
        for contender in contenders.values():
            await contender.close()
    return micros


async def _block(contender: AsyncContender, pairs: int) -> float:
    lock = contender.lock
    gc.collect()
    began = time.perf_counter()
    for _ in range(pairs):
        async with lock(KEY):
            pass
    return (time.perf_counter() - began) / pairs * 1e6


def measure_queue(url: str, name: str, waiters: int) -> Drained:
    """In the waiters' process: one queue of tasks, in an event loop of its own."""
    with Redis.from_url(url) as control:
        return asyncio.run(asyncio.wait_for(_measure_queue(ALL[name](url), control, waiters), PATIENCE))


async def _measure_queue(contender: AsyncContender, control: Redis, waiters: int) -> Drained:
    newest = max(_clients(control))
    served: list[int] = []
    last_had_it = 0.0
    held = asyncio.Event()

    async def wait(number: int) -> None:
        nonlocal last_had_it
        await held.wait()
        async with contender.lock(KEY):
            last_had_it = time.monotonic()
            served.append(number)

    try:
        # Not made within the block: they would wait for its end in its own context, and be refused.
        tasks = [asyncio.create_task(wait(number)) for number in range(waiters)]
        async with contender.lock(KEY):
            held.set()
            await asyncio.sleep(SETTLE)
            while_waiting = _clients(control)
            released = time.monotonic()
        await asyncio.gather(*tasks)
        used = {client for client in while_waiting | _clients(control) if client > newest}
    finally:
        await contender.close()
    overtaken = sum(later < earlier for earlier, later in pairwise(served))
    return Drained(last_had_it - released, len(used), overtaken)


def _clients(control: Redis) -> set[int]:
    return {int(client["id"]) for client in control.client_list()}
