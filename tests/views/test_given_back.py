"""`@lock_view`: when the lock is given back, whatever becomes of the response."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import Group
from django.core.asgi import get_asgi_application
from django.db import connection, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.views import View

from django_locksmith import locksmith
from django_locksmith.decorators import lock_view
from tests.helpers.servers import poll
from tests.views.sites import KEY, Site, Taken, is_free, ok, somebody_has, urls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.helpers.deployments import Deployment


pytestmark = pytest.mark.django_db(transaction=True)

# ---- when it is given back


@pytest.mark.usefixtures("atomic_requests")
def test_outside_of_the_transaction(taken: Taken) -> None:
    """Under ATOMIC_REQUESTS the lock is taken before the transaction begins, and given back after its COMMIT."""
    seen: list[Any] = []

    def body(request: Any, pk: int) -> HttpResponse:
        transaction.on_commit(lambda: seen.append(is_free()))
        seen.append(connection.in_atomic_block)
        Group.objects.create(name="written")
        return HttpResponse()

    assert Site("sync").post(lock_view(KEY)(body)).status_code == 200
    assert seen == [True, False]
    assert taken.in_transaction == [False]
    assert Group.objects.exists()


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_failing_view_is_rolled_back(method: str) -> None:
    """Under ATOMIC_REQUESTS, what a failing view wrote is rolled back, whether the request was locked or not."""

    def body(request: Any, pk: int) -> HttpResponse:
        Group.objects.create(name="not to be written")
        raise ZeroDivisionError

    assert Site("sync").post(lock_view(KEY)(body), method=method, raise_=False).status_code == 500
    assert not Group.objects.exists()
    assert is_free()


def test_failing_view(site: Site) -> None:
    """What a view raises goes on as it is, and the lock is free."""

    def body(request: Any, pk: int) -> HttpResponse:
        raise ZeroDivisionError("the view's own")

    with pytest.raises(ZeroDivisionError, match="the view's own"):
        site.post(lock_view(KEY)(site.view(body)))
    assert is_free()


@pytest.mark.usefixtures("atomic_requests")
def test_lost_before_the_commit() -> None:
    """Under ATOMIC_REQUESTS, a view that lost its lock does not commit."""

    def body(request: Any, pk: int) -> HttpResponse:
        Group.objects.create(name="not to be written")
        locksmith.clear(KEY)
        held = locksmith.runtime().latest_lease(KEY)
        assert held is not None
        held.lose("a renewal found out")
        return HttpResponse()

    assert Site("sync").post(lock_view(KEY)(body), raise_=False).status_code == 500
    assert not Group.objects.exists()


def test_lost_without_a_transaction(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Without a transaction there is nothing to take back: the client gets its answer, and the log an error."""

    def body(request: Any, pk: int) -> HttpResponse:
        locksmith.clear(KEY)
        return HttpResponse("done")

    assert site.post(lock_view(KEY)(site.view(body))).content == b"done"
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["ERROR"]


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("order", ["inside", "outside"])
def test_non_atomic_views_stay_so(order: str) -> None:
    """`@non_atomic_requests` is respected, above `@lock_view` and below."""
    seen: list[bool] = []

    def body(request: Any, pk: int) -> HttpResponse:
        seen.append(connection.in_atomic_block)
        return HttpResponse()

    lock = lock_view(KEY)
    non_atomic = transaction.non_atomic_requests
    Site("sync").post(lock(non_atomic(body)) if order == "inside" else non_atomic(lock(body)))
    assert seen == [False]


@pytest.mark.usefixtures("atomic_requests")
def test_async_views_have_no_transactions() -> None:
    """Django's refusal to wrap an async view in a transaction is not hidden."""
    with pytest.raises(RuntimeError, match="ATOMIC_REQUESTS with async"):
        Site("async").post(lock_view(KEY)(Site("async").view(ok)))


class Order(View):
    """Class-based views; `seen` is what the last request saw."""

    seen: tuple[bool, list[str]]

    def post(self, request: Any, pk: int) -> HttpResponse:
        held = [info.key for info in locksmith.locks()]
        type(self).seen = (connection.in_atomic_block, held)
        transaction.on_commit(lambda: held.append("on commit: " + ("free" if is_free(held[0]) else "held")))
        return HttpResponse()


