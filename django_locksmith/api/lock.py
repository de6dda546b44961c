"""A lock: what is to be held, and how.

Each method is there twice, for threads and for tasks. The rules are not: both run the same coroutines.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from ..exceptions import LockBusy, LocksmithError
from ..records import Skipped
from ..redis.key_names import check_key
from . import blocks, said_once
from .acquisition import atake, attempt_at, give_up, or_none, or_raise, take, wait_this_time
from .decorating import decorated, done
from .redis_py_words import RedisPyWords
from .taken import Taken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

    from typing_extensions import Never
    from typing_extensions import TypeVar as TypeVarWithDefault

    from .. import conf
    from ..redis.messages import Attempt
    from ..runtime.contexts import Context
    from ..runtime.options import Options, Rules
    from ..runtime.runtime import Runtime
    from .lease import Lease

    B = TypeVarWithDefault("B", covariant=True, default=Never)
else:
    B = TypeVar("B", covariant=True)
T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound="Callable[..., Any]")
L = TypeVar("L", bound="Lease | None")


class Lock(RedisPyWords, Generic[B]):
    """A lock by its key: a description, free to share between threads, tasks and modules. `locksmith(key)` makes one.

        with lock as lease: ...             # waits; raises LockBusy when the wait ends
        async with lock as lease: ...
        lease = lock.acquire()              # a Lease, or None when busy (take() raises LockBusy)
        @lock                               # on a function, sync or async

    Everything that asks Redis may raise `LockUnavailable`: it did not answer, or refused.

    To type checkers it is a `Lock[B]`, where B is what a decorated function gives, beside its result, when the lock is
    busy: nothing as a rule, `Skipped` with `on_busy="skip"`.
    """

    __slots__ = ("_cached_rules", "_cached_runtime", "_find_runtime", "_options", "_taken", "key", "template")

    def __init__(self, find_runtime: Callable[[], Runtime], key: str, options: Options, template: str = "") -> None:
        self._find_runtime = find_runtime
        self._options = options
        self.key = key
        self.template = template
        # What the settings in force make of it; looked up again when they have changed.
        self._cached_runtime = runtime = find_runtime()
        self._cached_rules = runtime.rules_for(options)
        self._taken = Taken()

    # A lock may live as long as the module it stands in, while settings are overridden around it.
    @property
    def _runtime(self) -> Runtime:
        runtime = self._find_runtime()
        if runtime is not self._cached_runtime:
            self._cached_runtime, self._cached_rules = runtime, runtime.rules_for(self._options)
        return runtime

    @property
    def _rules(self) -> Rules:
        return self._runtime.rules_for(self._options)

    @property
    def name(self) -> str:
        """The key in Redis."""
        return f"{self._runtime.settings.prefix_now()}{self.key}"

    @property
    def timeout(self) -> float:
        """The lease, seconds."""
        return self._rules.timeout

    @property
    def blocking_timeout(self) -> float | None:
        """The longest wait, seconds; `None` without limit."""
        return self._rules.wait

    @property
    def renews_for_ever(self) -> bool:
        """Is its lease renewed for as long as its holder lives?"""
        return self._rules.renew and self._rules.max_hold is None

    # ---- taking it

    def acquire(
        self,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Lease | None:
        """Take the lock.

        Args:
            blocking: whether to wait, this time; `None` = as the lock says.
            blocking_timeout: how long to wait, seconds, this time; `None` = as the lock says.
            token: what to put into Redis instead of a token of our own; must never be used twice.

        Returns:
            A lease, or `None` when the lock is busy (at once, or at the end of the wait).

        Raises:
            LockReentered: at once, where it would wait for the end of a block around itself.
            SynchronousOnlyOperation: in an event loop, which would stand still; there is `aacquire`.
            LockUnavailable: Redis gave no usable answer.
            TypeError, ValueError: name the argument at fault.
        """
        blocks.no_loop("aacquire()")
        context = self._runtime.threads()
        attempt = self._attempt(context, blocking, blocking_timeout, token)
        # Ctrl-C may come between the grant and the return. Here, and not in a function that three could share: it may
        # come between that one's return and ours, too.
        try:
            return self._keep(or_none(self._take(context, attempt)))
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(context, attempt)
            raise

    async def aacquire(
        self,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Lease | None:
        """As `acquire`. Cancelled, it leaves neither the lock nor a place in its queue behind."""
        context = self._runtime.loop()
        attempt = self._attempt(context, blocking, blocking_timeout, token)
        return self._keep(or_none(await self._atake(context, attempt)))

    def take(self) -> Lease:
        """As `acquire()`, but a lock that is busy raises `LockBusy`, which knows the holder."""
        blocks.no_loop("atake()")
        context = self._runtime.threads()
        attempt = self._attempt(context)
        try:
            return self._keep(or_raise(self._take(context, attempt)))
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(context, attempt)
            raise

    async def atake(self) -> Lease:
        """As `take`."""
        context = self._runtime.loop()
        return self._keep(or_raise(await self._atake(context, self._attempt(context))))

    def __enter__(self) -> Lease:
        blocks.no_loop("async with")
        context = self._runtime.threads()
        attempt = self._attempt(context)
        try:
            lease = self._take(context, attempt)
            if isinstance(lease, LockBusy):
                raise lease
            self._taken.enter(lease)
            blocks.begin(lease)
            return lease
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(context, attempt)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ctrl-C may come anywhere in here, before the first request and behind the last.
        lease: Lease | None = None
        try:
            lease = self._taken.of_block(task=False)
            blocks.end(lease)
            lease.leave(lease.runtime.threads(), error)
            self._taken.exit(lease)
        except BaseException as problem:
            if lease is None:
                lease = self._taken.of_block(task=False)
            self._taken.forget(lease)
            if isinstance(problem, LocksmithError):
                raise
            lease.give_up()
            raise

    async def __aenter__(self) -> Lease:
        context = self._runtime.loop()
        lease = or_raise(await self._atake(context, self._attempt(context)))
        self._taken.enter(lease)
        blocks.begin(lease)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease = self._taken.of_block(task=True)
        self._taken.exit(lease)
        blocks.end(lease)
        await lease.aleave(lease.runtime.loop(), error)

    def _keep(self, lease: L) -> L:
        if lease is not None:
            lease.lent = True  # it may be handed to others, who give it back
            self._taken.add(lease)
        return lease

    def _attempt(
        self,
        context: Context,
        blocking: bool | None = None,
        blocking_timeout: conf.Seconds | None = None,
        token: str | None = None,
    ) -> Attempt:
        if "{" in self.key and not self.template and not self._cached_runtime.deployment().cluster:
            said_once.warn_of_braces(self.key)
        rules = self._cached_rules  # those of the runtime that the context was just taken from
        wait = rules.wait
        if blocking is not None or blocking_timeout is not None:
            wait = wait_this_time(rules, self._cached_runtime.settings, blocking, blocking_timeout)
        return attempt_at(context, self.key, rules, wait, token)

    def _take(self, context: Context, attempt: Attempt) -> Lease | LockBusy:
        return take(self._cached_runtime, context, self._cached_rules, attempt, self.template)

    def _atake(self, context: Context, attempt: Attempt) -> Coroutine[Any, Any, Lease | LockBusy]:
        return atake(self._cached_runtime, context, self._cached_rules, attempt, self.template)

    def _give_up(self, context: Context, attempt: Attempt) -> None:
        lease = give_up(self._cached_runtime, context, attempt)
        if lease is not None:
            self._taken.forget(lease)

    # ---- around a function

    @overload
    def __call__(self: Lock[Never], function: F) -> F: ...

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T | B]]: ...

    @overload
    def __call__(self, function: Callable[P, T]) -> Callable[P, T | B]: ...

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Decorate a function, sync or async: each call holds the lock.

        The lock's key is a template over the arguments of the call (`"import:{account_id}"`), by default the function's
        dotted name. When the lock is busy, the lock's `on_busy` decides.

        Args:
            function: any function but a generator, which would outlive the lock.

        Raises:
            TypeError, ValueError: what is wrong with the function or the template, when it is decorated.
        """

        def lock_of(key: str, template: str) -> Lock:
            return Lock(self._find_runtime, check_key(key), self._options, template)

        result: Any = decorated(function, self.key, self.template, lock_of)
        result.locksmith_lock = self
        return result

    def run(self, work: Callable[[Callable[[], bool]], T]) -> T | B:
        """Call a function while holding the lock.

        Args:
            work: gets `release`, by which it may give the lock back early.

        Returns:
            The function's result; when the lock is busy, what `on_busy` says.

        Raises:
            LockBusy, LockLost, LockUnavailable: as a `with` block does.
        """
        blocks.no_loop("an async def")
        context = self._runtime.threads()
        attempt = self._attempt(context)
        lease: Lease | LockBusy | None = None
        try:
            lease = self._take(context, attempt)
        except LocksmithError:
            raise
        except BaseException:
            self._give_up(context, attempt)
            raise
        if isinstance(lease, LockBusy):
            return self._on_busy(lease)  # type: ignore[no-any-return]  # B, as the overloads that made this lock say
        with lease:
            return done(work(lease.release))

    async def arun(self, work: Callable[[Callable[[], Awaitable[bool]]], Awaitable[T]]) -> T | B:
        """As `run`; `work` and the `release` it gets are awaited."""
        context = self._runtime.loop()
        lease = await self._atake(context, self._attempt(context))
        if isinstance(lease, LockBusy):
            instead = self._on_busy(lease)
            return await instead if inspect.isawaitable(instead) else instead  # type: ignore[no-any-return]  # B, too
        async with lease:
            return await work(lease.arelease)

    def _on_busy(self, busy: LockBusy) -> Any:
        on_busy = self._rules.on_busy
        if on_busy == "raise":
            raise busy
        if on_busy == "skip":
            return Skipped(busy.key, busy.holder)
        return on_busy(busy)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the lock {self.key!r} cannot be copied or pickled: send its key, and call locksmith(key) there"
        )

    def __repr__(self) -> str:
        return f"<Lock {self.key!r}: {self._rules}>"
