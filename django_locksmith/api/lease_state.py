"""How a lease stands, and what happens to it. Asks nobody: no I/O."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from math import inf
from typing import TYPE_CHECKING, Literal, NoReturn

from .. import clock, forks, signals
from ..exceptions import LockLost
from ..redis.key_names import decode
from ..runtime.expiry import tell_in_thread
from ..runtime.runtime import process
from . import said_once
from .loss import news_of_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Self

    from ..redis.messages import Attempt
    from ..runtime.contexts import Context
    from ..runtime.options import Rules
    from ..runtime.runtime import Runtime

_WORTH_TELLING = 0.05
"""Seconds."""
State = Literal["held", "leaving", "unanswered", "lost", "over"]
"""`leaving`: a release is under way; `unanswered`: one got no answer, and may be tried again."""
# For the few lines in which a lease changes its state. A signal handler may come in between, and use locks, too: so
# that, as each lock of ours that is held while Python code runs, it may be taken again.
changing = threading.RLock()


def nobody() -> None:
    """Where a lease was handed over."""


class LeaseState:
    """What a lease knows without asking. Its holder sees `Lease`."""

    __slots__ = (
        "__weakref__",
        "_context",
        "_deadline",
        "_generation",
        "_owner",
        "_rules",
        "_since",
        "_state",
        "_waits_for_commit",
        "_watched",
        "_why",
        "attempt",
        "changes",
        "fence",
        "hold_until",
        "key",
        "lent",
        "name",
        "renew_at",
        "runtime",
        "template",
        "timeout",
    )

    def __init__(self, runtime: Runtime, context: Context, rules: Rules, attempt: Attempt, template: str) -> None:
        # Made before the lock is asked for, so that a waiter loses no time when it gets the lock.
        self.attempt = attempt
        self.template = template
        self.key = attempt.names.key
        self.name = attempt.names.lock  # in Redis
        self.timeout = attempt.lease
        # A task that failed has its traceback, and that has us: without a weak reference we would outlive it.
        caller = context.caller()
        self._owner = nobody if caller is None else weakref.ref(caller)
        self.lent = False
        self.runtime = runtime
        self._context = context
        self._rules = rules
        self._why = ""
        self._state: State = "over"

    def begin(self, fence: int, since: float, deadline: float) -> Self:
        """The lock was granted, at this time or before (monotonic seconds)."""
        self.fence = fence
        self._since = since
        self._deadline = deadline
        self._generation = forks.state.generation
        self._state = "held"
        self.changes = 0
        self._waits_for_commit = False
        heard = signals.lost.receivers or signals.lost.observers
        self._watched = bool(self._rules.renew or heard or callable(self._rules.on_lost))
        self.runtime.held.add(self)  # from here on it can be found, and must be whole
        if self._watched:
            self._keep()
        return self

    @property
    def owner(self) -> object:
        """The thread or task that has taken it; `None` if that is gone, or has handed it over."""
        return self._owner()

    @property
    def detached(self) -> bool:
        """Whether it was handed over."""
        return self._owner is nobody

    @property
    def shared(self) -> bool:
        """Whether it is of one of several slots, and others may be held beside it."""
        return self.attempt.names.slots is not None

    @property
    def slot(self) -> str:
        """Which slot it is of, where they have names (`slots=["a", "b"]`); else empty."""
        return self.attempt.slot

    @property
    def token(self) -> str:
        """What stands in Redis while the lock is held."""
        return decode(self.attempt.token)

    def _keep(self) -> None:
        rules = self._rules
        self.renew_at = inf  # set by the renewer
        self.hold_until = inf if rules.max_hold is None else self._since + rules.max_hold
        process.watch.add(self)
        if rules.renew:
            self.runtime.renewer().add(self)

    # ---- how it stands: no I/O

    @property
    def deadline(self) -> float:
        """Until when the lock is surely held, by `django_locksmith.clock.now()`: seconds as of `time.monotonic()`, but
        they go on while the machine is suspended."""
        return self._deadline

    @property
    def held(self) -> bool:
        """Whether the lock is surely still ours. Asks only the clock, and is always a little ahead of Redis."""
        return self._state == "held" and self._is_in_time()

    def _is_in_time(self) -> bool:
        return clock.now() < self._deadline and self._generation == forks.generation()

    @property
    def remaining(self) -> float:
        """Seconds for which the lock is surely still ours; 0 if it is not. Asks only the clock."""
        return max(0.0, self._deadline - clock.now()) if self.held else 0.0

    @property
    def lost(self) -> bool:
        """Whether it ended against our will."""
        return self._state == "lost" or (self._state == "held" and not self.held)

    def ensure_held(self) -> None:
        """Go on only if the lock is surely still ours. Asks only the clock; call it before what must not run twice.

        Raises:
            LockLost: it is not.
        """
        if not self.held:
            raise self._loss()

    def _loss(self) -> LockLost:
        if self._generation != forks.generation():
            why = "it belongs to the process that this one was forked from"
        elif self._state in ("leaving", "unanswered", "over"):
            why = "it was released before"
        else:
            why = self._why or self._ran_out
            if why == self._ran_out:
                why += self._overrun()
        return LockLost(self.key, why)

    @property
    def _ran_out(self) -> str:
        return f"its lease of {self.timeout:g} s ran out"

    def _overrun(self) -> str:
        late = clock.now() - self._deadline
        since = f" {late:.1f} s ago" if late >= _WORTH_TELLING else ""
        return since if self._rules.renew else f"{since}; give it a longer timeout, or renew=True"

    @property
    def over(self) -> bool:
        """Whether nothing is left to release: it was released, or is known to be lost."""
        return self._state in ("over", "lost")

    def __del__(self) -> None:
        # Ctrl-C may have hit its own making.
        if getattr(self, "_state", "over") not in ("held", "leaving") or sys.is_finalizing() or not self._is_in_time():
            return
        if self.lent and self._state == "held":
            said_once.warn_once(said_once.DROPPED, self.template or self.key)
            if self.runtime.substitute is None:  # whose tests look for what is left themselves
                warnings.warn(
                    f"{self!r} was dropped without being released", ResourceWarning, stacklevel=2, source=self
                )
        else:
            # Its block is over, or its release was, and was interrupted before the line that could have seen to it.
            self._context.store.abandon_later(self.attempt)

    @property
    def waits_for_commit(self) -> bool:
        """Whether it has been released inside of a transaction, whose end it waits for."""
        return self._waits_for_commit

    # ---- what happens to it

    def prolong(self, deadline: float, changes: int) -> None:
        """It was renewed until then (monotonic seconds); `changes` as it was when that was asked for."""
        self._move_deadline(deadline, changes)

    def expire(self) -> Callable[[], None] | None:
        """Called when its deadline has come, unless that has moved meanwhile.

        Returns what tells of the loss, for another thread to call, if somebody wants to hear of it.
        """
        if clock.now() >= self._deadline:
            return self._end(self._ran_out)
        if self._state == "held":
            process.watch.add(self)
        return None

    def disown(self) -> None:
        """The caller gave up in the moment of the grant: nobody has this lease."""
        self._state = "over"
        self.runtime.held.remove(self)
        if self._watched:
            self._unwatch()

    def lose(self, why: str, tell_all: Callable[[Sequence[Callable[[], None]]], object] = tell_in_thread) -> None:
        """It is not ours any more: tell everybody who wants to know, once, by way of `tell_all`."""
        if tell := self._end(why):
            tell_all([tell])

    def _end(self, why: str, state: State = "held") -> Callable[[], None] | None:
        with changing:
            # While it is being released, only the release says what became of it.
            if self._state != state or self._generation != forks.generation():
                return None
            self._state = "lost"
            self._why = why
        self.runtime.held.remove(self)
        if not self._watched:
            return None
        self._unwatch()
        return news_of_loss(self, why, self._rules.on_lost, self._context)

    def _move_deadline(self, deadline: float, changes: int) -> None:
        with changing:
            if self._state != "held":
                return
            if changes != self.changes:  # something else was asked for meanwhile, and who came first is not known
                deadline = min(deadline, self._deadline)
            nearer, self._deadline = deadline < self._deadline, deadline
        if nearer and self._watched:
            process.watch.add(self)

    def _unwatch(self) -> None:
        process.watch.remove(self)
        if self._rules.renew:
            self.runtime.renewer().remove(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the lease of {self.key!r} is of this process, and cannot be copied or pickled; there is one")

    def __repr__(self) -> str:
        if not hasattr(self, "fence"):
            return f"<Lease of {self.key!r}: not granted>"
        return f"<Lease of {self.key!r}: {self._state}, fence {self.fence}, {self.remaining:.1f} s remaining>"
