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

from . import conf, protocol
from .bridge import run_sync
from .connections import Memory, check_deployment
from .lease import Lease
from .names import check_key, encode
from .protocol import Ask
from .service import locksmith
from .tokens import new_token
from .workshop import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .connections import Deployment
    from .names import Names
    from .records import LockInfo
    from .service import Locksmith
    from .store import Store
    from .workshop import Workshop

__all__ = [
    "LocksInMemory",
    "assert_locked",
    "assert_no_locks_left",
    "assert_not_locked",
    "lose_now",
    "override_locks",
]

_BUSY_FOR = 120.0
"""Seconds of a stand-in's lease, begun anew in time. Not a year: code under test may obey `LockBusy.retry_after`."""
_TOLD_WITHIN = 10.0
"""Seconds that `lose_now` gives those whom it tells: one of them may be waiting for the caller."""


# ---- what is held


def assert_locked(key: str = "", *, by: Lease | None = None, service: Locksmith = locksmith) -> None:
    """Fail unless somebody holds this lock of the service; `by`: unless it is held with this lease."""
    info = service.info(key)
    if info is None:
        raise AssertionError(f"the lock {key!r} is not held; {_told(service.locks())}")
    if by is not None and (info.holder is None or info.holder.token != by.token):
        raise AssertionError(f"the lock {_line(info)}, not by {by!r}")


def assert_not_locked(key: str = "", *, service: Locksmith = locksmith) -> None:
    """Fail if somebody holds this lock of the service."""
    info = service.info(key)
    if info is not None:
        raise AssertionError(f"the lock {_line(info)}")


def assert_no_locks_left(service: Locksmith | None = None) -> None:
    """Fail if any lock of the service is held; within `override_locks`, and without `service`: of any service.

    Those that are only `busy` do not count.
    """
    scene = _scene()
    left = scene.held() if scene and service is None else (service or locksmith).locks()
    if scene:
        left = [info for info in left if not scene.is_stand_in(info)]
    if left:
        raise AssertionError(f"locks were not given back; {_told(left)}")


def _told(held: list[LockInfo]) -> str:
    return "held are: " + "; ".join(map(_line, held)) if held else "no lock is held"


def _line(info: LockInfo) -> str:
    return f"{info.key!r} is held by {info.holder or 'nobody yet: it is being handed over'}"


# ---- losing it


def lose_now(lease: Lease | str) -> None:
    """Let a lease be lost now, as if it had run out: in Redis, and for its holder, who is told.

    Give the lease, or the key of a lock that is held by this process. `lease.held` is false from here on, `LockLost` is
    raised at the end of its block. `on_lost` and the signal `lost` have been called when this returns; but `on_lost` of
    a task that belongs to the running event loop is called there, with the next await.

    Raises `AssertionError` if it is not held here, `ValueError` if a key names locks of several services.
    """
    if isinstance(lease, str):
        lease = _lease_of(lease)
    elif not isinstance(lease, Lease):
        raise TypeError(f"lose_now takes a Lease or a key, not {lease!r}")
    if not lease.held:
        raise AssertionError(f"{lease!r} cannot be lost: it is not held")
    news: list[Callable[[], None]] = []
    # The holder first: never must two believe in it.
    lease.lose(f"its lease of {lease.timeout:g} s ran out (lose_now)", news.extend)
    try:
        run_sync(protocol.clear(lease.workshop.threads().store, lease.key, lease.token))
    finally:
        _tell(news, lease.owner)


def _lease_of(key: str) -> Lease:
    scene = _scene()
    here = {workshop.lease_of(key) for workshop in list(process.workshops) if workshop.scene is scene}
    # Of a lease that an earlier test has forgotten, Redis knows nothing any more.
    held = [lease for lease in here if lease is not None and lease.held and _is_in_redis(lease)]
    if not held:
        raise AssertionError(
            f"nobody in this process holds {key!r}, so nobody can lose it;"
            f" {_told(scene.held() if scene else locksmith.locks())}"
        )
    if len(held) > 1:
        raise ValueError(f"{key!r} is held here by several services; give lose_now the lease")
    return held[0]


def _is_in_redis(lease: Lease) -> bool:
    info = run_sync(protocol.look(lease.workshop.threads().store, lease.ask.names))
    return info is not None and info.holder is not None and info.holder.token == lease.token


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

    def __init__(self, scene: _Scene) -> None:
        self._scene = scene

    def busy(self, *keys: str) -> None:
        """From now on these locks are held by somebody else; see `override_locks`. Raises `ValueError` if they cannot,
        because the test itself holds one."""
        self._scene.occupy(_checked(keys))

    def free(self, *keys: str) -> None:
        """They are not, any more. Raises `ValueError` for what was not said to be busy, in the same words."""
        self._scene.vacate(keys)

    lose_now = staticmethod(lose_now)
    assert_locked = staticmethod(assert_locked)
    assert_not_locked = staticmethod(assert_not_locked)
    assert_no_locks_left = staticmethod(assert_no_locks_left)


