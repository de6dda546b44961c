"""Keys of decorated functions and views: a template over the arguments of the call.

Different arguments make different keys, and the same ones the same key in each process: the parts are kept apart, and a
value that has no stable text of its own is refused.
"""

from __future__ import annotations

import functools
import inspect
import re
from itertools import pairwise
from string import Formatter
from typing import TYPE_CHECKING, Any

from ..redis.key_names import can_be_written
from .functions import dotted_name
from .stable_texts import plain, stable_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_formatter = Formatter()
_WIDEST = 1000
"""Characters that an argument may ask another one to be formatted to: it may come from a visitor."""


class KeyTemplate:
    """A template as `str.format` knows them.

    What separates two fields is escaped in their values, as in URLs (`a:b` becomes `a%3Ab` where a colon separates), so
    that `("a", "b:c")` and `("a:b", "c")` have different keys. Values without it stay as they are, and so does the
    value of a template with one field.
    """

    def __init__(self, template: str, name: str) -> None:
        """`name`: of the function. Raises `ValueError` where the template is none, or cannot keep its fields apart."""
        self._template = template = plain(template)
        if not can_be_written(template):
            raise ValueError(f"the key {template!r} of {name} cannot be written as UTF-8")
        self._name = name
        try:
            self._parts = [
                (text, field, spec or "", how) for text, field, spec, how in _formatter.parse(self._template)
            ]
            self.roots = roots_of(self._template)
            wrong = next((how for *_, how in self._parts if how and how not in "rsa"), None)
            if wrong is not None:
                raise ValueError(f"there is no conversion !{wrong}")
        except ValueError as error:
            raise ValueError(f"the key {template!r} of {name} is no template: {error}; write a brace twice") from error
        self._escaped = self._escapes()

    def _escapes(self) -> dict[int, str]:
        fields = [number for number, (_, field, _, _) in enumerate(self._parts) if field is not None]
        escaped = {}
        for before, number in pairwise(fields):
            # A brace that is written twice is a part of its own, without a field.
            between = "".join(text for text, _, _, _ in self._parts[before + 1 : number + 1])
            if not between:
                raise ValueError(
                    f"the key {self._template!r} of {self._name} has two fields with nothing between them, so that"
                    " different arguments would make one key; put a colon between them"
                )
            escaped[ord(between[0])] = "".join(f"%{byte:02X}" for byte in between[0].encode())
        return {**escaped, ord("%"): "%25"} if escaped else {}

    def check(self, why_not: Callable[[str, str, str | None], str]) -> None:
        """Raises `ValueError` where a field may not be used, as `why_not` of its name, format and conversion says."""
        for _, field, spec, how in self._parts:
            if field is not None and (why := why_not(field, spec, how)):
                raise ValueError(f"the key {self._template!r} of {self._name} has {{{field}}}: {why}")

    def make(self, args: Sequence[Any], values: Mapping[str, Any]) -> str:
        """The key. Raises what is wrong with the values."""
        made = []
        unnumbered = 0
        for text, field, spec, how in self._parts:
            made.append(text)
            if field is None:
                continue
            if not field:
                field, unnumbered = str(unnumbered), unnumbered + 1
            value, _ = _formatter.get_field(field, args, values)
            if "{" in spec:
                spec = _formatter.vformat(spec, args, values)
                if any(int(width[:9]) > _WIDEST for width in re.findall(r"\d+", spec)):
                    raise ValueError(f"{{{field}}}: the format {spec!r} asks for more than {_WIDEST} characters")
            try:
                part = stable_text(value, how, spec, "." in field or "[" in field)
            except ValueError as error:
                raise ValueError(f"{{{field}}}: {error}") from error
            made.append(part.translate(self._escaped) if self._escaped else part)
        return "".join(made)


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
    known = KeyTemplate(template, name)
    for root in known.roots:
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
            return known.make((), values)
        except Exception as error:
            raise ValueError(f"the key {template!r} of {name} cannot be made for this call: {error!r}") from error

    return make


def roots_of(template: str) -> list[str]:
    """The arguments that a template names, also in the format of a field. Raises `ValueError` if it is none."""
    roots: list[str] = []
    for _, field, format_spec, _ in _formatter.parse(template):
        if field is not None:
            roots.append(field.replace("[", ".").split(".", 1)[0])
            roots += roots_of(format_spec or "")
    return roots
