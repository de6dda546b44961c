"""For the tests of projects that take locks: locks in memory, locks that are busy, leases that are lost.

    from django_locksmith.testing import assert_not_locked, lose_now, override_locks

    @override_locks(busy=["report:42"])
    def test_a_report_that_somebody_else_writes(self): ...

The locks are not imitated: fakeredis runs the same scripts (`pip install 'django-redis-locksmith[testing]'`). It keeps
no order among those who wait; where a test is about that, let it run a real server. docs/testing.md has more.

`lose_now` and the asserts work with any Redis. They are for threads and tasks alike: where the locks are in memory
there is nothing to await, and a real Redis blocks the event loop of a test for one request.
"""

from __future__ import annotations

import asyncio
import threading
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.test.utils import TestContextDecorator, override_settings

from . import conf
from .api.lease import Lease
from .api.service import locksmith
from .policy import locks as lock_policy
from .policy.sync_bridge import run_sync
from .redis.connections import Memory, check_deployment
from .redis.key_names import check_key, decode, encode
from .redis.messages import Attempt
from .runtime.runtime import process
from .tokens import new_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .api.service import Locksmith
    from .records import LockInfo
    from .redis.connections import Deployment
    from .redis.key_names import Names, Slots
    from .runtime.contexts import Context
    from .runtime.runtime import Runtime

__all__ = [
    "LocksInMemory",
    "assert_locked",
    "assert_no_locks_left",
    "assert_not_locked",
    "lose_now",
    "override_locks",
]

_BUSY_FOR = 120.0
"""Seconds of a stand-in's lease, begun again in time. Not a year: code under test may obey `LockBusy.retry_after`."""
_TOLD_WITHIN = 10.0
"""Seconds for which `lose_now` waits for the functions that it calls: one of them may wait for its caller."""


# ---- what is held


def assert_locked(key: str = "", *, by: Lease | None = None, service: Locksmith = locksmith) -> None:
    """Fail unless somebody holds this lock of the service.

    Args:
        key: the lock's key.
        by: the lease that it is to be held with.
        service: whose lock it is.
    """
    info = service.info(key)
    if info is None:
        raise AssertionError(f"the lock {key!r} is not held; {_told(service.locks())}")
    if by is not None and (info.holder is None or info.holder.token != by.token):
        raise AssertionError(f"the lock {_said_of(info)}, not by {by!r}")


def assert_not_locked(key: str = "", *, service: Locksmith = locksmith) -> None:
    """Fail if somebody holds this lock of the service."""
    info = service.info(key)
    if info is not None:
        raise AssertionError(f"the lock {_said_of(info)}")


def assert_no_locks_left(service: Locksmith | None = None) -> None:
    """Fail if any lock of the service is held; within `override_locks`, and without `service`: of any service.

    Those that are only `busy` do not count.
    """
    substitute = _substitute()
    left = substitute.held() if substitute and service is None else (service or locksmith).locks()
    if substitute:
        left = [info for info in left if not substitute.is_stand_in(info)]
    if left:
        raise AssertionError(f"locks were not given back; {_told(left)}")


def _told(held: list[LockInfo]) -> str:
    return "held are: " + "; ".join(map(_said_of, held)) if held else "no lock is held"


def _said_of(info: LockInfo) -> str:
    return f"{info.key!r} is held by {info.holder or 'nobody yet: it is being handed over'}"


# ---- losing it


def lose_now(lease: Lease | str) -> None:
    """Let a lease be lost now, as if it had run out: in Redis, and for its holder, who is told.

    From here on `lease.held` is false, and `LockLost` is raised at the end of its block. `on_lost` and the signal
    `lost` have been called when this returns; but `on_lost` of a task that belongs to the running event loop is called
    there, with the next await.

    Args:
        lease: the lease, or the key of a lock that is held by this process.

    Raises:
        AssertionError: it is not held here.
        ValueError: a key names locks of several services.
        LockUnavailable: Redis gave no usable answer; the holder has been told all the same.
    """
    if isinstance(lease, str):
        lease = _lease_of(lease)
    elif not isinstance(lease, Lease):
        raise TypeError(f"lose_now takes a Lease or a key, not {lease!r}")
    if not lease.held:
        raise AssertionError(f"{lease!r} cannot be lost: it is not held")
    news: list[Callable[[], None]] = []
    # The holder first: two must never believe in the same lock.
    lease.lose(f"its lease of {lease.timeout:g} s ran out (lose_now)", news.extend)
    try:
        run_sync(lock_policy.clear(lease.runtime.threads().store, lease.key, lease.token, slot=lease.shared))
    finally:
        _tell(news, lease.owner)


def _lease_of(key: str) -> Lease:
    substitute = _substitute()
    here = {runtime.latest_lease(key) for runtime in list(process.runtimes) if runtime.substitute is substitute}
    # Of a lease that an earlier test has forgotten, Redis knows nothing any more.
    held: list[Lease] = [lease for lease in here if lease is not None and lease.held and _is_in_redis(lease)]
    if not held:
        raise AssertionError(
            f"nobody in this process holds {key!r}, so nobody can lose it;"
            f" {_told(substitute.held() if substitute else locksmith.locks())}"
        )
    if len(held) > 1:
        raise ValueError(f"{key!r} is held here by several services; give lose_now the lease")
    return held[0]


