"""The service: makes the locks of `settings.LOCKSMITH`, lists those that are held, and takes them away."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, overload

from django.core.signals import setting_changed

from .. import conf, signals
from ..policy import locks as lock_policy
from ..policy import rate_limits as rate_policy
from ..policy.sync_bridge import run_sync
from ..rates import read_rate
from ..records import LockInfo, RateInfo, Skipped
from ..redis.key_names import check_key
from ..runtime.options import NO_OPTIONS, UNSET, Unset, check_template, options_of
from ..runtime.runtime import Runtime
from .functions import is_async
from .lock import Lock
from .rate_limit import RateLimit
from .single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine
    from typing import Literal

    from typing_extensions import Unpack

    from ..exceptions import LockBusy
    from ..runtime.contexts import Context
    from .lease import Lease

T = TypeVar("T")


class LockOptions(TypedDict, total=False):
    """How a lock is to be taken and kept; `Locksmith` says what each means."""

    timeout: conf.Seconds | Unset
    blocking: bool | Unset
    blocking_timeout: conf.Seconds | Unset | None
    renew: bool | Unset
    max_hold: conf.Seconds | Unset | None
    on_lost: Literal["raise", "log"] | Callable[[Lease], Any]
    label: str
    release: Literal["now", "commit"]
    template: str


class Locksmith(SingleFlight):
    """Makes locks, and has values of caches computed once. `django_locksmith.locksmith` is for `settings.LOCKSMITH`.

    Another one has settings of its own: `Locksmith(redis="other", prefix="billing:", timeout=30)`. Settings are read at
    the first use.

    Args:
        **settings: the settings by lower-case names, each over that of `settings.LOCKSMITH`.
    """

    def __init__(self, **settings: Unpack[conf.GivenSettings]) -> None:
        self._overrides = settings
        self._runtime: Runtime | None = None
        setting_changed.connect(self._on_setting_changed)

    def _on_setting_changed(self, *, setting: str, **kwargs: Any) -> None:
        if setting in ("LOCKSMITH", "CACHES"):
            self._runtime = None

    def runtime(self) -> Runtime:
        """What the locks of the settings in force share. Not for users."""
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = Runtime(conf.read_settings(self._overrides))
        return runtime

    @property
    def settings(self) -> conf.Settings:
        """The settings in force.

        Raises:
            ImproperlyConfigured: names the setting at fault.
        """
        return self.runtime().settings

    @overload
    def __call__(
        self,
        key: str = "",
        callback: None = None,
        /,
        *,
        on_busy: Literal["raise"] = "raise",
        **options: Unpack[LockOptions],
    ) -> Lock: ...

    @overload
    def __call__(
        self, key: str = "", callback: None = None, /, *, on_busy: Literal["skip"], **options: Unpack[LockOptions]
    ) -> Lock[Skipped]: ...

    @overload
    def __call__(
        self,
        key: str = "",
        callback: None = None,
        /,
        *,
        on_busy: Callable[[LockBusy], Any],
        **options: Unpack[LockOptions],
    ) -> Lock[Any]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], Awaitable[bool]]], Coroutine[Any, Any, T]],
        /,
        *,
        on_busy: Literal["raise"] = "raise",
        **options: Unpack[LockOptions],
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], Awaitable[bool]]], Coroutine[Any, Any, T]],
        /,
        *,
        on_busy: Literal["skip"],
        **options: Unpack[LockOptions],
    ) -> Coroutine[Any, Any, T | Skipped]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], Awaitable[bool]]], Coroutine[Any, Any, T]],
        /,
        *,
        on_busy: Callable[[LockBusy], Any],
        **options: Unpack[LockOptions],
    ) -> Coroutine[Any, Any, T | Any]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], bool]], T],
        /,
        *,
        on_busy: Literal["raise"] = "raise",
        **options: Unpack[LockOptions],
    ) -> T: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], bool]], T],
        /,
        *,
        on_busy: Literal["skip"],
        **options: Unpack[LockOptions],
    ) -> T | Skipped: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], bool]], T],
        /,
        *,
        on_busy: Callable[[LockBusy], Any],
        **options: Unpack[LockOptions],
    ) -> T | Any: ...

    def __call__(
        self,
        key: str = "",
        callback: Callable[[Callable[[], Any]], Any] | None = None,
        /,
        **options: Any,
    ) -> Any:
        """Make a lock; or, with a callback, run it while holding the lock.

        The callback form takes the lock, calls `callback(release)`, releases the lock unless the callback did, and
        returns the callback's result. Where the callback is a coroutine function, the call is to be awaited. Redis is
        not asked before the lock is taken.

        Args:
            key: what the lock is called; of a decorator, a template over the arguments of the call.
            callback: a function that takes `release`, sync or async.
            timeout: the lease, seconds: for so long a dead holder can block others.
            blocking: whether to wait for a busy lock.
            blocking_timeout: how long to wait, seconds; `None` = without limit.
            renew: whether to keep the lease alive for as long as its holder lives.
            max_hold: how long renewal goes on, seconds; `None` = without limit.
            on_busy: what a decorated function and the callback form do when the lock is busy: "raise" raises
                `LockBusy`, "skip" returns a falsy `Skipped`; a callable gets the `LockBusy`, and its result is
                returned.
            on_lost: what the end of the block does when the lease was lost in it: "raise" raises `LockLost`, "log" logs
                it. A callable gets the lease as soon as it is lost, in a thread of its own (in its event loop if a task
                took it); `LockLost` is raised all the same.
            label: who takes it, for `locksmith_list`; default the program's name.
            release: "now", or "commit": inside of `transaction.atomic()`, a release then waits until the outermost
                block has been committed or rolled back.
            template: what the lock is called in metrics, where its key has too many values; of a decorated function,
                default its key.

            What is not given is as in `settings.LOCKSMITH`.

        Returns:
            A `Lock`; with a callback, its result.

        Raises:
            TypeError, ValueError: name the argument at fault.
            LockBusy, LockLost, LockUnavailable: in the callback form, as a `with` block does.
        """
        if options:
            template = check_template(options.pop("template", ""))
            lock = Lock(self.runtime, check_key(key), options_of(options), template)
        else:
            lock = Lock(self.runtime, check_key(key), NO_OPTIONS)
        if callback is None:
            return lock
        if not callable(callback):
            raise TypeError(f"callback must be a function that takes `release`, not {callback!r}")
        return lock.arun(callback) if is_async(callback) else lock.run(callback)

    def rate_limit(
        self,
        name: str,
        rate: str | None = None,
        *,
        blocking_timeout: conf.Seconds | Unset | None = UNSET,
        caution: conf.Seconds | Unset = UNSET,
    ) -> RateLimit:
        """Make a rate limit: so many calls in so many seconds, for all servers together.

        Redis is not asked before a place is taken. All who use a name must mean the same rate.

        Args:
            name: what it is called; of a decorator, a template over the arguments of the call
                (`"github:{token_id}"`).
            rate: as `"15/15m"` or `"20/s, 1000/h"` (s, m, h, d): all windows hold. Default, that of
                `LOCKSMITH["RATE_LIMITS"]`.
            blocking_timeout: how long to wait for a place, seconds; `None` = without limit.
            caution: seconds that are kept beyond each window; default, `LOCKSMITH["RATE_CAUTION"]`, 0.02.

        Returns:
            A `RateLimit`.

        Raises:
            TypeError, ValueError: name the argument at fault.
        """
        name = check_key(name)
        if not name:
            raise ValueError("a rate limit needs a name")
        known = self.settings.rate_limits
        if rate is not None:
            read = read_rate(rate, "rate")
        elif name in known:
            read = known[name]
        else:
            has = ", ".join(map(repr, known)) or "none"
            raise ValueError(f"LOCKSMITH['RATE_LIMITS'] has no {name!r} (it has {has}); name it there, or give a rate")
        wait: float | Unset | None = UNSET
        if not isinstance(blocking_timeout, Unset):
            wait = conf.wait_seconds("blocking_timeout", blocking_timeout)
        spare = caution if isinstance(caution, Unset) else conf.caution_seconds("caution", caution)
        return RateLimit(self.runtime, name, read, wait, spare)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Locksmith is of this process, and cannot be copied or pickled: make one there")

    # ---- looking in

    def locks(self, pattern: str = "*") -> list[LockInfo]:
        """The locks that are held now. Changes nothing.

        On one server, locks set by other software are not among them (`info` knows them); on a cluster all keys with
        our prefix are.

        Args:
            pattern: a shell pattern (`*`, `?`, `[abc]`) that keys have to match.

        Returns:
            A `LockInfo` for each, sorted by key.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(self._locks(self.runtime().threads(), pattern))

    async def alocks(self, pattern: str = "*") -> list[LockInfo]:
        """As `locks`."""
        return await self._locks(self.runtime().loop(), pattern)

    async def _locks(self, context: Context, pattern: str) -> list[LockInfo]:
        if not isinstance(pattern, str):
            raise TypeError(f"pattern must be a str, not {pattern!r}")
        return await lock_policy.list_locks(context.store, lambda key: fnmatchcase(key, pattern))

    def rate_limits(self, pattern: str = "*") -> list[RateInfo]:
        """The rate limits that have been used within their windows, or are paused. Changes nothing.

        Args:
            pattern: a shell pattern (`*`, `?`, `[abc]`) that names have to match.

        Returns:
            A `RateInfo` for each, sorted by name.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(self._rate_limits(self.runtime().threads(), pattern))

    async def arate_limits(self, pattern: str = "*") -> list[RateInfo]:
        """As `rate_limits`."""
        return await self._rate_limits(self.runtime().loop(), pattern)

    async def _rate_limits(self, context: Context, pattern: str) -> list[RateInfo]:
        if not isinstance(pattern, str):
            raise TypeError(f"pattern must be a str, not {pattern!r}")
        return await rate_policy.list_limits(context.rates, lambda name: fnmatchcase(name, pattern))

    def info(self, key: str = "") -> LockInfo | None:
        """One lock as it is now. Changes nothing.

        Returns:
            Its `LockInfo`; `None` if nobody holds it.

        Raises:
            LockUnavailable: Redis gave no usable answer.
        """
        return run_sync(self._info(self.runtime().threads(), key))

    async def ainfo(self, key: str = "") -> LockInfo | None:
        """As `info`."""
        return await self._info(self.runtime().loop(), key)

    async def _info(self, context: Context, key: str) -> LockInfo | None:
        return await lock_policy.look(context.store, context.store.names(check_key(key)))

    def clear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """Take locks from their holders.

        A lock is only taken from the holder that was seen: if somebody else has got it meanwhile, it stays there. Its
        waiters go on at once; its old holder gets `LockLost` when it next asks Redis.

        Args:
            *locks: `LockInfo`s as `locks()` or `info()` returned them, or keys.
            pattern: a shell pattern of keys; `"*"` for all.

        Returns:
            Those that were taken, as they were seen before.

        Raises:
            LockUnavailable: Redis gave no usable answer; some may have been taken.
        """
        return run_sync(self._clear(self.runtime().threads(), locks, pattern))

    async def aclear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """As `clear`."""
        return await self._clear(self.runtime().loop(), locks, pattern)

    async def _clear(self, context: Context, locks: Collection[LockInfo | str], pattern: str | None) -> list[LockInfo]:
        seen = dict.fromkeys([] if pattern is None else await self._locks(context, pattern))
        for lock in locks:
            if not isinstance(lock, (str, LockInfo)):
                raise TypeError(f"clear takes keys and LockInfos, not {lock!r}")
            if isinstance(lock, str):
                info = await self._info(context, lock)
            else:
                info = replace(lock, key=check_key(lock.key))
            if info is not None:
                seen.setdefault(info)
        cleared = []
        for info in seen:
            # Between two holders there is nobody to take it from.
            if info.holder is not None and await lock_policy.clear(context.store, info.key, info.holder.token):
                cleared.append(info)
                await context.tell(signals.cleared, info=info)
        return cleared


locksmith = Locksmith()
