"""Functions whose calls hold a lock."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .functions import dotted_name, is_async
from .key_templates import key_maker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Runs(Protocol):
    """A lock, as far as a decorated function needs it."""

    def run(self, work: Callable[[Callable[[], bool]], Any]) -> Any:
        """Call `work(release)` while holding the lock."""

    async def arun(self, work: Callable[[Callable[[], Awaitable[bool]]], Awaitable[Any]]) -> Any:
        """The same for tasks."""


def decorated(
    function: Callable[..., Any], key: str, template: str, lock_of: Callable[[str, str], Runs]
) -> Callable[..., Any]:
    """`function`, sync or async, each call of which holds the lock that `lock_of(key, template)` makes.

    `key`: a template over the arguments of the call; "" = the function's dotted name. `template`: the name in metrics.
    Raises `TypeError` or `ValueError` where the function or the template is at fault.
    """
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"a lock decorates functions, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{dotted_name(function)} is a generator: the lock would be released before its first item;"
            " take it inside, by a with block"
        )
    make_key = key_maker(key, function)
    name = template or key or dotted_name(function)

    if is_async(function):

        @wraps(function)
        async def locked_async(*args: Any, **kwargs: Any) -> Any:
            return await lock_of(make_key(args, kwargs), name).arun(lambda release: function(*args, **kwargs))

        return locked_async

    @wraps(function)
    def locked_sync(*args: Any, **kwargs: Any) -> Any:
        return lock_of(make_key(args, kwargs), name).run(lambda release: function(*args, **kwargs))

    return locked_sync


def done(result: T) -> T:
    """The result of work that is done. Raises `TypeError` for work that would only begin after the release."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python warns that nobody awaited it
        raise TypeError(
            f"{result!r} would run after the lock was released;"
            " give an async def function, or take the lock inside, by a with block"
        )
    return result
