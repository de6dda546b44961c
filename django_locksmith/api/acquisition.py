"""One attempt to take a lock: from what the caller said, by the rules of the policy, to the lease.

`Lock` has the public methods, for threads and for tasks; here is what they have in common.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

from .. import clock, conf, signals
from ..exceptions import LockBusy, LockReentered, LockUnavailable
from ..policy import locks as lock_policy
from ..policy import straight
from ..policy.sync_bridge import run_sync
from ..redis.key_names import can_be_written, encode
from ..redis.messages import Attempt, Busy
from ..tokens import HANDED_OVER, looks_like_a_token, new_token, read_holder
from . import blocks
from .lease import Lease

if TYPE_CHECKING:
    from ..runtime.contexts import Context
    from ..runtime.options import Rules
    from ..runtime.runtime import Runtime

logger = logging.getLogger("django_locksmith.lock")


def attempt_at(context: Context, key: str, rules: Rules, wait: float | None, token: str | None = None) -> Attempt:
    """An attempt at the lock of this key. Raises `ValueError` for a token that cannot be one."""
    if token is None:
        token = new_token(rules.label)
    elif not isinstance(token, str) or not token or token == HANDED_OVER or not can_be_written(token):
        raise ValueError(f"token must be a str that nobody else uses, not {token!r}")
    elif not looks_like_a_token(token):
        raise ValueError(f"token must have at most 20,000 characters, and not look like JSON or bytes: {token[:40]!r}")
    else:
        token = str.__str__(token)  # an Enum, say, is formatted otherwise than it compares
    names = context.store.names(key)
    if rules.slots is not None:
        names = names.with_slots(rules.slots)
    return Attempt(names, encode(token), rules.timeout, inf if wait is None else wait)


def wait_this_time(
    rules: Rules, settings: conf.Settings, blocking: bool | None, blocking_timeout: conf.Seconds | None
) -> float | None:
    """How long to wait, where an acquire says so itself: seconds, `None` = without limit."""
    if blocking is not None:
        conf.flag("blocking", blocking)
    wait = conf.wait_seconds("blocking_timeout", blocking_timeout)
    if blocking is False:
        if wait:
            raise ValueError("blocking_timeout says how long to wait, but blocking=False says not to")
        return 0.0
    if blocking_timeout is not None:
        return wait
    return rules.wait if rules.wait != 0 else settings.blocking_timeout


def take(runtime: Runtime, context: Context, rules: Rules, attempt: Attempt, template: str) -> Lease | LockBusy:
    """The lease, or who has the lock at the end of the wait. Raises `LockReentered` and `LockUnavailable`."""
    if runtime.held.latest(attempt.names.lock) is not None and (own := _ours(runtime, context, rules, attempt)):
        return own
    if runtime.substitute is not None:
        run_sync(runtime.substitute.prepare(context, attempt))
    told = signals.acquired.receivers or signals.acquired.observers
    started = clock.now() if told else 0.0
    lease = Lease(runtime, context, rules, attempt, template)
    try:
        outcome = straight.acquire(context.store, context.queues, attempt, lease.begin)
    except LockUnavailable as trouble:
        run_sync(_tell_of_trouble(context, lease, trouble))
        raise
    if isinstance(outcome, Busy):
        return run_sync(_busy(runtime, context, lease, outcome))
    if told:
        run_sync(_tell_of_grant(context, lease, started))
    return outcome


async def atake(runtime: Runtime, context: Context, rules: Rules, attempt: Attempt, template: str) -> Lease | LockBusy:
    """As `take`, for tasks."""
    if runtime.held.latest(attempt.names.lock) is not None and (own := _ours(runtime, context, rules, attempt)):
        return own
    if runtime.substitute is not None:
        await runtime.substitute.prepare(context, attempt)
    told = signals.acquired.receivers or signals.acquired.observers
    started = clock.now() if told else 0.0
    lease = Lease(runtime, context, rules, attempt, template)
    try:
        outcome = await lock_policy.acquire(context.store, context.queues, attempt, lease.begin)
    except LockUnavailable as trouble:
        await _tell_of_trouble(context, lease, trouble)
        raise
    if isinstance(outcome, Busy):
        return await _busy(runtime, context, lease, outcome)
    if told:
        await _tell_of_grant(context, lease, started)
    return outcome


def _ours(runtime: Runtime, context: Context, rules: Rules, attempt: Attempt) -> Lease | None:
    """What the caller has already, if to have it again is all it wants. Raises `LockReentered` if it would wait."""
    key, lock = attempt.names.key, attempt.names.lock
    own = own_lease(runtime, context, lock)
    many = 1 if rules.slots is None else rules.slots.most
    if own is not None and own.held:
        if own.waits_for_commit and rules.release == "commit":
            return own  # it is ours until the transaction ends, however often we ask
        if attempt.wait and own.waits_for_commit and many == 1:
            raise LockReentered(key, read_holder(own.token), own.remaining)
    # What acquire() returned may have been handed to others, who give it back while we wait. A block is not over
    # before we are.
    if attempt.wait and (outer := blocks.around_us(lock, many)) is not None:
        raise LockReentered(key, read_holder(outer.token), outer.remaining)
    return None


async def _busy(runtime: Runtime, context: Context, lease: Lease, outcome: Busy) -> LockBusy:
    attempt = lease.attempt
    slots = attempt.names.slots
    kind = LockBusy
    if attempt.wait:
        own = [each for each in _own_leases(runtime, context, attempt.names.lock) if each.held and each.lent]
        kind = LockReentered if len(own) >= (slots.most if slots else 1) else LockBusy
    holder = read_holder(outcome.holder) if outcome.holder else None
    error = kind(lease.key, holder, outcome.left, slots.most if slots else 1)
    logger.info("%s", error.details)
    if signals.busy.wanted:
        await context.tell(signals.busy, key=lease.key, template=lease.template, error=error)
    return error


async def _tell_of_trouble(context: Context, lease: Lease, trouble: LockUnavailable) -> None:
    if signals.unavailable.wanted:
        await context.tell(signals.unavailable, key=lease.key, template=lease.template, error=trouble)


async def _tell_of_grant(context: Context, lease: Lease, started: float) -> None:
    try:
        await context.tell(signals.acquired, lease=lease, waited=clock.now() - started)
    except BaseException as interruption:
        await context.store.shielded(lease.aleave(context, interruption))
        raise


def give_up(runtime: Runtime, context: Context, attempt: Attempt) -> Lease | None:
    """The caller was interrupted, perhaps between the grant and the return; the lease that nobody got, if there is one.

    For threads: of a task, the policy sees every interruption.
    """
    if attempt.place is not None:
        attempt.place.leave()
    made: list[Lease] = runtime.held.of(attempt.names.lock)
    lease = next((each for each in made if each.attempt is attempt), None)
    if lease is not None:
        lease.disown()
    run_sync(lock_policy.withdraw(context.store, attempt))
    return lease


def own_lease(runtime: Runtime, context: Context, name: bytes) -> Lease | None:
    """The lease of the lock of this name that the calling thread or task holds, if it has one."""
    return next(iter(_own_leases(runtime, context, name)), None)


def _own_leases(runtime: Runtime, context: Context, name: bytes) -> list[Lease]:
    return [each for each in runtime.held.of(name) if context.is_caller(each.owner)]


def or_none(lease: Lease | LockBusy) -> Lease | None:
    """What `acquire` returns."""
    return None if isinstance(lease, LockBusy) else lease


def or_raise(lease: Lease | LockBusy) -> Lease:
    """What `take` returns, or raises."""
    if isinstance(lease, LockBusy):
        raise lease
    return lease