class override_locks(TestContextDecorator):  # noqa: N801  # named, and used, as Django's override_settings
    """Locks in memory, all of them, for a block, a function (sync or async), or each test of a `TestCase` class.

    Those of all services, whatever Redis they name, empty at first, and gone in the end. Around locks in memory, and
    within, it begins anew; the outer ones are back afterwards. `with override_locks() as locks` gives `LocksInMemory`;
    as decorators, `kwarg_name` and `attr_name` say as what a function or a `TestCase` gets it.

    `busy`: keys, or shell patterns (`*`, `?`, `[abc]`) of keys, that somebody else holds as long as this lasts.
    `acquire` gives `None`, a `with` block raises `LockBusy`, and nobody waits for it, however long the lock says. It is
    about locks alone: `get_or_set` computes.

    Further settings go by lower-case names, over those of `settings.LOCKSMITH`: `override_locks(timeout=1)`.

    Raises `ImproperlyConfigured` if fakeredis is not installed, `TypeError` or `ValueError` that name what is wrong.
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
        self._open: list[tuple[_Scene, override_settings]] = []

    def enable(self) -> LocksInMemory:
        conf.read_settings(self._settings)  # names what is wrong
        check_deployment("memory://")
        given = getattr(django_settings, "LOCKSMITH", None) or {}
        override = override_settings(LOCKSMITH=given | {name.upper(): value for name, value in self._settings.items()})
        scene = _Scene(self._busy)
        process.scenes.append(scene)
        try:
            override.enable()  # which has all services look up their settings anew, and so the scene
        except BaseException:
            process.scenes.remove(scene)
            raise
        self._open.append((scene, override))
        locksmith.workshop()  # at once, so that its locks are seen before it is used
        return LocksInMemory(scene)

    def disable(self) -> None:
        scene, override = self._open.pop()
        process.scenes.remove(scene)
        try:
            override.disable()
        finally:
            scene.end()

    def __enter__(self) -> LocksInMemory:  # type: ignore[override]  # the stubs know Django's own subclasses only
        return self.enable()


def _checked(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str):
        raise TypeError(f"busy takes keys, not one str: busy=[{keys!r}]")
    return [check_key(key) for key in keys]


def _is_pattern(key: str) -> bool:
    return any(sign in key for sign in "*?[")


def _scene() -> _Scene | None:
    scene = process.scenes[-1] if process.scenes else None
    return scene if isinstance(scene, _Scene) else None


class _Scene:
    """What `override_locks` puts in the place of Redis: a server for each name that a service has for one.

    Those who are said to hold a lock do hold it there, so that whoever looks sees them.
    """

    def __init__(self, busy: list[str]) -> None:
        self._busy = list(busy)
        self._servers: dict[str, Memory] = {}
        self._workshops: list[Workshop] = []
        self._tokens: dict[str, bytes] = {}
        self._until: dict[tuple[Deployment, bytes], float] = {}

    def deployment(self, where: str) -> Deployment:
        return self._servers.get(where) or self._servers.setdefault(where, Memory())

    def enter(self, workshop: Workshop) -> None:
        self._workshops.append(workshop)
        self._take_places(workshop, self._busy)

    async def prepare(self, store: Store, ask: Ask) -> None:
        if self._is_busy(ask.names.key):
            ask.wait = 0.0
            await self._take_place(store, ask.names)

    def start_again(self) -> None:
        self._servers.clear()
        self._until.clear()

    def end(self) -> None:
        """Nobody takes locks here any more."""
        for workshop in self._workshops:
            workshop.close()

    # ---- stand-ins: who hold the locks that are busy

    def occupy(self, keys: list[str]) -> None:
        for key in keys:
            for info in self.held():
                if _matches(info.key, key) and not self.is_stand_in(info):
                    raise ValueError(f"{key!r} cannot be busy: {_line(info)}")
        self._busy += keys
        for workshop in self._namespaces():
            self._take_places(workshop, keys)

    def vacate(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._busy:
                raise ValueError(f"{key!r} is not busy; busy are: {', '.join(map(repr, self._busy)) or 'none'}")
            self._busy.remove(key)
        for workshop in self._namespaces():
            store = workshop.threads().store
            for info in run_sync(protocol.list_locks(store, lambda key: not self._is_busy(key))):
                if info.holder is not None and self.is_stand_in(info):
                    run_sync(protocol.clear(store, info.key, info.holder.token))
        self._until.clear()

    def is_stand_in(self, info: LockInfo) -> bool:
        token = self._tokens.get(info.key)
        return token is not None and info.holder is not None and encode(info.holder.token) == token

    def _is_busy(self, key: str) -> bool:
        return any(_matches(key, each) for each in self._busy)

    def _take_places(self, workshop: Workshop, keys: list[str]) -> None:
        store = workshop.threads().store
        for key in keys:
            if not _is_pattern(key):
                run_sync(self._take_place(store, store.names(key)))

    async def _take_place(self, store: Store, names: Names) -> None:
        place = (store.wires.deployment, names.lock)
        now = store.now()
        if now < self._until.get(place, 0.0):
            return  # it is there, unless the code under test has cleared it
        token = self._tokens.setdefault(names.key, encode(new_token("override_locks")))
        # Whoever asks with the token that has the lock, has it anew.
        await protocol.acquire(store, Ask(names, token, _BUSY_FOR, 0.0), lambda *granted: None)
        self._until[place] = now + _BUSY_FOR / 2

    # ---- looking in

    def held(self) -> list[LockInfo]:
        """The locks of all services, stand-ins' too."""
        return [
            info
            for workshop in self._namespaces()
            for info in run_sync(protocol.list_locks(workshop.threads().store, lambda key: True))
        ]

    def _namespaces(self) -> list[Workshop]:
        """One workshop for each place where keys are their own."""
        return list({(each.settings.redis, each.settings.prefix): each for each in self._workshops}.values())


def _matches(key: str, pattern: str) -> bool:
    return key == pattern or fnmatchcase(key, pattern)
