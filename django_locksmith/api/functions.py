"""What kind of function it is, and what it is called."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction

if TYPE_CHECKING:
    from collections.abc import Callable


def is_async(function: Callable[..., Any]) -> bool:
    """Does calling it give a coroutine, as far as can be told?

    Functions that are no `async def` may be marked as such (asgiref's `markcoroutinefunction`), as what Django's
    `as_view()` makes is. `dispatch` of a class-based view is not: its class tells.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        return True
    owner = getattr(function, "__self__", None)
    return getattr(function, "__name__", "") == "dispatch" and getattr(owner, "view_is_async", False) is True


def dotted_name(function: Callable[..., Any]) -> str:
    """Where a function is defined, as `package.module.name`; of a `partial`, its function's.

    Of a bound method, the class that it is called on is named, which need not be the one that defines it.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.ismethod(function):
        owner = function.__self__
        owner = owner if isinstance(owner, type) else type(owner)
        return f"{owner.__module__}.{owner.__qualname__}.{function.__name__}"
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"
