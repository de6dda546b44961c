"""The service: makes the locks and rate limits of `settings.LOCKSMITH`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, overload

from django.core.signals import setting_changed

from .. import conf
from ..rates import read_rate
from ..redis.key_names import check_key
from ..runtime.options import NO_OPTIONS, UNSET, Unset, check_template, options_of
from ..runtime.runtime import Runtime
from .functions import is_async
from .inspection import Inspection
from .lock import Lock
from .rate_limit import RateLimit
from .single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Literal

    from typing_extensions import Unpack

    from ..exceptions import LockBusy
    from ..records import Skipped
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
    slots: int | Sequence[str]
    template: str


class Locksmith(SingleFlight, Inspection):
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
            slots: how many may hold it at one time, from 1 to 10,000; or a list of names (up to 1,000): then each has
                one of these, `lease.slot`. All who use a key must mean the same.
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


locksmith = Locksmith()
