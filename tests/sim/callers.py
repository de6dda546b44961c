"""What callers do: they want locks, hold them, and give them back; or they wait for a place in a rate limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from django_locksmith import LocksmithError

from .machine import Interrupted
from .terms import CAUTION, LEASE, RATE_CALLS, RATE_SECONDS
from .threads import current

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from django_locksmith import Lock, RateLimit

    from .judge import Call, Judge
    from .machine import Machine
    from .terms import Terms


class Caller:
    """One of a process. `is_on`: does the trouble go on? Then so does he."""

    def __init__(
        self, machine: Machine, judge: Judge, terms: Terms, rng: random.Random, is_on: Callable[[], bool]
    ) -> None:
        self.machine = machine
        self._judge = judge
        self._terms = terms
        self._rng = rng
        self._is_on = is_on

    def _wants_a_place(self) -> bool:
        return self._rng.random() < self._terms.rate

    def _call(self) -> tuple[Lock, Call, float]:
        """For a lock; and for how long he will hold it."""
        rng = self._rng
        key, slots = rng.choice(self._terms.keys)
        wait = rng.choice((0.0, 0.5, 3.0, 8.0, 20.0))
        lock = self.machine.service(key, slots=slots, timeout=LEASE, renew=rng.random() < 0.5, blocking_timeout=wait)
        most = slots if isinstance(slots, int) else len(slots)
        return lock, self._judge.begins(self.machine, key, most, wait), rng.choice(self._terms.holds)

    def _limit(self) -> tuple[RateLimit, float]:
        """A rate limit, and for how long he waits at most."""
        limit = self.machine.service.rate_limit("api", f"{RATE_CALLS}/{RATE_SECONDS}s", caution=CAUTION)
        return limit, self._rng.choice((0.0, 5.0))

    def _extends(self) -> bool:
        return self._rng.random() < 0.2

    def _pauses(self) -> float:
        """What an API says now and then: leave me alone for so many seconds."""
        return self._rng.choice((0.1, 1.0)) if self._rng.random() < 0.1 else 0.0

    def _tell(self, error: BaseException) -> None:
        self.machine.world.tell(f"{self.machine}: {type(error).__name__}: {error}")


class Thread(Caller):
    """A caller in a thread of his own."""

    def run(self) -> None:
        """Until the trouble is over."""
        while self._is_on():
            self._once()

    def _once(self) -> None:
        try:
            current().block(self._rng.choice(self._terms.rests))
            if self._wants_a_place():
                self._book()
            else:
                self._hold()
        except (LocksmithError, Interrupted) as error:
            self._tell(error)

    def _hold(self) -> None:
        lock, call, seconds = self._call()
        lease = None
        try:
            try:
                lease = lock.acquire()
            finally:
                self._judge.ended(call)
            if lease is None:
                return
            self._judge.granted(call, lease)
            current().block(seconds)
            if self._extends():
                lease.extend(LEASE, replace_ttl=True)
            lease.release()
        except (LocksmithError, Interrupted) as error:
            self._tell(error)
            if lease is not None:  # as the end of a block does, whatever has happened in it
                lease.release()

    def _book(self) -> None:
        limit, wait = self._limit()
        if pause := self._pauses():
            limit.pause(pause)
        limit.take(blocking_timeout=wait)


class Task(Caller):
    """A caller in a task."""

    async def run(self) -> None:
        """Until the trouble is over."""
        while self._is_on():
            await self._once()

    async def _once(self) -> None:
        try:
            await asyncio.sleep(self._rng.choice(self._terms.rests))
            await (self._book() if self._wants_a_place() else self._hold())
        except (LocksmithError, asyncio.CancelledError) as error:
            self._tell(error)

    async def _hold(self) -> None:
        lock, call, seconds = self._call()
        lease: Any = None
        try:
            try:
                lease = await lock.aacquire()
            finally:
                self._judge.ended(call)
            if lease is None:
                return
            self._judge.granted(call, lease)
            await asyncio.sleep(seconds)
            if self._extends():
                await lease.aextend(LEASE, replace_ttl=True)
            await lease.arelease()
        except (LocksmithError, asyncio.CancelledError) as error:
            self._tell(error)
            if lease is not None:
                await lease.arelease()

    async def _book(self) -> None:
        limit, wait = self._limit()
        if pause := self._pauses():
            await limit.apause(pause)
        await limit.atake(blocking_timeout=wait)
