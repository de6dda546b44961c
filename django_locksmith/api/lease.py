"""A lease: one holding of a lock."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from .. import clock, conf, forks, signals
from ..exceptions import LockLost, LocksmithError, LockUnavailable
from ..policy import locks as lock_policy
from ..policy import straight
from ..policy.sync_bridge import run_sync
from ..runtime import transactions
from ..runtime.expiry import tell_in_thread
from . import blocks, said_once
from .lease_state import LeaseState, changing, nobody

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper
    from typing_extensions import Self

    from ..runtime.contexts import Context
    from .lease_state import State

logger = logging.getLogger("django_locksmith.lock")


class Lease(LeaseState):
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

    __slots__ = ()

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
            most = clock.now() + seconds
            self._move_deadline(min(self._deadline, most - lock_policy.caution(seconds)), changes)
        self.attempt.lease = max(self.attempt.lease, most - clock.now())
        deadline = await lock_policy.extend(context.store, self.attempt, seconds, replace=replace)
        if deadline is None:
            self.lose("Redis did not have it any more when it was to be extended")
            raise self._loss()
        # Of a server whose clock was set back, more is left than was ever asked for.
        self._move_deadline(deadline if replace else min(deadline, most), changes)

    def detach(self) -> None:
        """Whoever took it has nothing to do with it any more: it has been handed over, to be released elsewhere.

        From here on that thread or task may wait for the lock as anybody else, and its process does not give it back as
        it exits.
        """
        self._owner = nobody
        blocks.end(self)

    def release(self) -> bool:
        """Give the lock back; the next waiter gets it at once.

        Returns:
            `False` if it was released before.

        Raises:
            LockLost: it was not ours any more.
            LockUnavailable: Redis gave no usable answer; that is tried again until the lease ends, here and by calls of
                `release`.
        """
        return self._release(self.runtime.threads())

    async def arelease(self) -> bool:
        """As `release`. Cancelled, it gives the lock back all the same."""
        return await self._arelease(self.runtime.loop())

    def _release(self, context: Context) -> bool:
        was = self._begin_leaving(context)
        if was is None or was == "waits":
            return was is not None
        try:
            freed = straight.release(context.store, self.attempt, self._deadline if was != "lost" else 0.0)
        except LockUnavailable as trouble:
            self._leave_unanswered(was, trouble)
            raise
        self._end_leaving(was, freed=freed)
        if signals.released.receivers or signals.released.observers:
            run_sync(self._tell_of_release(context))
        return True

    async def _arelease(self, context: Context) -> bool:
        was = self._begin_leaving(context)
        if was is None or was == "waits":
            return was is not None
        try:
            freed = await lock_policy.release(context.store, self.attempt, self._deadline if was != "lost" else 0.0)
        except LockUnavailable as trouble:
            self._leave_unanswered(was, trouble)
            raise
        self._end_leaving(was, freed=freed)
        if signals.released.receivers or signals.released.observers:
            await self._tell_of_release(context)
        return True

    def _begin_leaving(self, context: Context) -> State | Literal["waits"] | None:
        """How it stands, if a release is to be sent; "waits": for a COMMIT; `None`: another release has seen to it."""
        if self._state == "over":
            return None
        if self._generation != forks.state.generation:
            raise self._loss()
        if context.may_be_in_transaction:
            if self._rules.release == "commit":
                if transactions_here := transactions.open_here():
                    return "waits" if self._release_at_the_end_of(transactions_here) else None
            elif transactions.is_one_open():
                said_once.warn_once(said_once.RELEASED_BEFORE_COMMIT, self.template or self.key)
        with changing:
            # Of two threads that release it, one does.
            was = self._state
            if was in ("leaving", "over"):
                return None
            if was != "lost":
                # From here on it is not held, whatever the answer: the server may act on a request we have given up.
                self._state = "leaving"
        if self._watched:
            self._unwatch()
        self.runtime.held.remove(self)
        return was

    def _leave_unanswered(self, was: State, trouble: LockUnavailable) -> None:
        if was == "lost" or (was == "held" and clock.now() >= self._deadline):
            raise self._lost_at_its_end() from trouble
        self._state = "unanswered"

    def _end_leaving(self, was: State, *, freed: bool) -> None:
        # Interrupted, it is given back all the same, and stays "leaving".
        # "Not held", after a release that got no answer, means that it did its work.
        if was != "lost" and (freed or (was == "unanswered" and clock.now() < self._deadline)):
            self._state = "over"
        else:
            raise self._lost_at_its_end()

    async def _tell_of_release(self, context: Context) -> None:
        await context.tell(signals.released, lease=self, held_for=clock.now() - self._since)

    def _lost_at_its_end(self) -> LockLost:
        ran_out = clock.now() >= self._deadline
        why = self._ran_out if ran_out else "Redis did not have it any more when it was released"
        if tell := self._end(why, "leaving"):
            tell_in_thread([tell])
        loss = self._loss()
        self._state = "over"
        return loss

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
        self.leave(self.runtime.threads(), None, quiet=True)

    def __enter__(self) -> Self:
        self.lent = False  # the block gives it back
        blocks.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            blocks.end(self)
            self.leave(self.runtime.threads(), error)
        except LocksmithError:
            raise
        except BaseException:
            self.give_up()
            raise

    async def __aenter__(self) -> Self:
        self.lent = False
        blocks.begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        blocks.end(self)
        await self.aleave(self.runtime.loop(), error)

    def give_up(self) -> None:
        """The end of its block was interrupted: see that it is given back, whatever became of that."""
        if not self.over and self._generation == forks.generation():
            self.disown()
            run_sync(lock_policy.withdraw(self.runtime.threads().store, self.attempt))

    def leave(self, context: Context, error: BaseException | None, *, quiet: bool = False) -> None:
        """End a block that held the lock. A release problem never hides what the block returned or raised.

        `quiet`: a loss is only logged.
        """
        try:
            self._release(context)
        except (LockLost, LockUnavailable) as problem:
            if self._is_to_be_raised(problem, error, quiet=quiet):
                raise

    async def aleave(self, context: Context, error: BaseException | None) -> None:
        """As `leave`."""
        try:
            await self._arelease(context)
        except (LockLost, LockUnavailable) as problem:
            if self._is_to_be_raised(problem, error, quiet=False):
                raise

    def _is_to_be_raised(
        self, problem: LockLost | LockUnavailable, error: BaseException | None, *, quiet: bool
    ) -> bool:
        """Else it is logged, or nothing to speak of."""
        if isinstance(problem, LockUnavailable):
            logger.warning(
                "the lock %r could not be released; that is tried again until its lease ends, in %.1f s: %s",
                self.key,
                max(0.0, self._deadline - clock.now()),
                problem,
            )
            return False
        if self._generation != forks.generation():
            return False  # a forked child holds nothing, and so has lost nothing
        if error is not None or quiet or self._rules.on_lost == "log":
            logger.error("%s", problem.details)
            return False
        return True
