"""Keys of decorated functions: a template over the arguments of the call."""

from __future__ import annotations

import functools
import inspect
from string import Formatter
from typing import TYPE_CHECKING, Any

from .functions import dotted_name

if TYPE_CHECKING:
    from collections.abc import Callable


def key_maker(template: str, function: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
    """What makes the key of a call to `function` from its arguments, with defaults applied.

    An empty template stands for the function's dotted name. Raises `ValueError` where the template is no template, or
    names what is no argument.
    """
    name = dotted_name(function)
    if not template:
        return lambda args, kwargs: name
    # What method_decorator makes of a method is a partial that says it wraps the function; but `self` is bound in it.
    signature = inspect.signature(function, follow_wrapped=not isinstance(function, functools.partial))
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
    for root in roots_of(template, name):
        if root not in signature.parameters and (rest is None or not root):
            has = ", ".join(signature.parameters) or "none"
            raise ValueError(f"the key {template!r} of {name} names {root!r}, which is no argument (it has {has})")

    def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        if rest is not None:
            values = {**values[rest], **values}
        try:
            return template.format(**values)
        except Exception as error:
            raise ValueError(f"the key {template!r} of {name} cannot be made for this call: {error!r}") from error

    return make


def roots_of(template: str, name: str) -> list[str]:
    """The arguments that a template names, also in the format of a field."""
    roots: list[str] = []
    try:
        for _, field, format_spec, _ in Formatter().parse(template):
            if field is not None:
                roots.append(field.replace("[", ".").split(".", 1)[0])
                roots += roots_of(format_spec or "", name)
    except ValueError as error:
        raise ValueError(f"the key {template!r} of {name} is no template: {error}; write a brace twice") from error
    return roots
