"""Who asks: the user, the client that a token stands for, or the visitor's session."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.http import HttpRequest
from django.utils.crypto import salted_hmac

from ..api.stable_texts import has_address, stable_text

if TYPE_CHECKING:
    from collections.abc import Callable


class Asker(NamedTuple):
    """Who sent a request. `text`: what stands for it in a key; `None` if nothing tells who it is."""

    text: str | None


NOBODY = Asker(None)


def asker_of(view: Callable[..., Any], request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asker:
    """Who sent this request to this view."""
    request = _authenticated(view, request, args, kwargs)
    return Asker(_who(request, getattr(request, "user", None)))


async def aasker_of(request: HttpRequest) -> Asker:
    """As `asker_of`, for tasks, in which the user must not be loaded in passing."""
    load = getattr(request, "auser", None)
    return Asker(_who(request, None if load is None else await load()))


def _who(request: HttpRequest, user: Any) -> str | None:
    # A primary key tells more than a token: a user may have many. Accounts that are no rows have none.
    pk = getattr(user, "pk", None) if getattr(user, "is_authenticated", False) else None
    if pk is not None:
        return str(pk)
    return _client(getattr(request, "auth", None)) or _bearer(request) or session_of(request)


def _client(auth: Any) -> str | None:
    """What stands for what authenticated the request, in Django Ninja or Django REST framework."""
    if auth is None or isinstance(auth, bool):  # "yes" is nobody in particular
        return None
    if getattr(auth, "pk", None) is not None:
        return stable_text(auth, None, "", within=False)
    try:
        text = auth if isinstance(auth, str) else json.dumps(auth, sort_keys=True, default=str)
    except (TypeError, ValueError):
        return None
    return None if not text or has_address(text) else _secret("auth", text)


def _bearer(request: HttpRequest) -> str | None:
    # Not yet authenticated where we stand, or by an account that has no key of its own.
    given = request.headers.get("Authorization")
    return _secret("auth", given) if given else None


def session_of(request: HttpRequest) -> str | None:
    """What stands for the visitor's session; `None` if there is none.

    Visitors without a session have at least the cookie that guards their forms.
    """
    session = getattr(request, "session", None)
    secret = getattr(session, "session_key", None) or request.COOKIES.get(settings.CSRF_COOKIE_NAME)
    return _secret("session", secret) if secret else None


def _secret(kind: str, secret: str) -> str:
    # People who look at locks see their keys: with what is hidden here, they could act as that visitor.
    return f"{kind} {salted_hmac(__name__, secret, algorithm='sha256').hexdigest()[:20]}"


def _authenticated(
    view: Callable[..., Any], request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> HttpRequest:
    """The request as Django REST framework would make it, where that is to happen inside of the lock.

    It authenticates within the view: by then the lock is held. So where we stand around `dispatch`, or around the whole
    view, it is asked beforehand. Who is not let in is told so by the view, as always.
    """
    inside = _rest_view(view)
    if inside is None or not isinstance(request, HttpRequest):
        return request
    inside.request, inside.args, inside.kwargs = request, args, kwargs
    try:
        asked: Any = inside.initialize_request(request, *args, **kwargs)
        asked.user  # noqa: B018  # it is found out when it is first asked for
    except Exception:
        return request
    found: HttpRequest = asked
    return found


def _rest_view(view: Any) -> Any:
    """The view of Django REST framework that this callable leads to, if it does."""
    kind = _rest_kind(view)
    if not isinstance(kind, type):
        return kind
    made: Any = kind(**getattr(view, "initkwargs", {}))
    made.action_map = getattr(view, "actions", None) or {}
    return made


def _rest_kind(view: Any) -> Any:
    """Its class; or the view itself, where the callable is a method of it. `None` if it is none of that framework."""
    while isinstance(view, functools.partial):
        view = view.func
    for kind in (getattr(view, "__self__", None), getattr(view, "cls", None)):
        if hasattr(kind, "initialize_request"):
            return kind
    return None


def is_rest_view(view: Any) -> bool:
    """Does it authenticate by itself, within?"""
    return _rest_kind(view) is not None
