"""The rules of the lock, written once: acquire, wait, release, abandon, extend, renew.

Everything here is a coroutine over a store that is given to it. Nothing here knows of Redis, asyncio, threads or
clocks; with the store of a thread nothing in it ever suspends, and `sync_bridge.run_sync` runs it. So a lost reply, a
cancellation, a deadline are dealt with in one place for both worlds. How and why: docs/internals.md.
"""

from __future__ import annotations

import random
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, TypeVar

from ..exceptions import LockUnavailable, ServerTrouble, SlotsDiffer
from ..local.queues import Ticket
from ..redis.key_names import ANY_SLOTS, encode
from ..redis.messages import NO_REPLY, Attempt, Busy, Granted, Renewal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..local.queues import LocalQueues
    from ..records import LockInfo
    from ..redis.flight_store import FlightStore
    from ..redis.key_names import Names
    from ..redis.lock_store import LockStore
    from ..redis.messages import Answer, Follows, Holding, Mode
    from ..redis.node import Node

T = TypeVar("T")

OUTAGE = 10.0
"""Seconds that a caller who can wait puts up with a server in trouble: as long as a failover commonly takes."""
PROBE_EVERY = 1.0
"""Seconds between the looks of a waiter, each with some jitter so that many do not look at once."""
LATE_BY = 0.05
"""Seconds after the end of a wait by which Redis should have ended it."""


class Begun:
    """What came of asking once, without a coroutine: an answer, an error, or nothing that tells."""

    __slots__ = ("_answer", "_error", "at", "had_its_turn", "ticket")

    def __init__(
        self, at: float, ticket: Ticket | None = None, answer: Answer | None = None, error: BaseException | None = None
    ) -> None:
        self.at = at
        self.ticket = ticket
        self._answer = answer
        self._error = error
        self.had_its_turn = answer is not None or error is not None

    def first(self) -> Answer | None:
        """Raises the error. Only once: from then on there is nothing any more, also for the error to refer to."""
        answer, self._answer = self._answer, None
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None
        return answer


class _Patience:
    """How long to go on asking a server that is in trouble."""

    __slots__ = ("_since", "_store", "_tries", "_until", "over")

    def __init__(self, store: LockStore, until: float) -> None:
        self._store = store
        self._until = until
        self._since: float | None = None
        self._tries = 0
        self.over = False

    def restore(self) -> None:
        """The server has answered."""
        self._since = None
        self._tries = 0

    async def wait_or_give_up(self, trouble: ServerTrouble) -> None:
        """Wait a little and return, or raise `LockUnavailable` because this has gone on for too long."""
        now = self._store.now()
        self._tries += 1
        if self._since is None:
            self._since = now
        # A connection that is merely stale, or was cut after the server did its work, costs nothing to replace: that is
        # tried once, without a pause, even for a caller who does not wait.
        if self._tries == 1 and not trouble.mute:
            return
        left = min(self._until, self._since + OUTAGE) - now
        if left <= 0:
            self.over = True
            raise _unavailable(trouble) from trouble.error
        await self._store.sleep(min(left, 0.05 * 2 ** min(self._tries, 5) * random.uniform(0.5, 1)))


def surely_until(store: LockStore, attempt: Attempt, granted: Granted) -> float:
    """Until when a lock that was granted is surely held. Raises `ServerTrouble` if that is over already."""
    deadline = granted.sent + attempt.lease - caution(attempt.lease)
    if deadline <= store.now():
        raise ServerTrouble(TimeoutError(f"the answer took longer than the lease of {attempt.lease:g} s"))
    return deadline


