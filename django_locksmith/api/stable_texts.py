"""What of a value goes into a key: a text that every process makes alike, and that no other value has by chance."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections import deque
from collections.abc import Mapping, MappingView
from collections.abc import Set as AbstractSet
from typing import Any

from django.conf import settings
from django.db.models import Manager, Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import Promise

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MANY = (list, tuple, deque)
_SEEN_THROUGH = (str, bytes, list, tuple)
"""What is a text itself, or whose items have been looked at one by one."""


def plain(text: str) -> str:
    """The text itself, of a `str` whose class may format, hash or compare in a way of its own (an Enum, say)."""
    return text if type(text) is str else str.__str__(text)


def stable_text(value: Any, conversion: str | None, spec: str, within: bool) -> str:
    """The text of one field of a key. `within`: the field names an attribute or an item, not an argument itself.

    Raises `ValueError` that says why there is none, and what to write instead.
    """
    if type(value) is not str and type(value) is not int:
        if value is None and within:
            raise ValueError("it is None: what has not been saved, or has no such value, has no key of its own")
        value = _stable(value)
    shown = value
    if conversion == "r":
        shown = repr(value)
    elif conversion == "s":
        shown = str(value)
    elif conversion == "a":
        shown = ascii(value)
    text = format(shown, spec)
    if not isinstance(value, _SEEN_THROUGH) and value.__class__.__format__ is object.__format__:
        _refuse_addresses(text)
    return text


def _stable(value: Any) -> Any:
    """What stands for this value in a text."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, enum.Enum):
        return int(value) if isinstance(value, int) else value
    if isinstance(value, _MANY):
        items = [_item(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    _refuse(value)
    kind = value.__class__  # of what a lazy object stands for
    if isinstance(value, Model):
        # Two rows may have the same text, and one row another text tomorrow.
        # A proxy's rows are those of its model.
        meta = (value._meta.concrete_model or kind)._meta
        if meta.label_lower == settings.AUTH_USER_MODEL.lower():
            return str(value.pk)  # as {user} of a view
        return f"{meta.label_lower}-{value.pk}"
    if kind.__format__ is object.__format__ and kind.__str__ is object.__str__:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            fields = [getattr(value, field.name) for field in dataclasses.fields(kind) if field.repr]
            return (kind.__qualname__, *map(_item, fields))
        if kind.__repr__ is object.__repr__:
            raise ValueError(
                f"a {kind.__qualname__} has no text but its place in memory, another one in each process; name an"
                " attribute of it, or give it a __str__"
            )
    return value


def _item(value: Any) -> Any:
    """As `_stable`, of an item of a list, which shows it by its `repr`."""
    value = _stable(value)
    if not isinstance(value, _SEEN_THROUGH):
        _refuse_addresses(repr(value))
    return value


def _refuse(value: Any) -> None:
    if isinstance(value, Promise):
        raise ValueError("a lazy text is another one in each language; make it a str in one of them")
    if isinstance(value, (AbstractSet, Mapping, MappingView)):
        kind = value.__class__.__name__
        raise ValueError(f"the order of a {kind} is by chance; sort it, and pass a tuple")
    if isinstance(value, (QuerySet, Manager)):
        raise ValueError("a QuerySet is what the database says later; pass a tuple of the keys that it is about")
    if isinstance(value, HttpRequest):
        raise ValueError("a request has no text that tells who asks for what; name what it is about: {request.path}")
    if getattr(value, "is_anonymous", False) is True:
        raise ValueError("an anonymous user is no one in particular; name the session, or lock nothing")
    if isinstance(value, Model) and (value.pk is None or (isinstance(value.pk, tuple) and None in value.pk)):
        raise ValueError(f"this {value.__class__.__name__} is not saved yet, and has no key of its own")


def has_address(text: str) -> bool:
    """Does it tell a place in memory?"""
    return _ADDRESS.search(text) is not None


def _refuse_addresses(text: str) -> None:
    if has_address(text):
        raise ValueError(f"{text!r} is a place in memory, another one in each process; name an attribute of it")
