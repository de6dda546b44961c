"""`override_locks`: Django's way to have something else in force for a block, a function or a class of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.test.utils import TestContextDecorator, override_settings

from .. import conf
from ..api.service import locksmith
from ..redis.connections import check_deployment
from ..redis.key_names import check_key
from ..runtime.runtime import process
from .held import assert_locked, assert_no_locks_left, assert_not_locked, lose_now
from .substitute import LocksOfOneTest

if TYPE_CHECKING:
    from collections.abc import Iterable


class LocksInMemory:
    """The locks of one test, as `override_locks` and the pytest fixture `locksmith_memory` hand them out."""

    def __init__(self, substitute: LocksOfOneTest) -> None:
        self._substitute = substitute

    def busy(self, *keys: str) -> None:
        """From now on these locks are held by somebody else; see `override_locks`. Raises `ValueError` if they cannot,
        because the test itself holds one."""
        self._substitute.occupy(_checked(keys))

    def free(self, *keys: str) -> None:
        """They are not, any more. Raises `ValueError` for what was not said to be busy, in the same words."""
        self._substitute.vacate(keys)

    def pass_time(self, seconds: conf.Seconds) -> None:
        """As if so many seconds had passed for the schedules of all rate limits: whoever sleeps for a place that comes
        in this time wakes up. Leases, values and errors that are kept stay as they are."""
        passed = conf.hold_seconds("seconds", seconds)
        if passed is None:
            raise TypeError("pass_time takes seconds, not None")
        self._substitute.pass_time(passed)

    @property
    def autojump(self) -> bool:
        """Whoever would sleep for a place has that time pass instead; see `override_locks`. May be set."""
        return self._substitute.autojump

    @autojump.setter
    def autojump(self, wanted: bool) -> None:
        self._substitute.autojump = conf.flag("autojump", wanted)

    @property
    def time_passed(self) -> float:
        """Seconds in all that were made to pass, by `pass_time` and `autojump`."""
        return self._substitute.time_passed

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
        autojump: whoever would sleep for his place in a rate limit has that time pass for all schedules instead, and
            goes on at once. `time_passed` says how much it was.
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
        autojump: bool = False,
        attr_name: str | None = None,
        kwarg_name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(attr_name, kwarg_name)
        if "redis" in settings:
            raise TypeError("override_locks takes no redis: its locks are in memory")
        self._busy = _checked(busy)
        self._autojump = conf.flag("autojump", autojump)
        self._settings = settings
        self._open: list[tuple[LocksOfOneTest, override_settings]] = []

    def enable(self) -> LocksInMemory:
        conf.read_settings(self._settings)  # names what is wrong
        check_deployment("memory://")
        given = getattr(django_settings, "LOCKSMITH", None) or {}
        override = override_settings(LOCKSMITH=given | {name.upper(): value for name, value in self._settings.items()})
        substitute = LocksOfOneTest(self._busy, autojump=self._autojump)
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
