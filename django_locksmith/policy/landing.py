"""How flights end: the value is stored, and everybody told; or they are given up, postponed, or voided by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exceptions import LockUnavailable, ServerTrouble
from ..redis.messages import NO_REPLY, News, NoReply, Permission
from .flight_outcomes import Failed
from .locks import once_more

if TYPE_CHECKING:
    from ..redis.flight_store import FlightStore
    from ..redis.key_names import FlightNames
    from .flight_outcomes import Call, Later, Value, Values

UNCHECKED = 5.0
"""Seconds for which a value is kept that nobody could say is still wanted, for Redis did not answer."""
BRIEFLY = 1.0
"""Seconds for which a value is kept that may have been computed from what was about to change."""
LANDS_WITHIN = 1.0
"""Seconds for which `void` waits for a value that is already on its way into the cache."""
_LONGEST_TEXT = 2000
"""Characters of an error's text that are told to others: it is kept in Redis, and sent to all who wait."""


async def withdraw(flights: FlightStore, call: Call) -> None:
    """Give the flight up, whatever became of it: its followers elect another leader."""
    try:
        await once_more(flights.land, call.names, call.token, News("void"))
    except LockUnavailable:
        flights.give_back_later(call.names, call.token, call.lease)


async def put(call: Call, value: Value, permission: Permission | None) -> Failed | None:
    """Store it. A value that its cache cannot hold is a failure: else each call would compute, and nobody notice.

    `permission`: `None`, for nobody could say whether it is still wanted.
    """
    longest = {None: UNCHECKED, Permission.BRIEFLY: BRIEFLY}.get(permission)
    try:
        await call.values.put(value.value, longest)
    except TypeError as error:
        return failed_by(error)
    return None


async def store_or_withdraw(flights: FlightStore, call: Call, value: Value, *, held: bool) -> Value | Failed:
    try:
        return await _store(flights, call, value, held=held)
    except BaseException:
        await withdraw(flights, call)
        raise


async def _store(flights: FlightStore, call: Call, value: Value, *, held: bool) -> Value | Failed:
    """Store the value, unless the flight was voided, or ran out of its lease, meanwhile. No trouble loses it to us."""
    out_of_date = value._replace(for_followers=False)
    try:
        permission = await once_more(flights.landing, call.names, call.token)
        if permission is Permission.REFUSED:
            return out_of_date
    except LockUnavailable as trouble:
        call.warn("Redis cannot say whether the value of %r is still wanted", trouble)
        if not held:
            return out_of_date
        # Somebody may have invalidated it meanwhile, and nobody can say.
        refused = await put(call, value, None)
    else:
        refused = await put(call, value, permission)
    if refused is not None:
        await land(flights, call, News("failed", refused.kind, refused.message), call.error_ttl(refused.error))
        return refused
    if await land(flights, call, News("landed")):
        return value
    try:
        await call.values.drop()  # it took so long that others may have begun again
    except Exception as trouble:
        call.warn("the cache keeps a value of %r that is out of date", trouble)
    return out_of_date


async def land(flights: FlightStore, call: Call, news: News, pause: float = 0.0) -> bool:
    """End our flight, and tell everybody. `False` if it was surely not ours any more."""
    try:
        return await flights.land(call.names, call.token, news, pause)
    except (ServerTrouble, LockUnavailable) as error:
        trouble: Exception | None = error
    if isinstance(trouble, ServerTrouble) and not trouble.mute:
        try:
            # "Not ours", after a lost reply, may well mean that the first request did its work.
            await flights.land(call.names, call.token, news, pause)
            trouble = None
        except (ServerTrouble, LockUnavailable) as error:
            trouble = error
    if trouble is not None:
        call.warn("the flight of %r could not be ended, and ends with its lease", trouble)
    return True


async def postpone(flights: FlightStore, later: Later, first: Call, *others: Call) -> None:
    """Nobody is to compute before that, whether or not we lead (any more): of these keys, or of their rate limit."""
    seconds = max(0.0, later.at - flights.now())
    for_all = first.allowance is not None and await first.allowance.pause(seconds)
    for call in (first, *others):
        await land(flights, call, News("later", "", f"{seconds:.3f}"), 0.0 if for_all else seconds)


async def void(flights: FlightStore, names: FlightNames, values: Values, settle: float = 0.0) -> None:
    """Delete the value, and see that a computation that is under way does not bring the old one back.

    `settle`: seconds during which values are computed from what may be old still, and kept briefly.

    Raises `LockUnavailable`: the value is deleted, but a computation under way may store what it began with.
    """
    try:
        since = await once_more(flights.void, names, False, settle)
        if since is not None:
            await _wait_for_landing(flights, names, since)
            await once_more(flights.void, names, True)
    finally:
        await values.drop()


async def _wait_for_landing(flights: FlightStore, names: FlightNames, since: bytes) -> None:
    until = flights.now() + LANDS_WITHIN
    try:
        while flights.now() < until:
            listener = await flights.listen(names, since, until - flights.now())
            try:
                news: News | NoReply | None = NO_REPLY
                while isinstance(news, NoReply) and flights.now() < until:
                    news = await listener.news_within(until - flights.now())
                if isinstance(news, News):
                    return
            finally:
                await listener.leave()
    except ServerTrouble:
        pass  # the next request will tell


def failed_by(error: Exception) -> Failed:
    """What is told of an error: its name and its text."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return Failed(name[:_LONGEST_TEXT], _text(error), error)


def _text(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:
        return "its text cannot be made"  # which must not hide the error itself
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