async def acquire(
    store: LockStore,
    queues: LocalQueues,
    attempt: Attempt,
    hold: Callable[[int, float, float], T],
    begun: Begun | None = None,
) -> T | Busy:
    """Take the lock and return what `hold(fence, since, deadline)` makes of it; or tell who has it after the wait.

    In local monotonic seconds, the lock is held since then at the latest, and surely until the deadline. Raises
    `LockUnavailable`. Whatever is raised, here or from outside (a cancelled task, Ctrl-C, a time limit), nothing is
    left behind as far as Redis can be reached: neither the lock nor a place in its queue.

    `begun`: what came of asking once already (`straight.py`).
    """
    left = attempt.wait
    now = store.now()
    until = (begun.at if begun else now) + left
    patience: _Patience | None = None
    ticket = begun.ticket if begun else (Ticket(queues, attempt.names.lock) if left else None)
    mode: Mode = "try"
    try:
        # Whoever has asked was the first, and may have been interrupted while it left.
        if ticket is not None and not (begun and begun.had_its_turn) and not ticket.enter():
            if not await ticket.wait(until):
                return await _who_has_it(store, attempt)
            now = store.now()
            left = max(0.0, until - now)
        while True:
            try:
                answer = (begun and begun.first()) or await store.acquire(attempt, left, mode, now)
                if left and isinstance(answer, Busy):
                    patience = _Patience(store, until)
                    answer = await _wait_in_redis(store, attempt, until, answer, patience)
                if isinstance(answer, Granted):
                    return hold(answer.fence, answer.sent, surely_until(store, attempt, answer))
                if isinstance(answer, Busy) and store.now() >= until:
                    return answer
                # Else refused, or a caller who did not wait came first: ask again.
            except ServerTrouble as trouble:
                if patience is None:
                    patience = _Patience(store, until)
                await patience.wait_or_give_up(trouble)
            mode = "again"
            now = store.now()
            left = max(0.0, until - now)
    except BaseException as error:
        if not attempt.sent or isinstance(error, SlotsDiffer):
            pass  # nothing to give up
        elif isinstance(error, LockUnavailable) and patience is not None and patience.over:
            # The server does not answer: to ask it once more would only double the wait.
            store.abandon_later(attempt)
        else:
            await store.shielded(withdraw(store, attempt))
        raise
    finally:
        if ticket is not None:
            # Ctrl-C may hit this, too: a place in the queue that nobody leaves blocks the whole process.
            try:
                ticket.leave()
            except BaseException:
                ticket.leave()
                raise


async def withdraw(store: LockStore, attempt: Attempt) -> None:
    """Give up an attempt or a holding, whatever became of it. Never raises for trouble with Redis."""
    try:
        await once_more(store.abandon, attempt)
    except LockUnavailable:
        store.abandon_later(attempt)


async def _wait_in_redis(store: LockStore, attempt: Attempt, until: float, seen: Busy, patience: _Patience) -> Answer:
    """Block until the baton comes, and look on the side whether the holder has died."""
    blocked = await store.block_for_baton(attempt, until - store.now())
    if blocked is None:
        # Others of this process wait on all the connections that it may have: ask now and then.
        await store.sleep(until_next_probe(store, until, seen))
        return await store.acquire(attempt, max(0.0, until - store.now()), "again")
    try:
        while True:
            if await blocked.woken(until_next_probe(store, until, seen)) is not NO_REPLY:
                return _dated(await blocked.claimed(), seen)
            try:
                left = until - store.now()
                answer = await store.acquire(attempt, left if left > 0 else 0.0, "probe")
            except ServerTrouble as trouble:
                await patience.wait_or_give_up(trouble)
                continue
            patience.restore()
            if not isinstance(answer, Busy) or store.now() >= until:
                return answer
            seen = answer
    finally:
        if blocked.open:
            await blocked.leave()


def until_next_probe(store: LockStore | FlightStore, until: float, seen: Busy | Follows) -> float:
    """When to look: as the lease we last saw runs out, as our wait is over, and every second or so anyway."""
    now = store.now()
    pause = PROBE_EVERY * random.uniform(0.9, 1.1)
    if seen.left is not None:
        pause = min(pause, max(0.002, seen.sent + seen.left + 0.002 - now))
    return min(pause, max(0.0, until - now) + LATE_BY)


def _dated(claimed: Answer, seen: Busy) -> Answer:
    """The answer to a claim, dated as if it had been sent no earlier than just before Redis ran it.

    The server's clock says how long after its last answer that was; and that answer cannot be older than its request.
    Should the server's clock have been set forward in between, this would be too late: so it is never later than now.
    """
    if not isinstance(claimed, Granted):
        return claimed
    granted_at = seen.sent + (claimed.server_time - seen.server_time)
    return Granted(claimed.fence, min(granted_at, claimed.sent), claimed.server_time)


@lru_cache(maxsize=64)
def caution(lease: float) -> float:
    """Seconds by which a holder stops believing in its lease before the server does.

    For so long the thread that tells of the end may be late, and so far the two clocks may part within the lease,
    before two callers believe in the same lock. Threads of a busy Python process wait many milliseconds for each
    other. A clock that is wrong by up to a second is commonly slewed, by a twelfth at most (chrony); and without that,
    clocks part by half a second in a thousand at most, each (NTP).
    """
    return min(lease / 12, 1.0) + lease / 1000


