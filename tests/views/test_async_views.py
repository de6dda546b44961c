"""Async views in all their kinds: each is locked for as long as it runs, and none of them by standing still."""

from __future__ import annotations

import asyncio
import functools
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import markcoroutinefunction
from django.http import HttpResponse
from django.test import AsyncClient, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_locksmith.decorators import lock_view
from tests.views.sites import KEY, is_free, url_conf

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.django_db(transaction=True)

locked = lock_view(KEY)


class Inside:
    """Who is in the view, and how many at one time at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.leave: asyncio.Event | None = None

    async def work(self) -> HttpResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        assert self.leave is not None
        await self.leave.wait()
        assert not await asyncio.to_thread(is_free)
        self.now -= 1
        return HttpResponse("done")


def kinds(inside: Inside) -> dict[str, Callable[..., Any]]:
    class Plain(View):
        async def post(self, request: Any) -> HttpResponse:
            return await inside.work()

    class ByPost(View):
        @method_decorator(locked)
        async def post(self, request: Any) -> HttpResponse:
            return await inside.work()

    async def function(request: Any) -> HttpResponse:
        return await inside.work()

    class ByCall:
        async def __call__(self, request: Any) -> HttpResponse:
            return await inside.work()

    @markcoroutinefunction
    @functools.wraps(function)
    def marked(request: Any) -> Any:
        return function(request)

    by_dispatch: Any = method_decorator(locked, name="dispatch")(type("ByDispatch", (Plain,), {}))
    return {
        "function": locked(function),
        "partial": locked(functools.partial(function)),
        "object": locked(ByCall()),
        "marked": locked(marked),
        "method": ByPost.as_view(),
        "dispatch": by_dispatch.as_view(),
        "as_view": locked(Plain.as_view()),
    }


@pytest.mark.parametrize("kind", list(kinds(Inside())))
def test_one_at_a_time(kind: str) -> None:
    """Of three requests at one time one is served, and the others are turned away, whatever kind of view it is."""
    inside = Inside()

    async def ask() -> list[int]:
        client, inside.leave = AsyncClient(), asyncio.Event()
        answers = [asyncio.ensure_future(client.post("/")) for _ in range(3)]
        for turned_away in islice(asyncio.as_completed(answers, timeout=10), 2):
            await turned_away
        inside.leave.set()
        return [(await answer).status_code for answer in answers]

    with override_settings(ROOT_URLCONF=url_conf(path("", kinds(inside)[kind]))):
        assert sorted(asyncio.run(ask())) == [200, 409, 409]
    assert inside.most == 1
    assert is_free()


def test_coroutine_from_what_looks_sync() -> None:
    """A decorator that hides an async def between us and the view is an error that says so, and never a response."""

    def hides(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def inner(request: Any) -> Any:
            return view(request)

        return inner

    @locked
    @hides
    async def view(request: Any) -> HttpResponse:
        return HttpResponse()

    with pytest.raises(TypeError, match="gave a coroutine, which would run outside of the lock; put @lock_view below"):
        view(RequestFactory().post("/"))
    assert is_free()
