"""The key of a view's lock: a template over its URL arguments and the request, or what a function makes of them."""

from __future__ import annotations

import inspect
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.core.exceptions import BadRequest

from ..api import said_once
from ..api.functions import dotted_name, is_async
from ..api.key_templates import KeyTemplate
from ..api.stable_texts import stable_text
from ..redis.key_names import check_key
from .askers import Asker, session_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

_LONGEST = 100
"""Characters of a value that comes from the client; what is longer goes into the key as its digest."""


class ViewKey:
    """Makes the keys of one view. `wants_user`: whether it is made of the user, whom tasks must load first.

    `shared`: whether visitors of whom nothing is known may share a key.
    """

    def __init__(
        self, key: str | Callable[..., str | None] | None, view: Callable[..., Any], *, shared: bool = False
    ) -> None:
        """Raises `TypeError` or `ValueError` where the key is none."""
        self._key = key
        self._name = dotted_name(view)
        self._shared = shared
        self._roots: set[str] = set()
        self.template = self._name
        if isinstance(key, str):
            self.template = key = check_key(key)
            self._made_by = KeyTemplate(key, self._name)
            self._made_by.check(_usable)
            self._roots = set(self._made_by.roots)
        elif key is not None and (not callable(key) or inspect.isclass(key) or is_async(key)):
            raise TypeError(
                f"the key of {self._name} must be a template, or a function of the request that is no async def, not"
                f" {key!r}"
            )
        self.wants_user = key is None or "user" in self._roots

    def make(self, request: HttpRequest, asker: Asker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The key; `None` from a function means that this request needs no lock.

        Raises `BadRequest` where the client left out what the key is made of, or gave what no key can have;
        `ValueError` where the template does not fit the view.
        """
        made = self._made(request, asker, args, kwargs)
        if made is None:
            return None
        try:
            return check_key(made)
        except ValueError as error:
            raise BadRequest(f"No key can be made of this request: {error}") from error

    def _made(self, request: HttpRequest, asker: Asker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        if self._key is None:
            given: list[tuple[str, Any]] = [(str(number), value) for number, value in enumerate(args)]
            place = urlencode([(name, self._text(name, value)) for name, value in given + sorted(kwargs.items())])
            return f"{self._name}:{_short(place)}:{self._who(asker.text)}"
        if callable(self._key):
            made = self._key(request, *args, **kwargs)
            if made is not None and not isinstance(made, str):
                raise TypeError(f"the key function of {self._name} must return a str or None, not {made!r}")
            return None if made is None else _short(made)
        wanted = self._roots.difference(kwargs)
        values = {name: make(request) for name, make in _OF_REQUEST.items() if name in wanted}
        if "session" in wanted:
            values["session"] = self._who(session_of(request))
        if "user" in wanted:
            values["user"] = self._who(asker.text)
        values.update({name: _short(value) if isinstance(value, str) else value for name, value in kwargs.items()})
        try:
            return self._made_by.make(args, values)
        except BadRequest:
            raise
        except Exception as error:
            has = ", ".join([*kwargs, *_KNOWN])
            raise ValueError(
                f"the key {self._key!r} of {self._name} cannot be made: {error!r}; a key may name {has}"
            ) from error

    def _who(self, known: str | None) -> str:
        if known is not None:
            return known
        if self._shared:
            return "anonymous"
        said_once.warn_once(said_once.NOBODY_IN_PARTICULAR, self._name)
        raise BadRequest("This request needs a session, or a login: nothing tells whose it is.")

    def _text(self, name: str, value: Any) -> str:
        try:
            return stable_text(value, None, "", False)
        except ValueError as error:
            raise ValueError(f"the view {self._name} needs a key: its argument {name!r}: {error}") from error


class _Given:
    """What the client gave: `{header:x}` and `{post:x}` look up what stands behind the colon."""

    def __init__(self, kind: str, values: Any) -> None:
        self._kind = kind
        self._values = values

    def __format__(self, name: str) -> str:
        value = self._values.get(name)
        if not value:
            raise BadRequest(f"This request needs the {self._kind} {name!r}.")
        return _short(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"sha256 {sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _form(request: HttpRequest) -> _Given:
    read = getattr(request, "_read_started", False) and not hasattr(request, "_post") and not hasattr(request, "_body")
    if read and request.method == "POST":
        raise ValueError("a key of {post:...} needs the body, and somebody has read it; lock the view outside of that")
    return _Given("form field", request.POST)


_OF_REQUEST: dict[str, Callable[[HttpRequest], Any]] = {
    "path": lambda request: _short(request.path),
    "method": lambda request: request.method,
    "header": lambda request: _Given("header", request.headers),
    "post": _form,
}
_KNOWN = (*_OF_REQUEST, "session", "user")


def _usable(field: str, spec: str, conversion: str | None) -> str:
    """Why a template may not have this field; "" if it may."""
    root = field.replace("[", ".").split(".", 1)[0]
    if root in ("header", "post"):
        if field != root or conversion or not spec:
            return f"say which {root}: {{{root}:name}}"
    elif root in _KNOWN and field != root:
        return f"{{{root}}} is a text, and has no parts"
    elif root == "request":
        return "a request has no text that tells who asks for what; name what it is about: {path}, {user}"
    return ""
