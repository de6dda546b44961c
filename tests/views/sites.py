"""Projects with a view or two, and their clients."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator

from django_locksmith import locksmith
from tests.helpers.callers import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


KEY = "k"


HTML = "text/html,application/xhtml+xml,*/*;q=0.8"  # what browsers say


def is_free(key: str = KEY) -> bool:
    """Could another process take it?"""

    def try_it() -> bool:
        found = locksmith(key).acquire(blocking=False)
        return bool(found and found.release())

    return in_thread(try_it).result(10)


@contextmanager
def somebody_has(key: str = KEY, **options: Any) -> Iterator[None]:
    lease = in_thread(locksmith(key, **options).take).result(10)
    yield
    lease.release()


def url_conf(*patterns: Any) -> ModuleType:
    conf = ModuleType("urls_of_a_test")
    conf.urlpatterns = list(patterns)  # type: ignore[attr-defined]  # as a project's has
    return conf


@contextmanager
def urls(*views: Callable[..., Any], **settings: Any) -> Iterator[None]:
    """A project with these views at /0/<pk>/, /1/<pk>/..."""
    conf = url_conf(*(path(f"{number}/<int:pk>/", view) for number, view in enumerate(views)))
    with override_settings(ROOT_URLCONF=conf, ALLOWED_HOSTS=["*"], **settings):
        yield


class Site:
    """A project with one view, and what a client gets from it; through WSGI's handler or ASGI's."""

    def __init__(self, caller: str) -> None:
        self.is_async = caller == "async"

    def post(self, view: Callable[..., Any], data: Any = None, *, method: str = "POST", **more: Any) -> Any:
        settings = {name: more.pop(name) for name in list(more) if name.isupper()}
        headers = more.pop("headers", None)
        as_user = more.pop("as_user", None)
        with urls(view, **settings):
            if not self.is_async:
                client = Client(raise_request_exception=more.pop("raise_", True))
                if as_user is not None:
                    client.force_login(as_user)
                return client.generic(method, "/0/7/", data or b"", headers=headers, **more)

            async def ask() -> Any:
                client = AsyncClient(raise_request_exception=more.pop("raise_", True))
                if as_user is not None:
                    await client.aforce_login(as_user)
                return await client.generic(method, "/0/7/", data or b"", headers=headers, **more)

            return asyncio.run(ask())

    def view(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """A view for this kind of caller from a plain function."""
        if not self.is_async:
            return lambda request, *args, **kwargs: body(request, *args, **kwargs)

        async def view(request: Any, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(body, request, *args, **kwargs)

        return view


def rest_views(decorate: Callable[..., Any]) -> dict[str, Any]:
    """Views of Django REST framework that know their users by a token, locked in each place that there is."""
    from rest_framework.authentication import BaseAuthentication
    from rest_framework.decorators import api_view, authentication_classes
    from rest_framework.exceptions import AuthenticationFailed
    from rest_framework.permissions import IsAuthenticated
    from rest_framework.response import Response
    from rest_framework.views import APIView
    from rest_framework.viewsets import ViewSet

    class ByToken(BaseAuthentication):
        def authenticate(self, request: Any) -> Any:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if token == "0":
                raise AuthenticationFailed
            return (User(pk=int(token), username=token), token) if token else None

    class ByMethod(APIView):
        authentication_classes = (ByToken,)
        permission_classes = (IsAuthenticated,)

        @method_decorator(decorate)
        def post(self, request: Any) -> Any:
            return Response({})

    class Plain(APIView):
        authentication_classes = (ByToken,)
        permission_classes = (IsAuthenticated,)

        def post(self, request: Any) -> Any:
            return Response({})

    class Set(ViewSet):
        authentication_classes = (ByToken,)
        permission_classes = (IsAuthenticated,)

        def create(self, request: Any) -> Any:
            return Response({})

    def function(request: Any) -> Any:
        return Response({})

    by_dispatch: Any = method_decorator(decorate, name="dispatch")(type("ByDispatch", (Plain,), {}))
    with_token = authentication_classes([ByToken])
    return {
        "method": ByMethod.as_view(),
        "dispatch": by_dispatch.as_view(),
        "as_view": decorate(Plain.as_view()),
        "viewset": decorate(Set.as_view({"post": "create"})),
        "below api_view": api_view(["POST"])(with_token(decorate(function))),
        "above api_view": decorate(api_view(["POST"])(with_token(function))),
    }


def ok(request: Any, **kwargs: Any) -> HttpResponse:
    return HttpResponse("done")


class Taken:
    """The keys of the locks that are taken, and the names that metrics have for them."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.templates: list[str] = []
        self.in_transaction: list[bool] = []

    def __call__(self, lease: Any, **named: Any) -> None:
        self.keys.append(lease.key)
        self.templates.append(lease.template)
        self.in_transaction.append(connection.in_atomic_block)
