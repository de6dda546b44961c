"""What the locks of one service share in this process: settings, stores, who holds what, who renews.

After a fork, the child starts with empty hands: it owns nothing that its parent held.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import conf
from .async_wires import AsyncWires
from .bridge import run_sync
from .connections import Deployment, open_deployment
from .flight_store import FlightStore
from .records import Rules
from .renewal import Renewer
from .store import Store
from .sync_wires import SyncWires
from .watch import Watch

if TYPE_CHECKING:
    from django.dispatch import Signal

    from .lease import Lease
    from .protocol import Ask


logger = logging.getLogger("django_locksmith.lock")


class Face:
    """The world as a thread or a task sees it: the store to talk to, how to tell receivers of signals, who one is."""

    may_be_in_transaction: bool

    def __init__(self, store: Store) -> None:
        self.store = store
        self.flights = FlightStore(store)

    async def tell(self, signal: Signal, **named: Any) -> None:
        """Send a signal; a receiver that fails is logged and changes nothing."""
        raise NotImplementedError

    def caller(self) -> object:
        """The thread or task that calls."""
        raise NotImplementedError

    def is_caller(self, owner: object) -> bool:
        """Is it this thread or task that calls?"""
        return owner is self.caller()


class ThreadFace(Face):
    """For synchronous callers."""

    may_be_in_transaction = True

    async def tell(self, signal: Signal, **named: Any) -> None:
        try:
            signal.send_robust(None, **named)
        except RuntimeError:
            # Django runs asynchronous receivers for synchronous senders, but not inside a running event loop.
            logger.exception("asynchronous receivers of a signal could not be called from synchronous code in a task")

    def caller(self) -> object:
        return threading.current_thread()

    def is_caller(self, owner: object) -> bool:
        # Synchronous code may run inside a task, and would block its loop waiting for it.
        return owner is threading.current_thread() or (isinstance(owner, asyncio.Task) and owner is _task_here())


def _task_here() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


class LoopFace(Face):
    """For the tasks of one event loop."""

    may_be_in_transaction = False  # Django's transactions belong to threads

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.loop = asyncio.get_running_loop()

    async def tell(self, signal: Signal, **named: Any) -> None:
        await signal.asend_robust(None, **named)

    def caller(self) -> object:
        return asyncio.current_task()

    def close(self) -> None:
        """Close the connections, as soon as the loop comes to it."""
        wires = self.store.wires
        try:
            self.loop.call_soon_threadsafe(lambda: self.loop.create_task(wires.close()))
        except RuntimeError:
            pass  # the loop is closed, and they with it


class Scene(Protocol):
    """Where locks live instead of in Redis, as long as a test wants it; see `testing.override_locks`."""

    def deployment(self, where: str) -> Deployment:
        """What stands in for what `LOCKSMITH["REDIS"]` names."""

    def enter(self, workshop: Workshop) -> None:
        """These settings are in force there, too."""

    async def prepare(self, store: Store, ask: Ask) -> None:
        """A lock is about to be asked for: see that it is held by whom the test says, whom nobody waits for."""

    def start_again(self) -> None:
        """In a forked child."""


class Process:
    """What all services of a process share."""

    def __init__(self) -> None:
        self.generation = 0
        self.watch = Watch()
        self.workshops: weakref.WeakSet[Workshop] = weakref.WeakSet()
        self.scenes: list[Scene] = []  # the last is played
        self._inherited: list[Any] = []

    def start_again(self) -> None:
        """In a forked child."""
        self.generation += 1
        # The parent's connections and threads are kept out of reach but alive: closing them here, or letting them be
        # collected, would pull them out of the parent's event loop.
        self._inherited.append(self.watch)
        self.watch = Watch()
        for scene in self.scenes:
            scene.start_again()
        for workshop in list(self.workshops):
            self._inherited.append(workshop.start_again())


process = Process()
os.register_at_fork(after_in_child=process.start_again)


_FEW = 64


class Workshop:
    """One set of settings, and all that lives by them in this process."""

    def __init__(self, settings: conf.Settings) -> None:
        self.settings = settings
        self.scene = process.scenes[-1] if process.scenes else None
        self._rules = Rules(settings.timeout, settings.blocking_timeout, settings.renew, settings.max_hold)
        self._cached_numbers = lru_cache(maxsize=256, typed=True)(self._checked_numbers)
        self._mutex = threading.Lock()
        self._empty()
        process.workshops.add(self)
        if self.scene is not None:
            self.scene.enter(self)

    def _empty(self) -> None:
        self._deployment: Deployment | None = None
        self._threads: ThreadFace | None = None
        self._loops: dict[asyncio.AbstractEventLoop, LoopFace] = {}
        self._renewer: Renewer | None = None
        self._held: dict[str, weakref.ref[Lease]] = {}
        self._sweep_at = _FEW

    def start_again(self) -> object:
        """Forget everything, and hand it out to be kept out of reach."""
        inherited = dict(self.__dict__)
        self._mutex = threading.Lock()
        self._empty()
        return inherited

    def deployment(self) -> Deployment:
        """The servers, looked up at the first use."""
        if self._deployment is None:
            with self._mutex:
                if self._deployment is None:
                    find = open_deployment if self.scene is None else self.scene.deployment
                    self._deployment = find(self.settings.redis)
        return self._deployment

    def threads(self) -> ThreadFace:
        """The face for synchronous callers."""
        if self._threads is None:
            deployment = self.deployment()
            with self._mutex:
                if self._threads is None:
                    self._threads = ThreadFace(self._store(SyncWires(deployment)))
        return self._threads

    def loop(self) -> LoopFace:
        """The face for tasks of the running event loop."""
        running = asyncio.get_running_loop()
        face = self._loops.get(running)
        if face is None:
            # A face refers to its loop, so that weak references would never end: each new loop sweeps out the old.
            for known in list(self._loops):
                if known.is_closed():
                    self._loops.pop(known, None)
            face = self._loops[running] = LoopFace(self._store(AsyncWires(self.deployment())))
        return face

    def _store(self, wires: SyncWires | AsyncWires) -> Store:
        return Store(wires, self.settings.prefix, self.settings.min_replicas if wires.deployment.has_replicas else 0)

    def renewer(self) -> Renewer:
        """Who keeps leases alive."""
        if self._renewer is None:
            store = self.threads().store
            with self._mutex:
                if self._renewer is None:
                    self._renewer = Renewer(store)
        return self._renewer

    def close(self) -> None:
        """Nobody will use it any more: end its thread, and close its connections."""
        if self._renewer is not None:
            self._renewer.end()
        if self._threads is not None:
            run_sync(self._threads.store.wires.close())
        for face in list(self._loops.values()):
            face.close()

    # ---- who holds what: weakly, for a lease that is dropped may simply be left to run out

    def hold(self, lease: Lease) -> None:
        """This lease is now the one for its key."""
        self._held[lease.key] = weakref.ref(lease)
        if len(self._held) > self._sweep_at:
            self._sweep()

    def let_go(self, lease: Lease) -> None:
        """It is no more."""
        held = self._held.get(lease.key)
        if held is not None and held() is lease:
            self._held.pop(lease.key, None)

    def lease_of(self, key: str) -> Lease | None:
        """The latest lease of this key that somebody in this process still has."""
        held = self._held.get(key)
        return None if held is None else held()

    def _sweep(self) -> None:
        # References to dropped leases stay until there are as many as others: cheaper than a callback for each.
        for key, held in self._held.copy().items():  # other threads take and give back meanwhile
            if held() is None and self._held.get(key) is held:
                self._held.pop(key, None)
        self._sweep_at = max(_FEW, 2 * len(self._held))

    # ---- options

    def rules_for(self, options: Options) -> Rules:
        """The settings, and over them what was given. Raises `TypeError` or `ValueError` that name the argument."""
        if options is NO_OPTIONS:
            return self._rules
        rules = self._numbers(*options[:5])
        if options[5:] == _USUAL_CHOICES:
            return rules
        return _with_choices(rules, options)

    def _numbers(self, *numbers: Any) -> Rules:
        try:
            return self._cached_numbers(*numbers)
        except TypeError:
            return self._checked_numbers(*numbers)  # what cannot be cached is at fault, and gets its name

    def _checked_numbers(self, timeout: Any, blocking: Any, blocking_timeout: Any, renew: Any, max_hold: Any) -> Rules:
        base = self._rules
        lease = base.timeout if timeout is UNSET else conf.lease_seconds("timeout", timeout)
        wait = base.wait if blocking_timeout is UNSET else conf.wait_seconds("blocking_timeout", blocking_timeout)
        if blocking is not UNSET and not isinstance(blocking, bool):
            raise TypeError(f"blocking must be True or False, not {blocking!r}")
        if blocking is False:
            if blocking_timeout is not UNSET and wait != 0:
                raise ValueError("blocking_timeout says how long to wait, but blocking=False says not to")
            wait = 0.0
        keep = base.renew if renew is UNSET else conf.flag("renew", renew)
        longest = base.max_hold if max_hold is UNSET else conf.hold_seconds("max_hold", max_hold)
        if max_hold is not UNSET and longest is not None:
            if not keep:
                raise ValueError("max_hold ends renewal, and needs renew=True; without, the lease ends after timeout")
            if longest < lease:
                raise ValueError(f"max_hold ({longest:g} s) is shorter than timeout ({lease:g} s)")
        return Rules(lease, wait, keep, longest)


def _with_choices(rules: Rules, options: Options) -> Rules:
    on_busy, on_lost, label, release = options.on_busy, options.on_lost, options.label, options.release
    if not (callable(on_busy) or on_busy in ("raise", "skip")):
        raise ValueError(f"on_busy must be 'raise', 'skip' or a callable, not {on_busy!r}")
    if not (callable(on_lost) or on_lost in ("raise", "log")):
        raise ValueError(f"on_lost must be 'raise', 'log' or a callable, not {on_lost!r}")
    if not isinstance(label, str):
        raise TypeError(f"label must be a str, not {label!r}")
    if release not in ("now", "commit"):
        raise ValueError(f"release must be 'now' or 'commit', not {release!r}")
    return replace(rules, on_busy=on_busy, on_lost=on_lost, label=label, release=release)


class Unset:
    """Not given, where `None` has a meaning of its own."""

    def __repr__(self) -> str:
        return "<as in settings.LOCKSMITH>"


UNSET = Unset()


class Options(NamedTuple):
    """What a caller said of a lock, over the settings."""

    timeout: Any = UNSET
    blocking: Any = UNSET
    blocking_timeout: Any = UNSET
    renew: Any = UNSET
    max_hold: Any = UNSET
    on_busy: Any = "raise"
    on_lost: Any = "raise"
    label: Any = ""
    release: Any = "now"


NO_OPTIONS = Options()


def options_of(given: dict[str, Any]) -> Options:
    """What a caller said by name. Raises `TypeError` that names what there is not."""
    unknown = given.keys() - set(Options._fields)
    if unknown:
        has = ", ".join((*Options._fields, "template"))
        raise TypeError(f"a lock has no option {min(unknown)!r}; it has {has}")
    return Options(**given)


_USUAL_CHOICES = NO_OPTIONS[5:]
