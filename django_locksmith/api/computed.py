"""What `single_flight` makes of a function or method: itself, with two words more."""

from __future__ import annotations

import types
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from asgiref.sync import markcoroutinefunction

from .functions import is_async

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import Self

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)


class Computed(Protocol[P, R]):
    """A function decorated with `single_flight`; of an instance, a method without its `self`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The value."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Delete the value of the call with these arguments, as `locksmith.invalidate` does."""

    def ainvalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, None]:
        """As `invalidate`."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self: Computed[Concatenate[S, Q], R], instance: S, owner: type) -> Computed[Q, R]: ...


def computed(
    function: Callable[..., Any], invalidate: Callable[..., None], ainvalidate: Callable[..., Coroutine[Any, Any, None]]
) -> Any:
    """The function with these words. A method becomes an object, so that they know the instance it is called on."""
    outer = getattr(function, "__qualname__", "").rpartition(".")[0]
    if outer and not outer.endswith("<locals>"):
        return _Method(function, invalidate, ainvalidate)
    vars(function).update(invalidate=invalidate, ainvalidate=ainvalidate)
    return function


class _Bound:
    """A method of one instance, or of a class."""

    def __init__(self, method: Callable[..., Any], invalidate: Any, ainvalidate: Any) -> None:
        self.invalidate = invalidate
        self.ainvalidate = ainvalidate
        self._method = method
        update_wrapper(self, method)
        if is_async(method):
            markcoroutinefunction(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._method)


class _Method(_Bound):
    """A method as it stands in its class."""

    def __get__(self, instance: Any, owner: type | None = None) -> _Bound | types.MethodType:
        if instance is None:
            return self
        if isinstance(instance, type):
            # Of a classmethod. Before 3.13 it asks us; since then it does just this, and ours are to be the same.
            return types.MethodType(self, instance)
        method = types.MethodType(self._method, instance)
        return _Bound(method, partial(self.invalidate, instance), partial(self.ainvalidate, instance))
