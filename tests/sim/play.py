"""One play, from its first call to the last key in Redis."""

from __future__ import annotations

import random
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from .callers import Task, Thread
from .judge import GIVEN_BACK_WITHIN, Judge
from .threads import SimThread
from .troubles import Troubles
from .world import quiet, simulated

if TYPE_CHECKING:
    import asyncio

    from .machine import Machine
    from .terms import Terms
    from .world import World

LONGEST_END = 600
"""Seconds after the trouble, in which all that was begun has come to its end."""
AFTERWARDS = 200.0
"""Seconds, after which all that somebody left behind has run out."""


class Outcome(NamedTuple):
    """How it went. `trace`: what happened, if that was wanted. `failed_with`: a traceback."""

    grants: int
    steps: int
    seconds: float
    trace: list[str]
    failed_with: str = ""

    @property
    def facts(self) -> tuple[int, int, float]:
        """By which two plays are told apart."""
        return self.grants, self.steps, self.seconds


class Failed(AssertionError):
    """What went wrong, with its seed and its traceback; `trace`: what had happened until then, if it was wanted."""

    def __init__(self, terms: Terms, said: str, trace: list[str]) -> None:
        super().__init__(f"{said}\n{terms}\nplay it again: python -m tests.sim --seed {terms.seed}")
        self.seed = terms.seed
        self.trace = trace


def play(terms: Terms, *, traced: bool = False) -> Outcome:
    """Raises `Failed` where a promise is broken, or anything else happens that nobody expects."""
    with quiet():
        outcome = _play(terms, traced)
    if outcome.failed_with:
        raise Failed(terms, outcome.failed_with, outcome.trace)
    return outcome


def _play(terms: Terms, traced: bool) -> Outcome:
    failed_with = ""
    with simulated(terms.seed, terms.badness) as world:
        world.is_traced = traced
        judge = Judge(world, terms.is_quiet, terms.is_well)
        world.observe = judge.observe
        world.loop.after_step = judge.look
        try:
            world.loop.run_until_complete(_Play(world, judge, terms).main())
        except Exception:
            failed_with = traceback.format_exc()  # the error itself would keep the whole world alive
        return Outcome(judge.grants, world.loop.steps, world.loop.time(), world.trace, failed_with)


class _Play:
    def __init__(self, world: World, judge: Judge, terms: Terms) -> None:
        self._world = world
        self._judge = judge
        self._terms = terms
        self._ends_at = world.loop.time() + terms.lasts
        self._callers: list[tuple[Machine, asyncio.Task[Any] | SimThread]] = []
        self._troubles = Troubles(world, judge, self._callers, self._start_callers)

    async def main(self) -> None:
        world, rng = self._world, self._world.rng
        for number in range(self._terms.machines):
            self._start_callers(world.machine(f"p{number}"))
        while self._is_on():
            await self._let_pass(rng.expovariate(1 / self._terms.between_troubles))
            if self._terms.faults and self._is_on():
                await self._troubles.begin(rng.choice(self._terms.faults))
        world.weather.is_calm = True
        for _ in range(LONGEST_END):
            if all(_is_over(*each) for each in self._callers):
                break
            await self._let_pass(1.0)
        await self._let_pass(GIVEN_BACK_WITHIN)
        self._judge.look_when_all_have_ended()
        await self._let_pass(AFTERWARDS)
        self._judge.look_in_the_end()

    def _is_on(self) -> bool:
        return self._world.loop.time() < self._ends_at

    def _start_callers(self, machine: Machine) -> None:
        for _ in range(self._terms.callers):
            rng = random.Random(self._world.rng.random())
            how = machine, self._judge, self._terms, rng, self._is_on
            is_thread = rng.random() < self._terms.threads
            started: asyncio.Task[Any] | SimThread
            started = machine.start_thread(Thread(*how).run) if is_thread else machine.start_task(Task(*how).run())
            self._callers.append((machine, started))

    async def _let_pass(self, seconds: float) -> None:
        await self._world.sleep(seconds)
        for _, caller in self._callers:
            error = caller.error if isinstance(caller, SimThread) else _error_of(caller)
            if error is not None:
                raise error


def _is_over(machine: Machine, caller: asyncio.Task[Any] | SimThread) -> bool:
    return machine.is_dead or (caller.is_over if isinstance(caller, SimThread) else caller.done())


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
