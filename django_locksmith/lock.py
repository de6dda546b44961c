"""A lock: what is to be held, and how. Every rule stands once, in a coroutine; the two faces only run it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from . import conf, protocol, signals
from .bridge import run_sync
from .exceptions import LockBusy, LockLost, LockReentered, LocksmithError, LockUnavailable
from .key_templates import dotted_name, key_maker
from .lease import Lease
from .names import check_key, encode
from .records import Busy, Skipped
from .tokens import HANDED_OVER, new_token, read_holder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from .protocol import Ask
    from .records import LockInfo, Rules
    from .service import Locksmith as Service
    from .workshop import Face, Options, Workshop

logger = logging.getLogger("django_locksmith.lock")

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")


class Lock:
    """A lock by its key: a description, free to share between threads, tasks and modules. `locksmith(key)` makes one.

        with lock as lease: ...             # waits; raises LockBusy when the wait ends
        async with lock as lease: ...
        lease = lock.acquire()              # a Lease, or None when busy (take() raises LockBusy)
        @lock                               # on a function, sync or async

    Everything that talks to Redis may raise `LockUnavailable`: it did not answer, or refused.
    """

    __slots__ = ("_entered", "_known_rules", "_known_workshop", "_options", "_service", "key", "template")

    def __init__(self, service: Service, key: str, options: Options, template: str = "") -> None:
        self._service = service
        self._options = options
        self.key = key
        self.template = template
        # What the settings in force make of it; looked up again when they have changed.
        self._known_workshop = workshop = service.workshop()
        self._known_rules = workshop.rules_for(options)
        # Of the `with` blocks that this object is used for, by threads and tasks, and blocks within blocks.
        self._entered: list[Lease] = []

    # A lock may live as long as the module it stands in, while settings are overridden around it.

    @property
    def _workshop(self) -> Workshop:
        workshop = self._service.workshop()
        if workshop is not self._known_workshop:
            self._known_workshop, self._known_rules = workshop, workshop.rules_for(self._options)
        return workshop

    @property
    def _rules(self) -> Rules:
        return self._workshop.rules_for(self._options)

    @property
    def name(self) -> str:
        """The key in Redis."""
        return f"{self._workshop.settings.prefix}{self.key}"

    @property
    def timeout(self) -> float:
        """The lease, seconds."""
        return self._rules.timeout

    @property
    def blocking_timeout(self) -> float | None:
        """The longest wait, seconds; `None` without limit."""
        return self._rules.wait

    # ---- taking it

    def acquire(
        self,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Lease | None:
        """Take the lock: a lease, or `None` when it is busy (at once, or at the end of the wait).

        `blocking`, `blocking_timeout` (seconds): how to wait, this time; `None` = as the lock says. `token`: what to
        put into Redis instead of a token of our own; must never be used twice.

        Raises `LockReentered` instead of waiting for oneself, and `LockUnavailable`.
        """
        face = self._workshop.threads()
        ask = self._ask(face, blocking, blocking_timeout, token)
        # Ctrl-C may come between the grant and the return. Here, and not in a function that three could share: it may
        # come between that one's return and ours, too.
        try:
            return _or_none(run_sync(self._take(face, ask)))
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(face, ask)
            raise

    async def aacquire(
        self,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Lease | None:
        """As `acquire`. Cancelled, it leaves neither the lock nor a place in its queue behind."""
        face = self._workshop.loop()
        return _or_none(await self._take(face, self._ask(face, blocking, blocking_timeout, token)))

    def take(self) -> Lease:
        """As `acquire`, but raises `LockBusy`, which knows the holder, where that returns `None`."""
        face = self._workshop.threads()
        ask = self._ask(face)
        try:
            return _or_raise(run_sync(self._take(face, ask)))
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(face, ask)
            raise

    async def atake(self) -> Lease:
        """As `take`."""
        face = self._workshop.loop()
        return _or_raise(await self._take(face, self._ask(face)))

    def __enter__(self) -> Lease:
        face = self._workshop.threads()
        ask = self._ask(face)
        try:
            return self._enter(run_sync(self._take(face, ask)))
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(face, ask)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._exit(threading.current_thread)
        run_sync(lease.leave(lease.workshop.threads(), error))

    async def __aenter__(self) -> Lease:
        face = self._workshop.loop()
        return self._enter(await self._take(face, self._ask(face)))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._exit(asyncio.current_task)
        await lease.leave(lease.workshop.loop(), error)

    # A `with` block needs its lease back at its end, by the settings it was taken with: they may be overridden, or put
    # back, in the middle of the block.

    def _enter(self, lease: Lease | LockBusy) -> Lease:
        granted = _or_raise(lease)
        self._entered.append(granted)
        return granted

    def _exit(self, caller: Callable[[], object]) -> Lease:
        if len(self._entered) == 1:
            return self._entered.pop(0)  # not the last: others who share this object come and go meanwhile
        entered = self._entered[::-1]
        # If nobody of them is the caller, an async generator, say, is finished by another task than began it.
        this = caller()
        lease = next((each for each in entered if each.owner is this), entered[0])
        self._entered.remove(lease)
        return lease

    def _ask(
        self,
        face: Face,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Ask:
        rules = self._known_rules  # those of the workshop that the face was just taken from
        wait = rules.wait
        if blocking is not None or blocking_timeout is not None:
            wait = self._wait_this_time(blocking, blocking_timeout)
        if token is None:
            token = new_token(rules.label)
        elif not isinstance(token, str) or not token or token == HANDED_OVER:
            raise ValueError(f"token must be a str that nobody else uses, not {token!r}")
        return protocol.Ask(face.store.names(self.key), encode(token), rules.timeout, inf if wait is None else wait)

    def _wait_this_time(self, blocking: bool | None, blocking_timeout: conf.Seconds | None) -> float | None:
        if blocking is not None:
            conf.flag("blocking", blocking)
        wait = conf.wait_seconds("blocking_timeout", blocking_timeout)
        if blocking is False:
            if wait:
                raise ValueError("blocking_timeout says how long to wait, but blocking=False says not to")
            return 0.0
        if blocking_timeout is not None:
            return wait
        return self._rules.wait if self._rules.wait != 0 else self._workshop.settings.blocking_timeout

    async def _take(self, face: Face, ask: Ask) -> Lease | LockBusy:
        if self._known_workshop.lease_of(self.key) is not None:
            lease = self._own_lease(face)
            if lease is not None and lease.held:
                if lease.waits_for_commit and self._known_rules.release == "commit":
                    return lease  # it is ours until the transaction ends, however often we ask
                if ask.wait:
                    raise LockReentered(self.key, read_holder(lease.token), lease.remaining)
        if self._known_workshop.scene is not None:
            await self._known_workshop.scene.prepare(face.store, ask)  # in a test
        told = signals.acquired.receivers or signals.acquired.observers
        started = time.monotonic() if told else 0.0
        lease = Lease(self._known_workshop, face, self._known_rules, ask, self.template)
        try:
            outcome = await protocol.acquire(face.store, ask, lease.begin)
        except LockUnavailable as trouble:
            if signals.unavailable.wanted:
                await face.tell(signals.unavailable, key=self.key, template=self.template, error=trouble)
            raise
        if isinstance(outcome, Busy):
            error = LockBusy(self.key, read_holder(outcome.holder) if outcome.holder else None, outcome.left)
            logger.info("%s", error)
            if signals.busy.wanted:
                await face.tell(signals.busy, key=self.key, template=self.template, error=error)
            return error
        if told:
            try:
                await face.tell(signals.acquired, lease=outcome, waited=time.monotonic() - started)
            except BaseException as error:
                await face.store.sheltered(outcome.leave(face, error))
                raise
        return outcome

    def _give_up(self, face: Face, ask: Ask) -> None:
        """The caller was interrupted, perhaps between the grant and the return."""
        lease = self._known_workshop.lease_of(self.key)
        if lease is not None and lease.ask is ask:
            lease.disown()
            if lease in self._entered:
                self._entered.remove(lease)
        run_sync(protocol.withdraw(face.store, ask))

    def _own_lease(self, face: Face) -> Lease | None:
        lease = self._workshop.lease_of(self.key)
        return lease if lease is not None and face.is_caller(lease.owner) else None

    # ---- redis-py's words, about this thread's or task's own lease

    def release(self) -> None:
        """Give back what this thread or task holds. Raises `LockLost` if it holds nothing, or not any more."""
        self._mine(self._workshop.threads()).release()

    async def arelease(self) -> None:
        """As `release`."""
        await self._mine(self._workshop.loop()).arelease()

    def extend(self, additional_time: conf.Seconds, replace_ttl: bool = False) -> bool:
        """Add seconds to what this thread or task holds, or let it end so many seconds from now. Raises `LockLost`."""
        self._mine(self._workshop.threads()).extend(additional_time, replace_ttl)
        return True

    async def aextend(self, additional_time: conf.Seconds, replace_ttl: bool = False) -> bool:
        """As `extend`."""
        await self._mine(self._workshop.loop()).aextend(additional_time, replace_ttl)
        return True

    def reacquire(self) -> bool:
        """Start the lease anew. Raises `LockLost`: what is lost is not taken again."""
        self._mine(self._workshop.threads()).extend()
        return True

    async def areacquire(self) -> bool:
        """As `reacquire`."""
        await self._mine(self._workshop.loop()).aextend()
        return True

    def locked(self) -> bool:
        """Does anybody hold it now? Asks Redis."""
        return run_sync(self._look(self._workshop.threads())) is not None

    async def alocked(self) -> bool:
        """As `locked`."""
        return await self._look(self._workshop.loop()) is not None

    def owned(self) -> bool:
        """Does this thread or task hold it now? Asks Redis."""
        return run_sync(self._owned(self._workshop.threads()))

    async def aowned(self) -> bool:
        """As `owned`."""
        return await self._owned(self._workshop.loop())

    async def _owned(self, face: Face) -> bool:
        lease = self._own_lease(face)
        if lease is None or not lease.held:
            return False
        info = await self._look(face)
        return info is not None and info.holder is not None and info.holder.token == lease.token

    async def _look(self, face: Face) -> LockInfo | None:
        return await protocol.look(face.store, face.store.names(self.key))

    def _mine(self, face: Face) -> Lease:
        lease = self._own_lease(face)
        if lease is None:
            raise LockLost(self.key, "this thread or task has no lease of it; use the lease where it was handed over")
        return lease

    # ---- around a function

    def __call__(self, function: F) -> F:
        """Decorate a function, sync or async: each call holds the lock.

        The lock's key is a template over the arguments of the call (`"import:{account_id}"`), by default the function's
        dotted name. When the lock is busy, `on_busy` of the lock decides: "raise", "skip" (returns a falsy `Skipped`)
        or a callable that gets the `LockBusy` and whose result is returned.
        """
        if not callable(function) or inspect.isclass(function):
            raise TypeError(f"a lock decorates functions, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{dotted_name(function)} is a generator: the lock would be released before its first item;"
                " take it inside, by a with block"
            )
        make_key = key_maker(self.key, function)
        template = self.template or self.key or dotted_name(function)

        def lock_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lock:
            return Lock(self._service, check_key(make_key(args, kwargs)), self._options, template)

        if is_async(function):

            @wraps(function)
            async def locked_async(*args: Any, **kwargs: Any) -> Any:
                return await lock_of(args, kwargs).arun(lambda release: function(*args, **kwargs))

            locked_async.locksmith_lock = self  # type: ignore[attr-defined]  # types do not know that functions have some
            return locked_async  # type: ignore[return-value]  # wraps() keeps the signature; the types cannot say so

        @wraps(function)
        def locked(*args: Any, **kwargs: Any) -> Any:
            return lock_of(args, kwargs).run(lambda release: function(*args, **kwargs))

        locked.locksmith_lock = self  # type: ignore[attr-defined]  # as above
        return locked  # type: ignore[return-value]  # as above

    def run(self, work: Callable[[Callable[[], bool]], T]) -> T | Any:
        """Call `work(release)` while holding the lock, and return its result; it may release the lock early itself.

        When the lock is busy, as `on_busy` says.
        """
        face = self._workshop.threads()
        ask = self._ask(face)
        lease: Lease | LockBusy | None = None
        try:
            lease = run_sync(self._take(face, ask))
            if isinstance(lease, LockBusy):
                return self._on_busy(lease)
            result = _done(work(lease.release))
        except BaseException as error:
            if isinstance(lease, Lease):
                run_sync(lease.leave(face, error))
            elif lease is None and not isinstance(error, LocksmithError):
                self._give_up(face, ask)
            raise
        run_sync(lease.leave(face, None))
        return result

    async def arun(self, work: Callable[[Callable[[], Awaitable[bool]]], Awaitable[T]]) -> T | Any:
        """As `run`; `work` and the `release` it gets are awaited."""
        face = self._workshop.loop()
        lease = await self._take(face, self._ask(face))
        if isinstance(lease, LockBusy):
            instead = self._on_busy(lease)
            return await instead if inspect.isawaitable(instead) else instead
        async with lease:
            return await work(lease.arelease)

    def _on_busy(self, busy: LockBusy) -> Any:
        on_busy = self._rules.on_busy
        if on_busy == "raise":
            raise busy
        if on_busy == "skip":
            return Skipped(busy.key, busy.holder)
        return on_busy(busy)

    def __repr__(self) -> str:
        return f"<Lock {self.key!r}: {self._rules}>"


def _or_none(lease: Lease | LockBusy) -> Lease | None:
    return None if isinstance(lease, LockBusy) else lease


def _or_raise(lease: Lease | LockBusy) -> Lease:
    if isinstance(lease, LockBusy):
        raise lease
    return lease


def is_async(function: Callable[..., Any]) -> bool:
    """Does calling it give a coroutine, as far as can be told?"""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _done(result: T) -> T:
    """The result of work that is done; work that has only been prepared would run without the lock."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python warns that nobody awaited it
        raise TypeError(
            f"{result!r} would run after the lock was released;"
            " give an async def function, or take the lock inside, by a with block"
        )
    return result
