"""What the locks of one service share in this process: settings, stores, who holds what, who renews.

After a fork, the child starts with nothing: it owns no lease that its parent held.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .. import forks
from ..exceptions import LocksmithError, LockUnavailable
from ..policy.sync_bridge import run_sync
from ..redis.async_transport import AsyncTransport
from ..redis.connections import Deployment, open_deployment
from ..redis.lock_store import GivesBack, LockStore
from ..redis.sync_transport import SyncTransport
from .contexts import LoopContext, ThreadContext
from .expiry import Watch
from .giving_back import GivingBack
from .held_leases import HeldLeases
from .options import Defaults
from .renewal import Renewer

if TYPE_CHECKING:
    from .. import conf
    from ..redis.key_names import RateNames
    from ..redis.messages import Attempt
    from .contexts import Context

C = TypeVar("C", bound="Context")


class Substitute(Protocol):
    """Where locks live instead of in Redis, as long as a test wants it; see `testing.override_locks`."""

    def deployment(self, where: str) -> Deployment:
        """What stands in for what `LOCKSMITH["REDIS"]` names."""

    def enter(self, runtime: Runtime) -> None:
        """These settings are in force there, too."""

    def furnish(self, runtime: Runtime, context: Context) -> None:
        """What callers share there has just been made."""

    async def prepare(self, context: Context, attempt: Attempt) -> None:
        """A lock is about to be asked for: see that it is held by whom the test says, whom nobody waits for."""

    def start_again(self) -> None:
        """In a forked child."""


class Process:
    """What all services of a process share."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()
        self.substitutes: list[Substitute] = []  # the last is in force
        self._inherited: list[Any] = []

    def start_again(self) -> None:
        """In a forked child."""
        # The parent's connections and threads are kept out of reach but alive: closing them here, or letting them be
        # collected, would pull them out of the parent's event loop.
        self._inherited.append(self.watch)
        self.watch = Watch()
        for substitute in self.substitutes:
            substitute.start_again()
        for runtime in list(self.runtimes):
            self._inherited.append(runtime.start_again())

    def give_back_at_exit(self) -> None:
        """At the end of this process."""
        for runtime in list(self.runtimes):
            runtime.give_back_at_exit()


process = Process()
atexit.register(process.give_back_at_exit)
forks.in_child(process.start_again)


class Runtime:
    """What all locks of one set of settings share in this process."""

    def __init__(self, settings: conf.Settings) -> None:
        self.settings = settings
        self.substitute = process.substitutes[-1] if process.substitutes else None
        self.rules_for = Defaults(settings).rules_for
        self._mutex = threading.RLock()
        self._empty()
        process.runtimes.add(self)
        if self.substitute is not None:
            self.substitute.enter(self)

    def _empty(self) -> None:
        self._deployment: Deployment | None = None
        self._threads: ThreadContext | None = None
        self._loops: dict[asyncio.AbstractEventLoop, LoopContext] = {}
        self._renewer: Renewer | None = None
        self._giving_back: GivingBack | None = None
        self.held: HeldLeases[Any] = HeldLeases()

    def start_again(self) -> object:
        """Forget everything. Returns it, so that the caller can keep it alive, out of reach."""
        inherited = dict(self.__dict__)
        self._mutex = threading.RLock()
        self._empty()
        return inherited

    def deployment(self) -> Deployment:
        """The servers, looked up at the first use."""
        if self._deployment is None:
            with self._mutex:
                if self._deployment is None:
                    find = open_deployment if self.substitute is None else self.substitute.deployment
                    self._deployment = find(self.settings.redis)
        return self._deployment

    def threads(self) -> ThreadContext:
        """What synchronous callers share."""
        if forks.state.pid != forks._getpid():
            forks.state.start_again()
        if self._threads is None:
            deployment = self.deployment()
            with self._mutex:
                if self._threads is None:
                    self._threads = self._furnished(ThreadContext(self._store(SyncTransport(deployment))))
        return self._threads

    def loop(self) -> LoopContext:
        """What the tasks of the running event loop share."""
        forks.generation()
        running = asyncio.get_running_loop()
        context = self._loops.get(running)
        if context is None:
            # A context refers to its loop, so that weak references would never end: each new loop sweeps out the old.
            for known in list(self._loops):
                if known.is_closed():
                    self._loops.pop(known, None)
            context = self._furnished(LoopContext(self._store(AsyncTransport(self.deployment()))))
            self._loops[running] = context
        return context

    def _furnished(self, context: C) -> C:
        if self.substitute is not None:
            self.substitute.furnish(self, context)
        return context

    def _store(self, transport: SyncTransport | AsyncTransport) -> LockStore:
        settings = self.settings
        prefix = settings.prefix if isinstance(settings.prefix, str) else settings.prefix_now
        store = LockStore(transport, prefix, settings.min_replicas if transport.deployment.has_replicas else 0)
        store.give_back_later = self._give_back_later
        return store

    def _give_back_later(self, work: GivesBack, seconds: float) -> None:
        if self._giving_back is None:
            store = self.threads().store
            with self._mutex:
                if self._giving_back is None:
                    self._giving_back = GivingBack(store)
        self._giving_back.add(work, seconds)

    def latest_lease(self, key: str) -> Any:
        """The latest lease of this key that somebody in this process still has; `None` if there is none."""
        if self._deployment is None:
            return None
        return self.held.latest(self.threads().store.names(key).lock)

    def places_moved(self, names: RateNames, news: int) -> None:
        """Whoever sleeps here for a place of this rate limit is to look where it is now."""
        contexts = [*self._loops.values()] if self._threads is None else [self._threads, *self._loops.values()]
        for context in contexts:
            context.soon(partial(context.schedules.of(names.lock, context.rates.now()).sleepers.hear, news, wake=True))

    def renewer(self) -> Renewer:
        """Who keeps leases alive."""
        if self._renewer is None:
            store = self.threads().store
            with self._mutex:
                if self._renewer is None:
                    self._renewer = Renewer(store)
        return self._renewer

    def give_back_at_exit(self) -> None:
        """The process ends as usual: what it has taken by calls, and not handed over, is given back.

        Blocks have ended by then, but for those of daemon threads, which are still at work.
        """
        for lease in self.held.all():
            if lease.lent and lease.held and not lease.detached:
                try:
                    lease.release()
                except LockUnavailable:
                    return  # it would take as long for the others
                except LocksmithError:
                    continue  # lost

    def close(self) -> None:
        """Nobody will use it any more: end its thread, and close its connections."""
        if self._renewer is not None:
            self._renewer.end()
        if self._giving_back is not None:
            self._giving_back.end()
        if self._threads is not None:
            run_sync(self._threads.store.transport.close())
        for context in list(self._loops.values()):
            context.close()
