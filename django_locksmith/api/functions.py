"""What kind of function it is, and what it is called."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def is_async(function: Callable[..., Any]) -> bool:
    """Does calling it give a coroutine, as far as can be told?"""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


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
