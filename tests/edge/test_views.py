"""`@lock_view`: who is turned away and how, what the key is made of, and when the lock is given back."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.asgi import get_asgi_application
from django.db import connection, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_locksmith import LockBusy, Locksmith, LockUnavailable, locksmith, signals
from django_locksmith.decorators import lock_view
from tests.conftest import in_thread
from tests.helpers.servers import free_port, poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.conftest import Deployment

pytestmark = pytest.mark.django_db(transaction=True)

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


@pytest.fixture(autouse=True)
def _nothing_is_left(valkey: Deployment) -> Iterator[None]:
    """Whatever a promise does: in the end no lock is held."""
    yield
    gc.collect()
    poll(lambda: not valkey.left_behind())


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


@pytest.fixture(params=["sync", "async"])
def site(request: pytest.FixtureRequest) -> Site:
    return Site(request.param)


def ok(request: Any, **kwargs: Any) -> HttpResponse:
    return HttpResponse("done")


@pytest.fixture
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """ATOMIC_REQUESTS is on for the default database."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


# ---- one at a time


def test_held_while_the_view_runs(site: Site) -> None:
    """The lock is held while the view runs, and free when the client has its answer."""
    seen: list[bool] = []

    def body(request: Any, pk: int) -> HttpResponse:
        seen.append(is_free("order:7"))
        return HttpResponse("done")

    response = site.post(lock_view("order:{pk}")(site.view(body)))
    assert (response.status_code, response.content) == (200, b"done")
    assert seen == [False]
    assert is_free("order:7")


def test_busy(site: Site) -> None:
    """Who comes while somebody is at it gets a 409 at once, with Retry-After, and no cache keeps it."""
    with somebody_has(timeout=8):
        response = site.post(lock_view(KEY)(site.view(ok)))
    assert response.status_code == 409
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Retry-After"] == "8"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.content) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "The same operation is already under way.",
        "retry_after": 8,
    }


def test_busy_page(site: Site) -> None:
    """A browser gets a page instead of JSON; a project may have its own."""
    with somebody_has():
        response = site.post(lock_view(KEY)(site.view(ok)), headers={"accept": HTML})
    assert response.status_code == 409
    assert response.headers["Content-Type"].startswith("text/html")
    assert "look again in 30 seconds" in response.content.decode()  # a long lease is not waited for


@pytest.mark.parametrize(
    "accept", ["application/json", "application/problem+json, text/html;q=0.5", "*/*", "image/png"]
)
def test_who_gets_json(site: Site, accept: str) -> None:
    """Everybody who does not prefer a page gets JSON."""
    with somebody_has():
        response = site.post(lock_view(KEY)(site.view(ok)), headers={"accept": accept})
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("status", [409, 423, 429, 503])
def test_status(site: Site, status: int) -> None:
    """The status is what the view says."""
    with somebody_has():
        response = site.post(lock_view(KEY, status=status)(site.view(ok)))
    assert response.status_code == json.loads(response.content)["status"] == status


@pytest.mark.parametrize("accept", [HTML, "application/json"])
def test_holder_is_shown_to_developers_only(site: Site, accept: str) -> None:
    """With DEBUG the answer names the lock and its holder; without, neither."""
    said = {}
    with somebody_has(label="the holder's label"):
        for debug in (True, False):
            response = site.post(lock_view(KEY)(site.view(ok)), headers={"accept": accept}, DEBUG=debug)
            said[debug] = response.content.decode().replace("&#x27;", "'")
    assert "the holder's label" in said[True]
    assert "the holder's label" not in said[False]


def test_on_busy(site: Site) -> None:
    """`on_busy` makes the answer, from the request and the error."""

    def instead(request: Any, error: LockBusy) -> HttpResponse:
        return HttpResponse(f"{request.path} {error.key}", status=202)

    with somebody_has():
        response = site.post(lock_view(KEY, on_busy=instead)(site.view(ok)))
    assert (response.status_code, response.content) == (202, b"/0/7/ k")


def test_async_on_busy() -> None:
    """For an async view, `on_busy` may be async."""

    async def instead(request: Any, error: LockBusy) -> HttpResponse:
        return HttpResponse("instead")

    with somebody_has():
        assert Site("async").post(lock_view(KEY, on_busy=instead)(Site("async").view(ok))).content == b"instead"


