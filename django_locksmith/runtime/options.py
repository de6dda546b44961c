"""What a caller may say of a lock, and the rules that follow from it and from the settings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .. import conf
from ..redis.key_names import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..exceptions import LockBusy


@dataclass(frozen=True)
class Rules:
    """How a lock is to be taken and kept. Times in seconds.

    `timeout`: the lease. `wait`: longest wait, `None` = without limit, 0 = not at all. `release`: whether a release
    inside of a database transaction waits for its end. `slots`: how many may hold it; `None`: one.
    """

    timeout: float
    wait: float | None
    renew: bool = False
    max_hold: float | None = None
    on_busy: Literal["raise", "skip"] | Callable[[LockBusy], Any] = "raise"
    on_lost: Literal["raise", "log"] | Callable[[Any], Any] = "raise"
    label: str = ""
    release: Literal["now", "commit"] = "now"
    slots: Slots | None = None


_MOST_SLOTS = 10_000
_MOST_NAMES = 1000
"""So many numbers stand in Redis beside the end of a lease, in what a millisecond leaves of a floating-point number."""


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
    slots: Any = 1


NO_OPTIONS = Options()


def options_of(given: dict[str, Any]) -> Options:
    """What a caller said by name. Raises `TypeError` that names an option that does not exist."""
    unknown = given.keys() - set(Options._fields)
    if unknown:
        has = ", ".join((*Options._fields, "template"))
        raise TypeError(f"a lock has no option {min(unknown)!r}; it has {has}")
    return Options(**given)


def check_template(template: Any) -> str:
    """The name in metrics. Raises `TypeError` or `ValueError` for what cannot be one."""
    if not isinstance(template, str):
        raise TypeError(f"template must be a str, not {template!r}")
    try:
        template.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"template {template!r} cannot be written as UTF-8: {error.reason}") from error
    return str.__str__(template)


_USUAL_CHOICES = NO_OPTIONS[5:]


class Defaults:
    """The rules that follow from the settings, and from what a caller says over them. Each is worked out once."""

    def __init__(self, settings: conf.Settings) -> None:
        self._base = Rules(settings.timeout, settings.blocking_timeout, settings.renew, settings.max_hold)
        self._cached_numbers = lru_cache(maxsize=256, typed=True)(self._checked_numbers)

    def rules_for(self, options: Options) -> Rules:
        """The settings, and over them what was given. Raises `TypeError` or `ValueError` that name the argument."""
        if options is NO_OPTIONS:
            return self._base
        rules = self._numbers(*options[:5])
        if options[5:] == _USUAL_CHOICES and type(options.slots) is int:  # True is 1, and no number of slots
            return rules
        return _with_choices(rules, options)

    def _numbers(self, *numbers: Any) -> Rules:
        try:
            return self._cached_numbers(*numbers)
        except TypeError:
            return self._checked_numbers(*numbers)  # what cannot be cached is at fault, and gets its name

    def _checked_numbers(self, timeout: Any, blocking: Any, blocking_timeout: Any, renew: Any, max_hold: Any) -> Rules:
        base = self._base
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
    try:
        label.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"label {label!r} cannot be written as UTF-8: {error.reason}") from error
    label = str.__str__(label)
    if release not in ("now", "commit"):
        raise ValueError(f"release must be 'now' or 'commit', not {release!r}")
    slots = slots_of(options.slots)
    return replace(rules, on_busy=on_busy, on_lost=on_lost, label=label, release=release, slots=slots)


def slots_of(given: Any) -> Slots | None:
    """How many may hold a lock; `None`: one. Raises `TypeError` or `ValueError` that say what is wrong with it."""
    if isinstance(given, bool) or not isinstance(given, (int, list, tuple)):
        raise TypeError(f"slots must be a number, or a list of names, not {given!r}")
    if isinstance(given, int):
        if not 1 <= given <= _MOST_SLOTS:
            raise ValueError(f"slots must be from 1 to {_MOST_SLOTS:,}, not {given!r}")
        return None if given == 1 else Slots(int(given))
    for name in given:
        if not isinstance(name, str) or not name:
            raise TypeError(f"slots must be a list of names that are not empty, not {given!r}")
    return _named_slots(tuple(map(str.__str__, given)))


@lru_cache(maxsize=256)
def _named_slots(names: tuple[str, ...]) -> Slots:
    if not 1 <= len(names) <= _MOST_NAMES:
        raise ValueError(f"slots must be a list of 1 to {_MOST_NAMES:,} names, not of {len(names):,}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"slots has the name {twice!r} twice")
    return Slots(len(names), names, json.dumps(names).encode())
