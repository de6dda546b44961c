"""The service: `locksmith(key)` for the locks of `settings.LOCKSMITH`, and a look at those that are held."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar, overload

from django.core.signals import setting_changed

from . import conf, protocol, signals
from .bridge import run_sync
from .compute_once import SingleFlight
from .lock import Lock, is_async
from .names import check_key
from .records import LockInfo
from .workshop import NO_OPTIONS, UNSET, Unset, Workshop, options_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine
    from typing import Literal

    from .exceptions import LockBusy
    from .lease import Lease
    from .workshop import Face

T = TypeVar("T")


class Locksmith(SingleFlight):
    """Makes locks, and has values of caches computed once. `django_locksmith.locksmith` is for `settings.LOCKSMITH`.

    Another one takes the same settings by lower-case names, each overriding `settings.LOCKSMITH`:
    `Locksmith(redis="other", prefix="billing:", timeout=30)`. Settings are read at the first use.
    """

    def __init__(self, **settings: Any) -> None:
        self._overrides = settings
        self._workshop: Workshop | None = None
        setting_changed.connect(self._on_setting_changed)

    def _on_setting_changed(self, *, setting: str, **kwargs: Any) -> None:
        if setting in ("LOCKSMITH", "CACHES"):
            self._workshop = None

    def workshop(self) -> Workshop:
        """What the locks of the settings in force share."""
        workshop = self._workshop
        if workshop is None:
            workshop = self._workshop = Workshop(conf.read_settings(self._overrides))
        return workshop

    @property
    def settings(self) -> conf.Settings:
        """The settings in force. Raises `ImproperlyConfigured` that names the setting at fault."""
        return self.workshop().settings

    @overload
    def __call__(
        self,
        key: str = "",
        callback: None = None,
        /,
        *,
        timeout: conf.Seconds | Unset = UNSET,
        blocking: bool | Unset = UNSET,
        blocking_timeout: conf.Seconds | Unset | None = UNSET,
        renew: bool | Unset = UNSET,
        max_hold: conf.Seconds | Unset | None = UNSET,
        on_busy: Literal["raise", "skip"] | Callable[[LockBusy], Any] = "raise",
        on_lost: Literal["raise", "log"] | Callable[[Lease], Any] = "raise",
        label: str = "",
        release: Literal["now", "commit"] = "now",
        template: str = "",
    ) -> Lock: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], Awaitable[bool]]], Coroutine[Any, Any, T]],
        /,
        *,
        timeout: conf.Seconds | Unset = UNSET,
        blocking: bool | Unset = UNSET,
        blocking_timeout: conf.Seconds | Unset | None = UNSET,
        renew: bool | Unset = UNSET,
        max_hold: conf.Seconds | Unset | None = UNSET,
        on_busy: Literal["raise", "skip"] | Callable[[LockBusy], Any] = "raise",
        on_lost: Literal["raise", "log"] | Callable[[Lease], Any] = "raise",
        label: str = "",
        release: Literal["now", "commit"] = "now",
        template: str = "",
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def __call__(
        self,
        key: str,
        callback: Callable[[Callable[[], bool]], T],
        /,
        *,
        timeout: conf.Seconds | Unset = UNSET,
        blocking: bool | Unset = UNSET,
        blocking_timeout: conf.Seconds | Unset | None = UNSET,
        renew: bool | Unset = UNSET,
        max_hold: conf.Seconds | Unset | None = UNSET,
        on_busy: Literal["raise", "skip"] | Callable[[LockBusy], Any] = "raise",
        on_lost: Literal["raise", "log"] | Callable[[Lease], Any] = "raise",
        label: str = "",
        release: Literal["now", "commit"] = "now",
        template: str = "",
    ) -> T: ...

    def __call__(
        self,
        key: str = "",
        callback: Callable[[Callable[[], Any]], Any] | None = None,
        /,
        **options: Any,
    ) -> Any:
        """A `Lock`; with a callback: take it, call `callback(release)`, release it if that has not, return the result.

        `timeout`: the lease, seconds: how long a dead holder can block others. `blocking`, `blocking_timeout`: whether
        and how long to wait, seconds; `None` = without limit. `renew`: keep the lease alive as long as its holder
        lives, `max_hold` seconds at most. What is not given is as in `settings.LOCKSMITH`.

        `on_busy`: what a decorated function, or the callback form, does when the lock is busy: "raise" `LockBusy`,
        "skip" (return a falsy `Skipped`), or a callable that gets the `LockBusy` and whose result is returned.
        `on_lost`: what the end of the block does when the lease was lost in it: "raise" `LockLost`, or "log"; or a
        callable that gets the lease, is called as soon as it is lost (in a thread of its own; in its event loop if a
        task took it), and `LockLost` is raised all the same. `release`: inside of `transaction.atomic()`, "commit" lets
        a release wait until the outermost block has been committed or rolled back. `label`: who one is, for
        `locksmith_list`; default the program's name. `template`: what the lock is called in metrics, where its key has
        too many values; of a decorated function, the key's template.

        With a callback that is a coroutine function, the call is to be awaited.

        Raises `TypeError` or `ValueError` that name the argument at fault. Redis is not asked before the lock is taken.
        """
        if options:
            template = options.pop("template", "")
            if not isinstance(template, str):
                raise TypeError(f"template must be a str, not {template!r}")
            lock = Lock(self, check_key(key), options_of(options), template)
        else:
            lock = Lock(self, check_key(key), NO_OPTIONS)
        if callback is None:
            return lock
        if not callable(callback):
            raise TypeError(f"callback must be a function that takes `release`, not {callback!r}")
        return lock.arun(callback) if is_async(callback) else lock.run(callback)

    # ---- looking in

    def locks(self, pattern: str = "*") -> list[LockInfo]:
        """The locks that are held now and whose key matches the shell pattern (`*`, `?`, `[abc]`), by key.

        On one server, locks set by other software are not among them (`info` knows them); on a cluster all keys with
        our prefix are. Changes nothing. Raises `LockUnavailable`.
        """
        return run_sync(self._locks(self.workshop().threads(), pattern))

    async def alocks(self, pattern: str = "*") -> list[LockInfo]:
        """As `locks`."""
        return await self._locks(self.workshop().loop(), pattern)

    async def _locks(self, face: Face, pattern: str) -> list[LockInfo]:
        return await protocol.list_locks(face.store, lambda key: fnmatchcase(key, pattern))

    def info(self, key: str = "") -> LockInfo | None:
        """One lock as it is now, `None` if nobody holds it. Changes nothing. Raises `LockUnavailable`."""
        return run_sync(self._info(self.workshop().threads(), key))

    async def ainfo(self, key: str = "") -> LockInfo | None:
        """As `info`."""
        return await self._info(self.workshop().loop(), key)

    async def _info(self, face: Face, key: str) -> LockInfo | None:
        return await protocol.look(face.store, face.store.names(check_key(key)))

    def clear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """Take locks from their holders; those that were taken, as they were seen before.

        Give `LockInfo`s as `locks()` or `info()` returned them, keys, or a `pattern` (`"*"` for all). A lock is only
        taken from the holder that was seen: whoever got it meanwhile keeps it. Its waiters go on at once; its old
        holder gets `LockLost` when it next asks Redis. Raises `LockUnavailable`.
        """
        return run_sync(self._clear(self.workshop().threads(), locks, pattern))

    async def aclear(self, *locks: LockInfo | str, pattern: str | None = None) -> list[LockInfo]:
        """As `clear`."""
        return await self._clear(self.workshop().loop(), locks, pattern)

    async def _clear(self, face: Face, locks: Collection[LockInfo | str], pattern: str | None) -> list[LockInfo]:
        seen = [] if pattern is None else await self._locks(face, pattern)
        for lock in locks:
            if not isinstance(lock, (str, LockInfo)):
                raise TypeError(f"clear takes keys and LockInfos, not {lock!r}")
            info = await self._info(face, lock) if isinstance(lock, str) else lock
            if info is not None and info not in seen:
                seen.append(info)
        cleared = []
        for info in seen:
            # Between two holders there is nobody to take it from.
            if info.holder is not None and await protocol.clear(face.store, info.key, info.holder.token):
                cleared.append(info)
                await face.tell(signals.cleared, info=info)
        return cleared


locksmith = Locksmith()