def _is_in_redis(lease: Lease) -> bool:
    infos = run_sync(lock_policy.look(lease.runtime.threads().store, lease.attempt.names))
    return lease.token in [info.holder.token for info in infos if info.holder is not None]


def _tell(news: list[Callable[[], None]], owner: object) -> None:
    def tell_all() -> None:
        for tell in news:
            tell()

    # In a thread of their own, as whenever a lease is lost.
    thread = threading.Thread(target=tell_all, name="locksmith-lost", daemon=True)
    thread.start()
    thread.join(_TOLD_WITHIN)
    loop = owner.get_loop() if isinstance(owner, asyncio.Task) else None
    if loop is not None and loop.is_running() and loop is not _loop_here():
        told = threading.Event()
        loop.call_soon_threadsafe(told.set)  # behind `on_lost`
        told.wait(_TOLD_WITHIN)


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# ---- locks in memory


class LocksInMemory:
    """The locks of one test, as `override_locks` and the pytest fixture `locksmith_memory` hand them out."""

    def __init__(self, substitute: _LocksOfOneTest) -> None:
        self._substitute = substitute

    def busy(self, *keys: str) -> None:
        """From now on these locks are held by somebody else; see `override_locks`. Raises `ValueError` if they cannot,
        because the test itself holds one."""
        self._substitute.occupy(_checked(keys))

    def free(self, *keys: str) -> None:
        """They are not, any more. Raises `ValueError` for what was not said to be busy, in the same words."""
        self._substitute.vacate(keys)

    lose_now = staticmethod(lose_now)
    assert_locked = staticmethod(assert_locked)
    assert_not_locked = staticmethod(assert_not_locked)
    assert_no_locks_left = staticmethod(assert_no_locks_left)


class override_locks(TestContextDecorator):  # noqa: N801  # named, and used, as Django's override_settings
    """Locks in memory, all of them, for a block, a function (sync or async), or each test of a `TestCase` class.

    Those of all services, whatever Redis they name, empty at first, and gone in the end. Around locks in memory, and
    within, it begins again; the outer ones are back afterwards. `with override_locks() as locks` gives
    `LocksInMemory`; as decorators, `kwarg_name` and `attr_name` say as what a function or a `TestCase` gets it.

    Args:
        busy: keys, or shell patterns (`*`, `?`, `[abc]`) of keys, that somebody else holds as long as this lasts.
            `acquire` gives `None`, a `with` block raises `LockBusy`, and nobody waits for it, however long the lock
            says. It is about locks alone: `get_or_set` computes.
        **settings: further settings by lower-case names, over those of `settings.LOCKSMITH`:
            `override_locks(timeout=1)`.

    Raises:
        ImproperlyConfigured: fakeredis is not installed.
        TypeError, ValueError: name what is wrong.
    """

    def __init__(
        self,
        busy: Iterable[str] = (),
        *,
        attr_name: str | None = None,
        kwarg_name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(attr_name, kwarg_name)
        if "redis" in settings:
            raise TypeError("override_locks takes no redis: its locks are in memory")
        self._busy = _checked(busy)
        self._settings = settings
        self._open: list[tuple[_LocksOfOneTest, override_settings]] = []

    def enable(self) -> LocksInMemory:
        conf.read_settings(self._settings)  # names what is wrong
        check_deployment("memory://")
        given = getattr(django_settings, "LOCKSMITH", None) or {}
        override = override_settings(LOCKSMITH=given | {name.upper(): value for name, value in self._settings.items()})
        substitute = _LocksOfOneTest(self._busy)
        process.substitutes.append(substitute)
        try:
            override.enable()  # which has all services look up their settings again, and so the substitute
        except BaseException:
            process.substitutes.remove(substitute)
            raise
        self._open.append((substitute, override))
        locksmith.runtime()  # at once, so that its locks are seen before it is used
        return LocksInMemory(substitute)

    def disable(self) -> None:
        substitute, override = self._open.pop()
        process.substitutes.remove(substitute)
        try:
            override.disable()
        finally:
            substitute.end()

    def __enter__(self) -> LocksInMemory:  # type: ignore[override]  # the stubs know Django's own subclasses only
        return self.enable()


def _checked(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str):
        raise TypeError(f"busy takes keys, not one str: busy=[{keys!r}]")
    return [check_key(key) for key in keys]


def _is_pattern(key: str) -> bool:
    return any(sign in key for sign in "*?[")


def _substitute() -> _LocksOfOneTest | None:
    substitute = process.substitutes[-1] if process.substitutes else None
    return substitute if isinstance(substitute, _LocksOfOneTest) else None


class _LocksOfOneTest:
    """What `override_locks` puts in the place of Redis: a server for each name that a service has for one.

    A lock that a test says is busy is really held there, so that a look at the locks shows it.
    """

    def __init__(self, busy: list[str]) -> None:
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
                    raise ValueError(f"{key!r} cannot be busy: {_said_of(info)}")
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
            if not _is_pattern(key):
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


def _matches(key: str, pattern: str) -> bool:
    return key == pattern or fnmatchcase(key, pattern)
