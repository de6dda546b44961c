"""`@lock_view`: what a request hears that finds the lock busy, and what the key is made of."""

from __future__ import annotations

import json
import logging
import re
from math import inf
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.views import View

from django_locksmith import LockBusy, Locksmith, clock, locksmith, signals
from django_locksmith.decorators import lock_view
from tests.helpers.callers import in_thread
from tests.helpers.servers import free_port, poll
from tests.views.sites import HTML, KEY, Site, Taken, is_free, ok, somebody_has, url_conf

pytestmark = pytest.mark.django_db(transaction=True)

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
    assert response.headers["Retry-After"] == "2"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.content) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "Another request of this kind is being worked on.",
        "retry_after": 2,
    }


@pytest.mark.parametrize(("asked", "lease", "said"), [(20, 60, "20"), (20, 8, "8"), (0.4, 60, "1")])
def test_retry_after(site: Site, asked: float, lease: float, said: str) -> None:
    """`retry_after` says when to come again: whole seconds, and no later than the lease ends."""
    with somebody_has(timeout=lease):
        response = site.post(lock_view(KEY, retry_after=asked)(site.view(ok)))
    assert response.headers["Retry-After"] == said


def test_busy_page(site: Site) -> None:
    """A browser gets a page instead of JSON; a project may have its own."""
    with somebody_has():
        response = site.post(lock_view(KEY)(site.view(ok)), headers={"accept": HTML})
    assert response.status_code == 409
    assert response.headers["Content-Type"].startswith("text/html")
    page = response.content.decode()
    assert "look again in 2 seconds" in page  # a long lease is not waited for
    assert '<a href="/0/7/">Look again</a>' in page
    for unknowable in ("the same", "Nothing", "nothing"):
        assert unknowable not in page


@pytest.mark.parametrize(
    ("came_from", "leads_to"),
    [("http://testserver/shop/?page=2", "http://testserver/shop/?page=2"), ("http://evil.example/", "/0/7/")],
)
def test_where_to_look_again(site: Site, came_from: str, leads_to: str) -> None:
    """The page leads back to where the request came from, if that is of this site."""
    with somebody_has():
        headers = {"accept": HTML, "referer": came_from}
        response = site.post(lock_view(KEY)(site.view(ok)), headers=headers)
    assert f'<a href="{leads_to}">Look again</a>' in response.content.decode()


TEMPLATES_OF_A_PROJECT = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ],
            "loaders": [
                (
                    "django.template.loaders.locmem.Loader",
                    {"locksmith/answer.html": "<i>{{ user.username }}</i>{% block main %}{% endblock %}"},
                ),
                "django.template.loaders.app_directories.Loader",
            ],
        },
    }
]


@pytest.mark.parametrize("user", [None, "ann"])
def test_page_of_a_project(site: Site, user: str | None) -> None:
    """A project puts its own page around ours, which may look at the user, in async views, too."""
    as_user = User.objects.create(username=user) if user else None
    with somebody_has():
        response = site.post(
            lock_view(KEY)(site.view(ok)), headers={"accept": HTML}, as_user=as_user, TEMPLATES=TEMPLATES_OF_A_PROJECT
        )
    assert response.status_code == 409
    assert response.content.decode().startswith(f"<i>{user or ''}</i>")
    assert "<style>" not in response.content.decode()


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
    assert "look again in 5 seconds" in page.content.decode()
    assert "Nothing" not in page.content.decode()


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
        assert site.post(view, method="HEAD").status_code == 409  # the same code answers it
        assert site.post(view).status_code == 200


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
    assert taken.keys == [f"007:{user.pk}:/0/7/:POST:A1:pen"]
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
    assert taken.keys == [f"{name}:pk=7:{ann.pk}", f"{name}:pk=7:{bob.pk}"]
    assert taken.templates == [name, name]


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
        ("{nobody}", ValueError, "cannot be made: KeyError\\('nobody'\\); a key may name pk, path, method"),
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
        ({"status": "409"}, ValueError, "status must be one of 409, 423, 429, 503, not '409'"),
        ({"status": True}, ValueError, "status must be one of 409, 423, 429, 503, not True"),
        ({"methods": "POST"}, TypeError, "methods takes a list of methods, not 'POST'"),
        ({"methods": b"POST"}, TypeError, "methods takes a list of methods, not b'POST'"),
        ({"methods": 5}, TypeError, "methods takes a list of methods, not 5"),
        ({"methods": [1]}, TypeError, "methods takes names of methods, such as 'POST', not 1"),
        ({"methods": ["post "]}, ValueError, "methods takes names of methods, such as 'POST', not 'post '"),
        ({"methods": []}, ValueError, "methods is empty, and nothing would be locked"),
        ({"on_busy": "skip"}, TypeError, "on_busy must be a function of the request and the LockBusy, not 'skip'"),
        ({"service": None}, TypeError, "service must be a Locksmith, not None"),
        ({"until": "sent"}, ValueError, "until must be 'rendered' or 'closed', not 'sent'"),
        ({"anonymous": True}, ValueError, "anonymous must be 'refuse' or 'share', not True"),
        ({"retry_after": 0}, ValueError, "retry_after must be from"),
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


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("{pk", "is no template"),
        ("{path!x}", "is no template: there is no conversion !x"),
        ("{header}", "say which header: {header:name}"),
        ("{post:}", "say which post: {post:name}"),
        ("{post.item}", "say which post: {post:name}"),
        ("{user.password}", "{user} is a text, and has no parts"),
        ("{session[0]}", "{session} is a text, and has no parts"),
        ("{request}", "a request has no text that tells who asks for what"),
        ("<queue>{pk}", "starts with a word that is reserved"),
        ("\ud800", "cannot be written as UTF-8"),
    ],
)
def test_wrong_template(key: str, said: str) -> None:
    """A key that can be none is refused where the view is defined, and it is said what to write."""
    with pytest.raises(ValueError, match=re.escape(said)):
        lock_view(key)(ok)