def test_waiting_for_a_turn(site: Site) -> None:
    """With `blocking_timeout`, a request waits for its turn."""
    holder = in_thread(locksmith(KEY).take).result(10)
    answer = in_thread(lambda: site.post(lock_view(KEY, blocking_timeout=10)(site.view(ok))))
    poll(lambda: (info := locksmith.info(KEY)) and info.waiters == 1)
    holder.release()
    assert answer.result(10).status_code == 200


def test_redis_is_down(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Where Redis does not answer, it is a 503 with Retry-After, and an error in the log; the view is not called."""
    nobody = Locksmith(redis=f"redis://127.0.0.1:{free_port()}/0")
    called: list[bool] = []
    view = lock_view(KEY, service=nobody)(site.view(lambda request, pk: called.append(True)))
    response = site.post(view)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert response.headers["Cache-Control"] == "no-store"
    assert not called
    assert "django_locksmith.view" in {record.name for record in caplog.records if record.levelno == logging.ERROR}
    page = site.post(view, headers={"accept": HTML})
    assert "try again in 5 seconds" in page.content.decode()


# ---- what is locked


def test_safe_methods_are_not_locked(site: Site) -> None:
    """By default, what only reads is not locked; what writes is."""
    with somebody_has():
        view = lock_view(KEY)(site.view(ok))
        got = {
            method: site.post(view, method=method).status_code
            for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
        }
    assert got == {"GET": 200, "HEAD": 200, "OPTIONS": 200, "POST": 409, "PUT": 409, "PATCH": 409, "DELETE": 409}


def test_methods(site: Site) -> None:
    """`methods` says which ones are locked, and no others are."""
    with somebody_has():
        view = lock_view(KEY, methods=["get"])(site.view(ok))
        assert site.post(view, method="GET").status_code == 409
        assert site.post(view).status_code == 200


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


@pytest.fixture
def taken() -> Iterator[Taken]:
    taken = Taken()
    signals.acquired.connect(taken)
    yield taken
    signals.acquired.disconnect(taken)


def test_key_template(site: Site, taken: Taken) -> None:
    """The template names the URL's arguments and what is in the request; metrics know the lock by the template."""
    user = User.objects.create(username="u")
    template = "{pk:03}:{user}:{path}:{method}:{header:X-Order}:{post:item}"
    site.post(
        lock_view(template)(site.view(ok)),
        "item=pen",
        content_type="application/x-www-form-urlencoded",
        headers={"x-order": "A1"},
        as_user=user,
    )
    assert taken.keys == [f"007:user {user.pk}:/0/7/:POST:A1:pen"]
    assert taken.templates == [template]


def test_url_argument_before_all_else(site: Site, taken: Taken) -> None:
    """An argument of the URL that is called like something in the request is meant by its name."""
    conf = url_conf(path("<str:user>/", lock_view("{user}")(lambda request, user: HttpResponse())))
    with override_settings(ROOT_URLCONF=conf):
        Client().post("/ann/")
    assert taken.keys == ["ann"]


@pytest.mark.parametrize("key", ["{header:Idempotency-Key}", "{post:item}"])
def test_client_left_out_what_the_key_is_made_of(site: Site, key: str) -> None:
    """A request without the header or form field that the key needs is a 400: it could not be told from others."""
    assert site.post(lock_view(key)(site.view(ok)), raise_=False).status_code == 400


def test_long_value(site: Site, taken: Taken) -> None:
    """However long a value is that a client sends, the key stays short; different values are different keys."""
    for value in ("a" * 5000, "a" * 4999 + "b"):
        site.post(lock_view("{header:x-order}")(site.view(ok)), headers={"x-order": value})
    assert len(set(taken.keys)) == 2
    assert max(map(len, taken.keys)) < 100


def test_default_key(site: Site, taken: Taken) -> None:
    """Without a key, it is the view, the URL's arguments and the user: others are not in the way."""
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))

    def body(request: Any, pk: int) -> HttpResponse:
        return HttpResponse()

    view = site.view(body)
    for user in (ann, bob):
        site.post(lock_view()(view), as_user=user)
    name = f"{view.__module__}.{view.__qualname__}"
    assert taken.keys == [f"{name}:pk=7:user {ann.pk}", f"{name}:pk=7:user {bob.pk}"]
    assert taken.templates == [name, name]


