"""The key of a view's lock: a template over its URL arguments and the request, or what a function makes of them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import BadRequest
from django.utils.crypto import salted_hmac

from ..api.functions import dotted_name
from ..api.key_templates import KeyTemplate
from ..api.stable_texts import stable_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

_LONGEST = 100
"""Characters of a value that comes from the client; what is longer goes into the key as its digest."""


class ViewKey:
    """Makes the keys of one view. `wants_user`: whether it is made of the user, whom tasks must load first."""

    def __init__(self, key: str | Callable[..., str | None] | None, view: Callable[..., Any]) -> None:
        self._key = key
        self._name = dotted_name(view)
        if isinstance(key, str):
            self._made_by = KeyTemplate(key, self._name)
            self._roots = set(self._made_by.roots)
            self.template = key
        else:
            self._roots = set()
            self.template = self._name
        self.wants_user = key is None or "user" in self._roots

    def make(self, request: HttpRequest, user: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The key; `None` from a function means that this request needs no lock.

        Raises `BadRequest` where the client left out what the key is made of, `ValueError` where the template does not
        fit the view.
        """
        if self._key is None:
            given: list[tuple[str, Any]] = [(str(number), value) for number, value in enumerate(args)]
            place = urlencode([(name, self._text(name, value)) for name, value in given + sorted(kwargs.items())])
            return f"{self._name}:{place}:{_who(request, user)}"
        if callable(self._key):
            made = self._key(request, *args, **kwargs)
            if made is not None and not isinstance(made, str):
                raise TypeError(f"the key function of {self._name} must return a str or None, not {made!r}")
            return made
        values = {name: make(request) for name, make in _OF_REQUEST.items() if name in self._roots}
        if self.wants_user:
            values["user"] = _who(request, user)
        values.update(kwargs)
        try:
            return self._made_by.make(args, values)
        except BadRequest:
            raise
        except Exception as error:
            has = ", ".join([*kwargs, *_OF_REQUEST, "user"])
            raise ValueError(
                f"the key {self._key!r} of {self._name} cannot be made: {error!r}; a key may name {has}"
            ) from error

    def _text(self, name: str, value: Any) -> str:
        try:
            return stable_text(value, None, "", False)
        except ValueError as error:
            raise ValueError(f"the view {self._name} needs a key: its argument {name!r}: {error}") from error


def user_of(request: HttpRequest) -> Any:
    """The request's user; `None` without django.contrib.auth."""
    return getattr(request, "user", None)


async def auser_of(request: HttpRequest) -> Any:
    """As `user_of`, for tasks, in which the user must not be loaded in passing."""
    load = getattr(request, "auser", None)
    return None if load is None else await load()


def _who(request: HttpRequest, user: Any) -> str:
    if user is not None and user.is_authenticated:
        return f"user {user.pk}"
    return _session(request)


def _session(request: HttpRequest) -> str:
    # Visitors without a session have at least the cookie that guards their forms. Neither may be seen by people who
    # look at locks: with it, one could act as that visitor.
    session = getattr(request, "session", None)
    secret = getattr(session, "session_key", None) or request.COOKIES.get(settings.CSRF_COOKIE_NAME)
    return f"session {salted_hmac(__name__, secret, algorithm='sha256').hexdigest()[:20]}" if secret else "anonymous"


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


_OF_REQUEST: dict[str, Callable[[HttpRequest], Any]] = {
    "session": _session,
    "path": lambda request: _short(request.path),
    "method": lambda request: request.method,
    "header": lambda request: _Given("header", request.headers),
    "post": lambda request: _Given("form field", request.POST),
}