async def _who_has_it(store: LockStore, attempt: Attempt) -> Busy:
    now = store.now()
    infos = await once_more(store.look, attempt.names)
    info = infos[0] if infos else None
    if info is None or info.holder is None:
        return Busy(now, 0.0, None, "")
    return Busy(now, 0.0, info.remaining, info.holder.token)


async def release(store: LockStore, attempt: Attempt, deadline: float = inf, begun: Begun | None = None) -> bool:
    """Give the lock back; `False` if it was no longer held. Raises `LockUnavailable`: then it ends with its lease.

    `deadline`: until when it was surely ours (local monotonic seconds). `begun`: what came of asking once already.
    Cancelled or interrupted, it is given back all the same.
    """
    try:
        sent = False
        try:
            if begun:
                begun.first()
            return await store.release(attempt)
        except ServerTrouble as trouble:
            if trouble.mute:
                raise _unavailable(trouble) from trouble.error
            sent = trouble.sent
        try:
            # After a lost reply, "not held" means that the first request did its work, if nothing else can have.
            in_time = store.now() < deadline
            return await store.release(attempt) or (sent and in_time)
        except ServerTrouble as trouble:
            raise _unavailable(trouble) from trouble.error
    except LockUnavailable:
        store.abandon_later(attempt)
        raise
    except BaseException:
        await store.shielded(withdraw(store, attempt))
        raise


async def extend(store: LockStore, attempt: Attempt, seconds: float, *, replace: bool) -> float | None:
    """Change a lease; its new deadline (local monotonic seconds), or `None` if it is lost. Raises `LockUnavailable`."""
    ms = max(1, int(seconds * 1000))
    if replace:
        sent, left = await once_more(store.extend, attempt, ms, "set")
    else:
        # Not asked twice: what came through before its reply was lost would be added twice.
        try:
            sent, left = await store.extend(attempt, ms, "add")
        except ServerTrouble as trouble:
            raise _unavailable(trouble) from trouble.error
    return sent + left - caution(left) if left else None


async def renew(
    store: LockStore, node: Node, holdings: Sequence[tuple[Holding, float]]
) -> list[tuple[Renewal, float | BaseException]]:
    """Renew holdings of one server for so many seconds each.

    What became of each, and its new deadline, or why that is not known. Raises `ServerTrouble` or `LockUnavailable`
    where nothing is known of any.
    """
    wanted = [(holding, int(seconds * 1000)) for holding, seconds in holdings]
    sent, lefts = await store.renew(node, wanted)
    return [_renewal(sent, left) for left in lefts]


def _renewal(sent: float, left: float | BaseException) -> tuple[Renewal, float | BaseException]:
    if isinstance(left, BaseException):
        return Renewal.UNKNOWN, left
    return (Renewal.RENEWED, sent + left - caution(left)) if left else (Renewal.LOST, 0.0)


async def look(store: LockStore, names: Names) -> list[LockInfo]:
    """Who has one lock now, of several who ends first before the others. Raises `LockUnavailable`."""
    return await once_more(store.look, names)


async def list_locks(store: LockStore, wanted: Callable[[str], bool]) -> list[LockInfo]:
    """All locks whose key is wanted, by key. Raises `LockUnavailable`."""

    async def find() -> list[LockInfo]:
        return await store.look_at([store.names(key) for key in await store.keys() if wanted(key)])

    return sorted(await once_more(find), key=lambda info: info.key)


async def once_more(request: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Ask; and ask again if the connection turns out to be broken, which costs nothing to replace."""
    try:
        return await request(*arguments)
    except ServerTrouble as trouble:
        if trouble.mute:
            raise _unavailable(trouble) from trouble.error
    try:
        return await request(*arguments)
    except ServerTrouble as trouble:
        raise _unavailable(trouble) from trouble.error


def _unavailable(trouble: ServerTrouble) -> LockUnavailable:
    return LockUnavailable(f"Redis gave no answer: {str(trouble.error) or 'it kept silent'}")


async def clear(store: LockStore, key: str, token: str, *, slot: bool) -> bool:
    """Take a lock, or a slot, from the holder that has this token, and hand it on; `False` if it has it no more."""
    names = store.names(key).with_slots(ANY_SLOTS if slot else None)
    return await once_more(store.release, Attempt(names, encode(token), 0, 0))