def test_visitors_without_an_account() -> None:
    """Anonymous visitors are told apart by their session or the cookie that guards their forms, which nobody sees."""
    keys = []

    def body(request: Any, pk: int) -> HttpResponse:
        keys.extend(info.key for info in locksmith.locks())
        return HttpResponse()

    view = lock_view("{user}")(body)
    factory = RequestFactory()
    for secret in ("s3cret-a", "s3cret-b", None):
        for kind in ("session", "cookie"):
            request = factory.post("/")
            request.user = AnonymousUser()
            request.session = SimpleNamespace(session_key=secret if kind == "session" else None)
            if secret and kind == "cookie":
                request.COOKIES["csrftoken"] = secret
            view(request, pk=7)
    assert len(set(keys)) == 3
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert keys[4] == keys[5] == "anonymous"
    assert not any("s3cret" in key for key in keys)


def test_key_function(site: Site, taken: Taken) -> None:
    """A function makes the key from the request and the URL's arguments; `None` means that no lock is wanted."""

    def key(request: Any, pk: int) -> str | None:
        return f"{request.method}-{pk}" if request.headers.get("x-lock") else None

    view = lock_view(key)(site.view(ok))
    assert site.post(view).status_code == 200
    assert taken.keys == []
    assert site.post(view, headers={"x-lock": "1"}).status_code == 200
    assert taken.keys == ["POST-7"]


@pytest.mark.parametrize(
    ("key", "error", "said"),
    [
        ("{nobody}", ValueError, "cannot be made: KeyError\\('nobody'\\); a key may name pk, session, path"),
        (lambda request, pk: 7, TypeError, "must return a str or None, not 7"),
    ],
)
def test_key_that_does_not_fit(key: Any, error: type[Exception], said: str) -> None:
    """A key that does not fit the view is an error that names the culprit."""
    with pytest.raises(error, match=said):
        Site("sync").post(lock_view(key)(ok))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"status": 404}, ValueError, "status must be one of 409, 423, 429, 503, not 404"),
        ({"methods": "POST"}, TypeError, "methods takes a list of methods, not the str 'POST'"),
        ({"key": 7}, TypeError, "key must be a template, a function or None, not 7"),
        ({"key": ""}, TypeError, "key must be a template, a function or None, not ''"),
        ({"timeout": 0}, ValueError, "timeout must be from"),
        ({"blocking_timeout": -1}, ValueError, "blocking_timeout must be 0 or more"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], said: str) -> None:
    """What is wrong with the options is said where the view is defined."""
    with pytest.raises(error, match=said):
        lock_view(**options)


def test_wrong_template() -> None:
    """A key that is no template is refused where the view is defined."""
    with pytest.raises(ValueError, match="is no template"):
        lock_view("{pk")(ok)


def test_forgotten_parentheses() -> None:
    """`@lock_view` without parentheses, or on a class, says what to write instead."""
    for wrong in (RequestFactory().post("/"), View):
        with pytest.raises(TypeError, match=r"write @lock_view\(\)"):
            lock_view(ok)(wrong)  # type: ignore[type-var]  # that is the point


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
        held = locksmith.runtime().held.latest(KEY)
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


@method_decorator(lock_view(), name="dispatch")
class OrderByDispatch(Order):
    pass


@method_decorator(lock_view(), name="dispatch")
class AnotherByDispatch(Order):
    pass


class OrderByPost(Order):
    @method_decorator(lock_view())
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
    assert response.headers["Retry-After"] == "8"


def test_middleware_answers_for_redis_that_is_down(site: Site) -> None:
    """A `LockUnavailable` that a view did not catch is a 503 with Retry-After."""

    def body(request: Any, pk: int) -> HttpResponse:
        raise LockUnavailable("Redis gave no answer")

    response = site.post(site.view(body), MIDDLEWARE=MIDDLEWARE)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"


def test_middleware_leaves_mistakes_alone(site: Site) -> None:
    """Waiting for oneself, and whatever else goes wrong, is not the visitor's trouble: it stays an error."""

    def body(request: Any, pk: int) -> HttpResponse:
        with locksmith(KEY), locksmith(KEY):
            raise AssertionError("not to be reached")

    assert site.post(site.view(body), MIDDLEWARE=MIDDLEWARE, raise_=False).status_code == 500
