"""`@lock_view` with other people's frameworks, and the middleware for what nobody caught."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import Group
from django.db import transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator

from django_locksmith import LockUnavailable, locksmith
from django_locksmith.decorators import lock_view
from django_locksmith.middleware import LocksmithMiddleware
from tests.views.sites import KEY, Site, Taken, is_free, somebody_has, url_conf

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.django_db(transaction=True)

# ---- other people's frameworks


@pytest.mark.usefixtures("atomic_requests")
def test_rest_framework(taken: Taken) -> None:
    """Views of Django REST framework: held until the COMMIT and the rendering; an error it answers is rolled back."""
    from rest_framework import exceptions, renderers, views
    from rest_framework.decorators import api_view
    from rest_framework.response import Response

    seen: list[bool] = []

    class Renderer(renderers.JSONRenderer):
        def render(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(is_free())
            return super().render(*args, **kwargs)

    class Api(views.APIView):
        renderer_classes = (Renderer,)
        authentication_classes = ()

        @method_decorator(lock_view(KEY))
        def post(self, request: Any, pk: int) -> Response:
            Group.objects.create(name=request.headers.get("x-fail", "written"))
            transaction.on_commit(lambda: seen.append(is_free()))
            if request.headers.get("x-fail"):
                raise exceptions.ValidationError("no")
            return Response({"done": pk})

    response = Site("sync").post(Api.as_view())
    assert json.loads(response.content) == {"done": 7}
    assert seen == [False, False]
    assert is_free()
    assert Site("sync").post(Api.as_view(), headers={"x-fail": "1"}).status_code == 400
    assert Group.objects.count() == 1
    with somebody_has():
        assert Site("sync").post(Api.as_view()).status_code == 409
        by_function = api_view(["POST"])(lock_view(KEY)(lambda request, pk: Response({})))
        assert Site("sync").post(by_function).status_code == 409


@pytest.mark.usefixtures("atomic_requests")
def test_ninja(taken: Taken) -> None:
    """Operations of Django Ninja, sync and async, whose results are not responses yet."""
    from ninja import NinjaAPI

    api = NinjaAPI(urls_namespace="test")
    seen: list[bool] = []

    @api.post("/sync/{item}")
    @lock_view("item:{item}")
    def operation(request: Any, item: int) -> dict[str, int]:
        transaction.on_commit(lambda: seen.append(is_free("item:7")))
        return {"item": item}

    conf = url_conf(path("", api.urls))
    with override_settings(ROOT_URLCONF=conf):
        assert Client().post("/sync/7").json() == {"item": 7}
        assert seen == [False]
        assert taken.keys == ["item:7"]
        with somebody_has("item:7"):
            assert Client().post("/sync/7").status_code == 409


def test_async_ninja() -> None:
    """The same for async operations."""
    from ninja import NinjaAPI

    api = NinjaAPI(urls_namespace="async-test")

    @api.post("/{item}")
    @lock_view("item:{item}")
    async def operation(request: Any, item: int) -> dict[str, bool]:
        return {"free": await asyncio.to_thread(is_free, "item:7")}

    conf = url_conf(path("", api.urls))
    with override_settings(ROOT_URLCONF=conf):
        assert asyncio.run(AsyncClient().post("/7")).json() == {"free": False}
        with somebody_has("item:7"):
            assert asyncio.run(AsyncClient().post("/7")).status_code == 409


@pytest.mark.parametrize("where", ["dispatch", "as_view", "method"])
def test_adrf(where: str) -> None:
    """Async viewsets of adrf are locked around `dispatch`, `as_view()`, and, from Python 3.12 on, a method."""
    if where == "method" and sys.version_info < (3, 12):
        pytest.skip("adrf asks `inspect`, which knows no marked coroutine functions before Python 3.12")
    from adrf.viewsets import ViewSet
    from rest_framework.response import Response

    decorate = lock_view(KEY)

    class Plain(ViewSet):
        authentication_classes = ()

        async def create(self, request: Any, pk: int) -> Response:
            return Response({"free": await asyncio.to_thread(is_free)})

    class ByMethod(ViewSet):
        authentication_classes = ()

        @method_decorator(decorate)
        async def create(self, request: Any, pk: int) -> Response:
            return Response({"free": await asyncio.to_thread(is_free)})

    actions = {"post": "create"}
    if where == "dispatch":
        view = method_decorator(decorate, name="dispatch")(Plain).as_view(actions)
    elif where == "as_view":
        view = decorate(Plain.as_view(actions))
    else:
        view = ByMethod.as_view(actions)
    assert json.loads(Site("async").post(view).content) == {"free": False}
    assert is_free()
    with somebody_has():
        assert Site("async").post(view).status_code == 409


# ---- what nobody caught

MIDDLEWARE = ["django_locksmith.middleware.LocksmithMiddleware"]


def test_middleware_answers_for_uncaught_busy(site: Site) -> None:
    """A `LockBusy` that a view did not catch is the same 409 as a locked view's."""

    def body(request: Any, pk: int) -> HttpResponse:
        locksmith(KEY, blocking=False).take()
        raise AssertionError("it is busy")

    with somebody_has(timeout=8):
        response = site.post(site.view(body), MIDDLEWARE=MIDDLEWARE)
    assert response.status_code == 409
    assert response.headers["Retry-After"] == "2"


def test_middleware_answers_for_redis_that_is_down(site: Site) -> None:
    """A `LockUnavailable` that a view did not catch is a 503 with Retry-After."""

    def body(request: Any, pk: int) -> HttpResponse:
        raise LockUnavailable("Redis gave no answer")

    response = site.post(site.view(body), MIDDLEWARE=MIDDLEWARE)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"


@pytest.mark.parametrize("by", ["decorator", "middleware"])
def test_log_cannot_be_forged(own_server: Deployment, rf: RequestFactory, caplog: Any, by: str) -> None:
    """A path that a visitor made up stays in the one line that tells of its trouble."""
    request = rf.post("/a%0ACRITICAL%20all%20is%20lost")
    own_server.server.kill()
    if by == "decorator":
        assert lock_view("k")(lambda request: HttpResponse())(request).status_code == 503
    else:
        LocksmithMiddleware(lambda request: HttpResponse()).process_exception(request, LockUnavailable("no answer"))
    (record,) = [each for each in caplog.records if each.name == "django_locksmith.view"]
    assert "\n" not in record.getMessage()
    assert "CRITICAL" in record.getMessage()


def test_middleware_leaves_mistakes_alone(site: Site) -> None:
    """Waiting for oneself, and whatever else goes wrong, is not the visitor's trouble: it stays an error."""

    def body(request: Any, pk: int) -> HttpResponse:
        with locksmith(KEY), locksmith(KEY):
            raise AssertionError("not to be reached")

    assert site.post(site.view(body), MIDDLEWARE=MIDDLEWARE, raise_=False).status_code == 500