@method_decorator(lock_view(anonymous="share"), name="dispatch")
class OrderByDispatch(Order):
    pass


@method_decorator(lock_view(anonymous="share"), name="dispatch")
class AnotherByDispatch(Order):
    pass


class OrderByPost(Order):
    @method_decorator(lock_view(anonymous="share"))
    def post(self, request: Any, pk: int) -> HttpResponse:
        return super().post(request, pk=pk)


@pytest.mark.usefixtures("atomic_requests")
@pytest.mark.parametrize("kind", [OrderByDispatch, AnotherByDispatch, OrderByPost])
def test_class_based_views(kind: type[Order], taken: Taken, caplog: pytest.LogCaptureFixture) -> None:
    """Class-based views: one transaction, the lock until its COMMIT, and a key for each class.

    Around `dispatch` the lock is outside of the transaction; around a method of the class it is taken inside.
    """
    Site("sync").post(kind.as_view())
    method = "post" if kind is OrderByPost else "dispatch"
    name = f"{__name__}.{kind.__qualname__}.{method}:pk=7:anonymous"
    assert kind.seen == (True, [name, "on commit: held"])
    assert taken.in_transaction == [kind is OrderByPost]
    assert is_free(name)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("atomic_requests")
def test_locked_twice() -> None:
    """A view that is locked in two places has one transaction, and both locks until its COMMIT."""
    seen: list[Any] = []

    def body(request: Any, pk: int) -> HttpResponse:
        seen.append(len(connection.savepoint_ids))
        transaction.on_commit(lambda: seen.append([is_free("a"), is_free("b")]))
        return HttpResponse()

    Site("sync").post(lock_view("a")(lock_view("b")(body)))
    assert seen == [0, [False, False]]


def page_that(does: Callable[[], Any]) -> Any:
    """A template that does this as it is rendered."""
    return lambda request: TemplateResponse(request, engines["django"].from_string("{{ does }}"), {"does": does})


def test_rendered_later(site: Site) -> None:
    """Where the response is rendered after the view, the lock is held until it is, and can still be pickled then."""
    seen: list[bool] = []
    page = page_that(lambda: seen.append(is_free()))
    response = site.post(lock_view(KEY)(site.view(lambda request, pk: page(request))))
    assert seen == [False]
    assert is_free()
    assert "render" not in vars(response)


