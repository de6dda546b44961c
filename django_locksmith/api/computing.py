"""What a computation of single flight is given, and what it may say of its value."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..policy.flight_outcomes import MISSING
from ..records import NOT_MODIFIED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .cached_values import LoopValues, ThreadValues

_NOT_ASKED_FOR = object()
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def computation(default: Any, values: ThreadValues) -> Callable[[], Awaitable[Any]]:
    """What computes the value, for threads; a coroutine in shape only."""

    async def compute() -> Any:
        old = await _old(default, values)
        value = _begun(default, old)
        if inspect.iscoroutine(value):
            value.close()  # or Python warns that nobody awaited it
            raise TypeError(f"{default!r} returns a coroutine; use aget_or_set")
        return _settled(default, values, value, old)

    return compute


def computation_in_loop(default: Any, values: LoopValues) -> Callable[[], Awaitable[Any]]:
    """The same for tasks."""

    async def compute() -> Any:
        old = await _old(default, values)
        value = _begun(default, old)
        if inspect.isawaitable(value):
            value = await value
        return _settled(default, values, value, old)

    return compute


async def _old(default: Any, values: ThreadValues | LoopValues) -> Any:
    """The old value or `MISSING`, for a function that asks for it."""
    if not (callable(default) and _takes_one(default)):
        return _NOT_ASKED_FOR
    return await values.old() if values.keeps_old else MISSING


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # some of those that are written in C
        return False
    needed = [each for each in parameters if each.kind in _POSITIONAL and each.default is each.empty]
    return len(needed) == 1


def _begun(default: Any, old: Any) -> Any:
    if not callable(default):
        return default
    return default() if old is _NOT_ASKED_FOR else default(None if old is MISSING else old)


def _settled(default: Any, values: ThreadValues | LoopValues, value: Any, old: Any) -> Any:
    if value is NOT_MODIFIED:
        if old is _NOT_ASKED_FOR:
            raise TypeError(f"{default!r} returned NOT_MODIFIED: a function that may do so takes the old value")
        if old is MISSING:
            raise ValueError(f"{default!r} returned NOT_MODIFIED, but there is no old value of {values.key!r}")
        value = old
    values.keep_for(value)
    return value
