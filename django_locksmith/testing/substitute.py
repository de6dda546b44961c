"""What stands in for Redis in a test: locks in memory, those that somebody else holds, schedules that can be moved."""

from __future__ import annotations

import threading
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..redis.connections import Memory
from ..redis.key_names import decode, encode
from ..redis.messages import Attempt
from ..redis.rate_store import RateStore
from ..runtime.runtime import process
from ..tokens import new_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..rates import Rate
    from ..records import LockInfo
    from ..redis.connections import Deployment
    from ..redis.key_names import Names, RateNames, Slots
    from ..redis.lock_store import LockStore
    from ..redis.rate_store import Place
    from ..runtime.contexts import Context
    from ..runtime.runtime import Runtime

_BUSY_FOR = 120.0
"""Seconds of a stand-in's lease, begun again in time. Not a year: code under test may obey `LockBusy.retry_after`."""


def substitute_in_force() -> LocksOfOneTest | None:
    """The innermost one."""
    substitute = process.substitutes[-1] if process.substitutes else None
    return substitute if isinstance(substitute, LocksOfOneTest) else None


def said_of(info: LockInfo) -> str:
    """By whom it is held."""
    return f"{info.key!r} is held by {info.holder or 'nobody yet: it is being handed over'}"


class LocksOfOneTest:
    """What `override_locks` puts in the place of Redis: a server for each name that a service has for one.

    A lock that a test says is busy is really held there, so that a look at the locks shows it.
    """

    def __init__(self, busy: list[str], *, autojump: bool = False) -> None:
        self.autojump = autojump
        self.time_passed = 0.0
        self._time = threading.RLock()
        self._busy = list(busy)
        self._servers: dict[str, Memory] = {}
        self._runtimes: list[Runtime] = []
        self._tokens: dict[str, list[bytes]] = {}
        self._until: dict[tuple[Deployment, bytes, Slots | None], float] = {}

    def deployment(self, where: str) -> Deployment:
        return self._servers.get(where) or self._servers.setdefault(where, Memory())

    def enter(self, runtime: Runtime) -> None:
        self._runtimes.append(runtime)
        self._occupy_all(runtime, self._busy)

    def furnish(self, runtime: Runtime, context: Context) -> None:
        context.rates = _JumpingRates(context.store, self, runtime)

    async def prepare(self, context: Context, attempt: Attempt) -> None:
        if self._is_busy(attempt.names.key):
            attempt.wait = 0.0
            await self._occupy_one(context, attempt.names)

    def start_again(self) -> None:
        self._servers.clear()
        self._until.clear()

    def end(self) -> None:
        """Nobody takes locks here any more."""
        for runtime in self._runtimes:
            runtime.close()

    # ---- stand-ins: who hold the locks that are busy

    def occupy(self, keys: list[str]) -> None:
        for key in keys:
            for info in self.held():
                if _matches(info.key, key) and not self.is_stand_in(info):
                    raise ValueError(f"{key!r} cannot be busy: {said_of(info)}")
        self._busy += keys
        for runtime in self._namespaces():
            self._occupy_all(runtime, keys)

    def vacate(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._busy:
                raise ValueError(f"{key!r} is not busy; busy are: {', '.join(map(repr, self._busy)) or 'none'}")
            self._busy.remove(key)
        for runtime in self._namespaces():
            store = runtime.threads().store
            for info in run_sync(lock_policy.list_locks(store, lambda key: not self._is_busy(key))):
                if info.holder is not None and self.is_stand_in(info):
                    slot = info.slots is not None
                    run_sync(lock_policy.clear(store, info.key, info.holder.token, slot=slot))
        self._until.clear()

    def is_stand_in(self, info: LockInfo) -> bool:
        return info.holder is not None and encode(info.holder.token) in self._tokens.get(info.key, ())

    def _is_busy(self, key: str) -> bool:
        return any(_matches(key, each) for each in self._busy)

    def _occupy_all(self, runtime: Runtime, keys: list[str]) -> None:
        context = runtime.threads()
        for key in keys:
            if not any(sign in key for sign in "*?["):
                run_sync(self._occupy_one(context, context.store.names(key)))

    async def _occupy_one(self, context: Context, names: Names) -> None:
        store, slots = context.store, names.slots
        where = (store.transport.deployment, names.lock, slots)
        now = store.now()
        if now < self._until.get(where, 0.0):
            return  # it is there, unless the code under test has cleared it
        tokens = self._tokens.setdefault(names.key, [encode(new_token("override_locks"))])
        if slots is not None:  # before its code said that it has slots, it was taken for a lock
            await lock_policy.clear(store, names.key, decode(tokens[0]), slot=False)
            tokens += [encode(new_token("override_locks")) for _ in range(slots.most - len(tokens))]
        for token in tokens[: slots.most if slots else 1]:
            # An attempt with the token that holds the lock starts its lease again.
            attempt = Attempt(names, token, _BUSY_FOR, 0.0)
            await lock_policy.acquire(store, context.queues, attempt, lambda *granted: None)
        self._until[where] = now + _BUSY_FOR / 2

    # ---- time, as rate limits count it

    def pass_time(self, seconds: float) -> None:
        """All schedules are so many seconds further on; and who sleeps for a place looks where his is now."""
        with self._time:
            self.time_passed += seconds
            for runtime in self._namespaces():
                rates = runtime.threads().rates
                for name in run_sync(rates.all_names()):
                    names = rates.names(name)
                    news = run_sync(rates.pass_time(names, seconds))
                    for each in self._runtimes:
                        each.places_moved(names, news)

    def jump_to(self, runtime: Runtime, names: RateNames, number: int) -> None:
        """Until the place of this number has come."""
        with self._time:
            left, _ = run_sync(runtime.threads().rates.place(names, number))
            if left > 0:
                self.pass_time(left)

    # ---- looking in

    def held(self) -> list[LockInfo]:
        """The locks of all services, stand-ins' too."""
        return [
            info
            for runtime in self._namespaces()
            for info in run_sync(lock_policy.list_locks(runtime.threads().store, lambda key: True))
        ]

    def _namespaces(self) -> list[Runtime]:
        """One runtime for each set of keys: two services may share one."""
        return list({(each.settings.redis, each.settings.prefix): each for each in self._runtimes}.values())


class _JumpingRates(RateStore):
    """Rate limits whose places have come as soon as they are booked, if the test wants it so."""

    def __init__(self, store: LockStore, substitute: LocksOfOneTest, runtime: Runtime) -> None:
        super().__init__(store)
        self._substitute = substitute
        self._runtime = runtime

    async def book(self, names: RateNames, rate: Rate, cost: int, wait: float | None, by: bytes) -> Place:
        place = await super().book(names, rate, cost, wait, by)
        if place.number and place.left > 0 and self._substitute.autojump:
            self._substitute.jump_to(self._runtime, names, place.number)
            return place._replace(left=0.0, at=place.at - place.left)
        return place


def _matches(key: str, pattern: str) -> bool:
    return key == pattern or fnmatchcase(key, pattern)
