"""`until="closed"`: the lock is kept until the response has been sent, and all middlewares are done."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from django_locksmith.api import said_once
from django_locksmith.decorators import lock_view
from tests.helpers.servers import poll
from tests.views.sites import KEY, Site, is_free, ok, url_conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.django_db(transaction=True)

SESSIONS = ["django.contrib.sessions.middleware.SessionMiddleware"]
ENGINE = "django.contrib.sessions.backends."


class Looks:
    """A middleware that looks whether the lock is free when the view is done."""

    seen: list[bool]

    def __init__(self, get_response: Callable[..., Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        response = self.get_response(request)
        type(self).seen.append(is_free())
        return response


@pytest.mark.parametrize("rendered", [True, False])
def test_kept_until_closed(site: Site, rendered: bool) -> None:
    """Middlewares, and what is rendered later, still hold the lock; when the response was closed it is free."""
    Looks.seen = []

    def body(request: Any, pk: int) -> HttpResponse:
        return HttpResponse() if rendered else TemplateResponse(request, engines["django"].from_string(""))

    response = site.post(lock_view(KEY, until="closed")(site.view(body)), MIDDLEWARE=[f"{__name__}.Looks"])
    assert response.status_code == 200
    assert Looks.seen == [False]
    poll(is_free)
    Looks.seen = []
    site.post(lock_view(KEY)(site.view(ok)), MIDDLEWARE=[f"{__name__}.Looks"])
    assert Looks.seen == [True]


def test_view_fails(site: Site) -> None:
    """A view that raises keeps nothing."""

    def fails(request: Any, pk: int) -> HttpResponse:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        site.post(lock_view(KEY, until="closed")(site.view(fails)))
    assert is_free()


def test_response_is_dropped(rf: Any) -> None:
    """A response that nobody closes, as where a middleware puts another one in its place, gives the lock back."""
    response = lock_view(KEY, until="closed")(ok)(rf.post("/"))
    assert not is_free()
    del response
    gc.collect()
    poll(is_free)


def test_what_is_no_response(rf: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the view returns no response, nothing tells when it was sent: that is said, and the lock is free."""
    monkeypatch.setattr(said_once, "_said", set())
    assert lock_view("unclosed", until="closed")(lambda request: {"n": 1})(rf.post("/")) == {"n": 1}  # type: ignore[arg-type]
    assert is_free()
    assert "what it returned is no response" in caplog.text


# ---- a cart in the session


@pytest.fixture
def _no_sessions_are_left(valkey: Deployment) -> Iterator[None]:
    yield
    valkey.flush()


def add(request: Any, item: int) -> HttpResponse:
    request.session["cart"] = [*request.session.get("cart", ()), item]
    return HttpResponse()


async def aadd(request: Any, item: int) -> HttpResponse:
    cart = await request.session.aget("cart", [])
    await request.session.aset("cart", [*cart, item])
    return HttpResponse()


def show(request: Any) -> HttpResponse:
    return HttpResponse(",".join(map(str, sorted(request.session.get("cart", ())))))


@pytest.mark.usefixtures("_no_sessions_are_left")
@pytest.mark.parametrize("engine", ["cache", "cached_db"])
@pytest.mark.parametrize("key", ["cart:{session}", "cart:{user}"])
def test_cart_in_the_session(admin_user: Any, engine: str, key: str) -> None:
    """Of many additions that wait their turn each finds what the one before it has saved."""
    locked = lock_view(key, blocking_timeout=20, until="closed")
    conf = url_conf(path("add/<int:item>/", locked(add)), path("show/", show))
    middleware = [*SESSIONS, "django.contrib.auth.middleware.AuthenticationMiddleware"]
    with override_settings(ROOT_URLCONF=conf, SESSION_ENGINE=ENGINE + engine, MIDDLEWARE=middleware):
        client = Client()
        client.force_login(admin_user)
        cookies = client.cookies.output(header="", sep=";")

        def post(item: int) -> int:
            one = Client()
            one.cookies.load(cookies)
            try:
                return one.post(f"/add/{item}/").status_code
            finally:
                for each in connections.all(initialized_only=True):  # those of this thread
                    BaseDatabaseWrapper.close(each)  # as Django does with all but databases in memory

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(post, range(16))) == {200}
        assert client.get("/show/").content.decode() == ",".join(map(str, range(16)))


@pytest.mark.usefixtures("_no_sessions_are_left")
def test_cart_of_an_async_view() -> None:
    """The same for async views."""
    locked = lock_view("cart:{session}", blocking_timeout=20, until="closed")
    conf = url_conf(path("add/<int:item>/", locked(aadd)), path("show/", show))
    with override_settings(ROOT_URLCONF=conf, SESSION_ENGINE=ENGINE + "cache", MIDDLEWARE=SESSIONS):
        first = Client()
        session = first.session
        session["cart"] = []
        session.save()
        cookies = first.cookies.output(header="", sep=";")

        async def post(item: int) -> int:
            one = AsyncClient()
            one.cookies.load(cookies)
            return (await one.post(f"/add/{item}/")).status_code

        async def post_all() -> list[int]:
            return await asyncio.gather(*map(post, range(8)))

        assert asyncio.run(post_all()) == [200] * 8
        assert first.get("/show/").content.decode() == ",".join(map(str, range(8)))
