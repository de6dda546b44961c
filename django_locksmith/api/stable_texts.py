"""What of a value goes into a key: a text that every process makes alike, and that no other value has by chance."""

from __future__ import annotations

import enum
import re
from typing import Any

from django.db.models import Model
from django.utils.functional import Promise

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MANY = (list, tuple)


def plain(text: str) -> str:
    """The text itself, of a `str` whose class may format, hash or compare in a way of its own (an Enum, say)."""
    return text if type(text) is str else str.__str__(text)


def stable_text(value: Any, conversion: str | None, spec: str, within: bool) -> str:
    """The text of one field of a key. `within`: the field names an attribute or an item, not an argument itself.

    Raises `ValueError` that says why there is none, and what to write instead.
    """
    if type(value) is not str and type(value) is not int:
        value = _checked(value, within)
    is_text = isinstance(value, str)
    if conversion == "r":
        value = repr(value)
    elif conversion == "s":
        value = str(value)
    elif conversion == "a":
        value = ascii(value)
    text = format(value, spec)
    if not is_text and _ADDRESS.search(text):
        raise ValueError(f"{text!r} is a place in memory, another one in each process; name an attribute of it")
    return text


def _checked(value: Any, within: bool) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, enum.Enum):
        return int(value) if isinstance(value, int) else value
    if value is None and within:
        raise ValueError("it is None: what has not been saved, or has no such value, has no key of its own")
    if isinstance(value, Promise):
        raise ValueError("a lazy text is another one in each language; make it a str in one of them")
    if isinstance(value, (set, frozenset, dict)):
        raise ValueError(f"the order of a {type(value).__name__} is by chance; sort it, and pass a tuple")
    if isinstance(value, _MANY):
        items = [_checked(item, False) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if getattr(value, "is_anonymous", False) is True:
        raise ValueError("an anonymous user is no one in particular; name the session, or lock nothing")
    if isinstance(value, Model):
        if value.pk is None:
            raise ValueError(f"this {value.__class__.__name__} is not saved yet, and has no key of its own")
        return f"{value._meta.label_lower}-{value.pk}"  # two rows may have the same text, and one another text tomorrow
    kind = value.__class__  # of what a lazy object stands for
    if kind.__format__ is object.__format__ and kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        raise ValueError(
            f"a {kind.__qualname__} has no text but its place in memory, another one in each process; name an attribute"
            " of it, or give it a __str__"
        )
    return value