def test_rendering_fails(site: Site) -> None:
    """A page that cannot be rendered does not keep the lock."""
    page = page_that(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        site.post(lock_view(KEY)(site.view(lambda request, pk: page(request))))
    assert is_free()


def test_streamed() -> None:
    """While the body is being sent the lock is held; when it was sent, or the client went away, it is free."""
    seen: list[bool] = []

    def chunks() -> Iterator[bytes]:
        for _ in range(2):
            seen.append(is_free())
            yield b"chunk"

    def streamed(request: Any, pk: int) -> StreamingHttpResponse:
        return StreamingHttpResponse(chunks())

    response = Site("sync").post(lock_view(KEY)(streamed))
    assert not is_free()
    assert b"".join(response) == b"chunkchunk"
    assert seen == [False, False]
    assert is_free()
    gone = Site("sync").post(lock_view(KEY)(streamed))
    next(iter(gone))
    assert not is_free()
    gone.close()
    assert is_free()


def test_next_request_of_the_same_thread(valkey: Deployment) -> None:
    """While a response is streamed, its thread may serve the next request: that one waits as any other would."""

    def streamed(request: Any, pk: int) -> StreamingHttpResponse:
        return StreamingHttpResponse([b"chunk"])

    view = lock_view(KEY, blocking_timeout=0.05)(streamed)
    first = Site("sync").post(view)
    assert Site("sync").post(view).status_code == 409
    first.close()
    second = Site("sync").post(view)
    assert second.status_code == 200
    second.close()


def test_response_that_nobody_sends(site: Site) -> None:
    """A response that a middleware replaces by another is not sent: the lock is free when Python has collected it."""
    page = page_that(str)
    for make in (lambda request, pk: StreamingHttpResponse([b"chunk"]), lambda request, pk: page(request)):
        view = lock_view(KEY)(site.view(make))
        response = site.post(view, MIDDLEWARE=[f"{__name__}.replace_response"])
        assert response.content == b"another"
        gc.collect()  # with Python 3.10, an async handler leaves it in a cycle
        poll(is_free)


def replace_response(get_response: Callable[..., Any]) -> Callable[..., Any]:
    def middleware(request: Any) -> HttpResponse:
        get_response(request)
        return HttpResponse("another")

    return middleware


replace_response.async_capable = False  # type: ignore[attr-defined]


# ---- clients that go away, through Django's ASGI handler


class Visit:
    """One client of the ASGI application, who may go away."""

    def __init__(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/0/7/",
            "query_string": b"",
            "headers": [],
            "http_version": "1",
        }
        self._talk = ApplicationCommunicator(get_asgi_application(), scope)

    async def ask(self) -> None:
        await self._talk.send_input({"type": "http.request", "body": b""})

    async def hear(self) -> dict[str, Any]:
        said: dict[str, Any] = await self._talk.receive_output(10)
        return said

    async def go_away(self) -> None:
        await self._talk.send_input({"type": "http.disconnect"})

    async def wait(self) -> None:
        await self._talk.wait(10)


def test_disconnect_during_an_async_view() -> None:
    """When the client goes away, Django cancels an async view: the lock is free."""

    async def visit() -> None:
        begun = asyncio.Event()

        @lock_view(KEY)
        async def endless(request: Any, pk: int) -> HttpResponse:
            begun.set()
            await asyncio.Event().wait()
            return HttpResponse()

        with urls(endless, MIDDLEWARE=[]):
            client = Visit()
            await client.ask()
            await asyncio.wait_for(begun.wait(), 10)
            assert not await asyncio.to_thread(is_free)
            await client.go_away()
            await client.wait()
            assert await asyncio.to_thread(is_free)

    asyncio.run(visit())


def test_disconnect_while_waiting_for_a_turn() -> None:
    """A client that goes away while it waits leaves no waiter behind."""

    async def visit() -> None:
        with urls(lock_view(KEY, blocking_timeout=60)(Site("async").view(ok)), MIDDLEWARE=[]):
            client = Visit()
            await client.ask()
            await asyncio.to_thread(poll, lambda: (info := locksmith.info(KEY)) and info.waiters == 1)
            await client.go_away()
            await client.wait()
            info = await locksmith.ainfo(KEY)
            assert info is not None
            assert info.waiters == 0

    with somebody_has():
        asyncio.run(visit())


@pytest.mark.parametrize("caller", ["sync", "async"])
def test_disconnect_while_the_body_is_sent(caller: str) -> None:
    """When the client goes away in the middle of a streamed body, the lock is free."""

    async def visit() -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"chunk"
            await asyncio.Event().wait()

        view = lock_view(KEY)(Site(caller).view(lambda request, pk: StreamingHttpResponse(chunks())))
        with urls(view, MIDDLEWARE=[]):
            client = Visit()
            await client.ask()
            assert (await client.hear())["status"] == 200
            assert (await client.hear())["body"] == b"chunk"
            assert not await asyncio.to_thread(is_free)
            await client.go_away()
            await client.wait()
            assert await asyncio.to_thread(is_free)

    asyncio.run(visit())


def test_disconnect_during_a_sync_view() -> None:
    """A sync view runs on when its client has gone away; what it returns is dropped, and the lock with it."""

    async def visit() -> None:
        import threading

        begun, go_on = threading.Event(), threading.Event()

        @lock_view(KEY)
        def slow(request: Any, pk: int) -> StreamingHttpResponse:
            begun.set()
            assert go_on.wait(10)
            return StreamingHttpResponse([b"chunk"])

        with urls(slow, MIDDLEWARE=[]):
            client = Visit()
            await client.ask()
            assert await asyncio.to_thread(begun.wait, 10)
            await client.go_away()
            go_on.set()
            await client.wait()
            gc.collect()
            await asyncio.to_thread(poll, is_free)

    asyncio.run(visit())
