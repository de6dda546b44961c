"""A lease: one holding of a lock."""

from __future__ import annotations

import logging
import sys
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Literal

from .. import conf, forks, signals
from ..exceptions import LockLost, LockUnavailable
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..redis.key_names import decode
from ..runtime import transactions
from ..runtime.expiry import tell_in_thread
from ..runtime.runtime import process
from . import said_once
from .loss import news_of_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper
    from typing_extensions import Self

    from ..redis.messages import Attempt
    from ..runtime.contexts import Context
    from ..runtime.options import Rules
    from ..runtime.runtime import Runtime

logger = logging.getLogger("django_locksmith.lock")

_State = Literal["held", "leaving", "unanswered", "lost", "over"]
"""`leaving`: a release is under way; `unanswered`: one got no answer, and may be tried again."""
_changing = threading.Lock()  # for the few lines in which a lease changes its state


class Lease:
    """One holding of a lock, from its grant to its end. It may be handed to other threads and tasks.

    Always true, so that `if lease := lock.acquire(blocking=False)` reads well. As a context manager it is released at
    the end of the block, as by `with lock`.

    Attributes:
        key: the lock's key.
        token: what stands in Redis.
        fence: an integer, larger than that of every earlier grant, for data that refuses a smaller one.
        timeout: seconds it was granted for.
        template: what the lock is called in metrics; "" if it has no such name.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_deadline",
        "_generation",
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
        "owner",
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
        self.timeout = attempt.lease
        self.owner = context.caller()
        self.runtime = runtime
        self._context = context
        self._rules = rules
        self._why = ""
        self._state: _State = "over"

    def begin(self, fence: int, since: float, deadline: float) -> Self:
        """The lock was granted, at this time or before (monotonic seconds)."""
        self.fence = fence
        self._since = since
        self._deadline = deadline
        self._generation = forks.state.generation
        self._state = "held"
        self.changes = 0
        self._waits_for_commit = False
        self._watched = self._rules.renew or signals.lost.wanted or callable(self._rules.on_lost)
        self.runtime.held.add(self)  # from here on it can be found, and must be whole
        if self._watched:
            self._keep()
        return self

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
        """Until when the lock is surely held, on the clock of `time.monotonic()`."""
        return self._deadline

    @property
    def held(self) -> bool:
        """Whether the lock is surely still ours. Asks only the clock, and is always a little ahead of Redis."""
        return self._state == "held" and time.monotonic() < self._deadline and self._generation == forks.generation()

    @property
    def remaining(self) -> float:
        """Seconds for which the lock is surely still ours; 0 if it is not. Asks only the clock."""
        return max(0.0, self._deadline - time.monotonic()) if self.held else 0.0

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
        return LockLost(self.key, why)

    # ---- what its holder does

    def extend(self, additional_time: conf.Seconds | None = None, replace_ttl: bool = False) -> None:
        """Prolong the lease; without arguments, start it again.

        Args:
            additional_time: seconds to add to the lease.
            replace_ttl: let the lease end so many seconds from now instead.

        Raises:
            LockLost: the lock is not ours any more.
            LockUnavailable: Redis gave no usable answer; the lease ends no sooner than before.
        """
        run_sync(self._extend(self.runtime.threads(), additional_time, replace_ttl))

    async def aextend(self, additional_time: conf.Seconds | None = None, replace_ttl: bool = False) -> None:
        """As `extend`."""
        await self._extend(self.runtime.loop(), additional_time, replace_ttl)

    async def _extend(self, context: Context, additional_time: conf.Seconds | None, replace: bool) -> None:
        seconds, replace = (
            (self.timeout, True)
            if additional_time is None
            else (conf.lease_seconds("additional_time", additional_time), replace)
        )
        self.ensure_held()
        # Whatever was asked for before this, and is answered only now or later, must not undo it.
        self.changes = changes = self.changes + 1
        most = self._deadline + lock_policy.caution(self.timeout) + seconds
        if replace:
            # Should the reply be lost, the server may have set the shorter lease. So we count on no more from here on.
            most = time.monotonic() + seconds
            self._move_deadline(min(self._deadline, most - lock_policy.caution(seconds)), changes)
        self.attempt.lease = max(self.attempt.lease, most - time.monotonic())
        deadline = await lock_policy.extend(context.store, self.attempt, seconds, replace=replace)
        if deadline is None:
            self.lose("Redis did not have it any more when it was to be extended")
            raise self._loss()
        # Of a server whose clock was set back, more is left than was ever asked for.
        self._move_deadline(deadline if replace else min(deadline, most), changes)

    def release(self) -> bool:
        """Give the lock back; the next waiter gets it at once.

        Returns:
            `False` if it was released before.

        Raises:
            LockLost: it was not ours any more.
            LockUnavailable: Redis gave no usable answer; the lock ends with its lease. `release` may be called again.
        """
        return run_sync(self._release(self.runtime.threads()))

    async def arelease(self) -> bool:
        """As `release`. Cancelled, it gives the lock back all the same."""
        return await self._release(self.runtime.loop())

    async def _release(self, context: Context) -> bool:
        if self._state == "over":
            return False
        if self._generation != forks.state.generation:
            raise self._loss()
        if context.may_be_in_transaction:
            if self._rules.release == "commit":
                if transactions_here := transactions.open_here():
                    return self._release_at_the_end_of(transactions_here)
            elif transactions.is_one_open():
                said_once.warn_once(said_once.RELEASED_BEFORE_COMMIT, self.template or self.key)
        with _changing:
            # Of two threads that release it, one does.
            if self._state in ("leaving", "over"):
                return False
            ours, again = self._state != "lost", self._state == "unanswered"
            in_time = ours and time.monotonic() < self._deadline
            if ours:
                # From here on it is not held, whatever the answer: the server may act on a request we have given up.
                self._state = "leaving"
        if self._watched:
            self._unwatch()
        self.runtime.held.remove(self)
        try:
            freed = await lock_policy.release(context.store, self.attempt, in_time=in_time)
        except LockUnavailable as trouble:
            if not in_time and not again:
                raise self._lost_at_its_end() from trouble
            self._state = "unanswered"
            raise
        except BaseException:
            self._state = "over"  # interrupted, and given back all the same
            raise
        # "Not held", after a release that got no answer, means that it did its work.
        if ours and (freed or (again and in_time)):
            self._state = "over"
            if signals.released.receivers or signals.released.observers:
                await context.tell(signals.released, lease=self, held_for=time.monotonic() - self._since)
            return True
        raise self._lost_at_its_end()

    def _lost_at_its_end(self) -> LockLost:
        ran_out = time.monotonic() >= self._deadline
        why = self._ran_out if ran_out else "Redis did not have it any more when it was released"
        if tell := self._end(why, "leaving"):
            tell_in_thread([tell])
        loss = self._loss()
        self._state = "over"
        return loss

    @property
    def _ran_out(self) -> str:
        return f"its lease of {self.timeout:g} s ran out"

    @property
    def over(self) -> bool:
        """Whether nothing is left to release: it was released, or is known to be lost."""
        return self._state in ("over", "lost")

    def __del__(self) -> None:
        if self._state == "held" and not sys.is_finalizing() and self.held:
            said_once.warn_once(said_once.DROPPED, self.template or self.key)

    @property
    def waits_for_commit(self) -> bool:
        """Whether it has been released inside of a transaction, whose end it waits for."""
        return self._waits_for_commit

    def _release_at_the_end_of(self, transactions_here: Sequence[BaseDatabaseWrapper]) -> bool:
        # Lost already? Then let the caller's block fail, and the transaction with it.
        self.ensure_held()
        if self._waits_for_commit:
            return False
        self._waits_for_commit = True
        transactions.when_over(transactions_here, self._release_after_commit)
        return True

    def _release_after_commit(self) -> None:
        # What is committed stays committed: a loss is logged, and not raised.
        run_sync(self.leave(self.runtime.threads(), None, quiet=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_sync(self.leave(self.runtime.threads(), error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave(self.runtime.loop(), error)

    async def leave(self, context: Context, error: BaseException | None, *, quiet: bool = False) -> None:
        """End a block that held the lock. A release problem never hides what the block returned or raised.

        `quiet`: a loss is only logged.
        """
        try:
            await self._release(context)
        except LockLost as loss:
            if self._generation != forks.generation():
                return  # a forked child holds nothing, and so has lost nothing
            if error is not None or quiet or self._rules.on_lost == "log":
                logger.error("%s", loss)
            else:
                raise
        except LockUnavailable as trouble:
            logger.warning(
                "the lock %r could not be released and ends with its lease, in %.1f s: %s",
                self.key,
                max(0.0, self._deadline - time.monotonic()),
                trouble,
            )

    # ---- what happens to it

    def prolong(self, deadline: float, changes: int) -> None:
        """It was renewed until then (monotonic seconds); `changes` as it was when that was asked for."""
        self._move_deadline(deadline, changes)

    def expire(self) -> Callable[[], None] | None:
        """Called when its deadline has come, unless that has moved meanwhile.

        Returns what tells of the loss, for another thread to call, if somebody wants to hear of it.
        """
        if time.monotonic() >= self._deadline:
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

    def _end(self, why: str, state: _State = "held") -> Callable[[], None] | None:
        with _changing:
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
        with _changing:
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

    def __repr__(self) -> str:
        return f"<Lease of {self.key!r}: {self._state}, fence {self.fence}, {self.remaining:.1f} s remaining>"