async def _no_key(request: Any) -> str:
    return "a"


@pytest.mark.parametrize("key", [int, _no_key], ids=["class", "async"])
def test_key_that_is_no_function(key: Any) -> None:
    """So is a key by a class, or by an async def, whose coroutine would be no text."""
    with pytest.raises(TypeError, match="must be a template, or a function of the request that is no async def"):
        lock_view(key)(ok)


@pytest.mark.parametrize("value", ["<queue>x", "<flight>", "<baton>"])
def test_visitor_names_what_is_reserved(site: Site, value: str) -> None:
    """What no key can be made of is the client's mistake: a 400, and no error of ours."""
    for key in ("{header:x-order}", lambda request, pk: request.headers["x-order"]):
        view = lock_view(key)(site.view(ok))  # type: ignore[arg-type]  # a lambda has no types
        assert site.post(view, headers={"x-order": value}, raise_=False).status_code == 400


def test_visitor_sends_no_text(site: Site) -> None:
    """So is half of a character, as JSON may carry one."""
    view = lock_view(lambda request, pk: json.loads(request.body))(site.view(ok))
    assert site.post(view, b'"\\ud800"', content_type="application/json", raise_=False).status_code == 400


def test_all_client_text_is_shortened(site: Site, taken: Taken) -> None:
    """An argument of the URL, and what a function makes, are as short as headers."""
    conf = url_conf(
        path("a/<path:rest>", lock_view("a:{rest}")(lambda request, rest: HttpResponse())),
        path("b/<path:rest>", lock_view(anonymous="share")(lambda request, rest: HttpResponse())),
        path("c/<path:rest>", lock_view(lambda request, rest: rest)(lambda request, rest: HttpResponse())),
    )
    with override_settings(ROOT_URLCONF=conf):
        for where in "abc":
            for end in "xy":
                Client().post(f"/{where}/{'x' * 5000}{end}")
    assert len(set(taken.keys)) == 6
    assert max(map(len, taken.keys)) < 200


@pytest.mark.parametrize(("options", "longest"), [({}, 600), ({"timeout": 900}, 900), ({"max_hold": None}, None)])
def test_longest_hold(site: Site, options: dict[str, Any], longest: float | None) -> None:
    """A renewed lock of a view ends after ten minutes, whatever a slow client does, unless the view says otherwise."""
    held: list[float] = []

    def keep(lease: Any, **named: Any) -> None:
        held.append(lease.hold_until - clock.now())

    signals.acquired.connect(keep)
    site.post(lock_view(KEY, renew=True, **options)(site.view(ok)))
    signals.acquired.disconnect(keep)
    assert held == [inf if longest is None else pytest.approx(longest, abs=5)]


def test_forgotten_parentheses() -> None:
    """`@lock_view` without parentheses, or on a class, says what to write instead."""
    for wrong in (RequestFactory().post("/"), View):
        with pytest.raises(TypeError, match=r"write @lock_view\(\)"):
            lock_view(ok)(wrong)  # type: ignore[type-var]  # that is the point
