"""Whose lock it is: users, clients that are known by a token, visitors, and nobody in particular."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.exceptions import BadRequest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path

from django_locksmith import locksmith
from django_locksmith.decorators import lock_view
from tests.views.sites import Site, Taken, ok, rest_views, url_conf

pytestmark = pytest.mark.django_db(transaction=True)


def ask(taken: Taken, *users: Any, auth: Any = None, template: str = "{user}", headers: Any = None) -> list[str]:
    """The keys of requests that these users have sent."""
    for user in users:
        request = RequestFactory().post("/", headers=headers)
        request.user = user
        if auth is not None:
            request.auth = auth  # type: ignore[attr-defined]  # as frameworks set it
        lock_view(template)(ok)(request)
    found = taken.keys[:]
    taken.keys.clear()
    return found


def test_user_is_the_primary_key(taken: Taken) -> None:
    """`{user}` is what `f"order:{user.pk}"` says, and what a template makes of a user elsewhere."""
    user = User.objects.create(username="ann")
    assert ask(taken, user, template="order:{user}") == [f"order:{user.pk}"]
    keys = []

    @locksmith("order:{user}")
    def task(user: User) -> None:
        keys.extend(info.key for info in locksmith.locks())

    task(user)
    assert keys == [f"order:{user.pk}"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("token-a", "token-b"),
        ({"client": "a"}, {"client": "b"}),
        ({"n": 1, "m": 2}, {"n": 2, "m": 1}),
        (["a"], ["b"]),
    ],
    ids=["text", "dict", "numbers", "list"],
)
def test_what_authenticated(taken: Taken, one: Any, other: Any) -> None:
    """Clients known by a token have each their own lock, and nobody who looks at locks sees the token."""
    keys = [*ask(taken, AnonymousUser(), auth=one), *ask(taken, AnonymousUser(), auth=other)]
    assert keys[0] != keys[1]
    assert all(key.startswith("auth ") and "token" not in key for key in keys)
    assert ask(taken, AnonymousUser(), auth=one) == keys[:1]
    if isinstance(one, dict):
        assert ask(taken, AnonymousUser(), auth=dict(reversed(one.items()))) == keys[:1]


def test_rows_that_authenticated(taken: Taken) -> None:
    """Where a row is what authenticated, it is the row; where it is a user, the lock is that user's."""
    user = User.objects.create(username="ann")
    group = Group.objects.create(name="g")
    assert ask(taken, AnonymousUser(), auth=user) == [str(user.pk)]
    assert ask(taken, AnonymousUser(), auth=group) == [f"auth.group-{group.pk}"]


class Service(SimpleNamespace):
    """An account that is no row."""

    is_authenticated = True


@pytest.mark.parametrize("account", [Service(pk=None), Service()], ids=["pk is None", "no pk"])
@pytest.mark.parametrize("auth", [None, True, object()], ids=["none", "yes", "anything"])
def test_accounts_without_a_row(taken: Taken, account: Any, auth: Any) -> None:
    """Accounts without a primary key are told apart by what their requests carry."""
    keys = [
        *ask(taken, account, auth=auth, headers={"authorization": "Bearer 1"}),
        *ask(taken, account, auth=auth, headers={"authorization": "Bearer 2"}),
    ]
    assert len(set(keys)) == 2
    assert not any("Bearer" in key for key in keys)


def test_visitors_without_an_account(taken: Taken) -> None:
    """Anonymous visitors are told apart by their session or the cookie that guards their forms, which nobody sees."""
    for template in ("{user}", "{session}"):
        for secret in ("s3cret-a", "s3cret-b"):
            for kind in ("session", "cookie"):
                request: Any = RequestFactory().post("/")
                request.user = AnonymousUser()
                request.session = SimpleNamespace(session_key=secret if kind == "session" else None)
                if kind == "cookie":
                    request.COOKIES["csrftoken"] = secret
                lock_view(template)(ok)(request)
        keys, taken.keys = taken.keys, []
        assert keys[0] == keys[1] != keys[2] == keys[3]
        assert not any("s3cret" in key for key in keys)


@pytest.mark.parametrize("key", [None, "{user}", "a:{session}"])
def test_nobody_in_particular(site: Site, taken: Taken, caplog: Any, key: str | None) -> None:
    """A request of nobody in particular takes no lock that all such requests would share: a 400, told of once."""
    name = f"test_nobody_in_particular[{key}]"

    def body(request: Any, pk: int) -> HttpResponse:
        return HttpResponse()

    body.__qualname__ = name
    view = site.view(body)
    view.__qualname__ = name
    assert [site.post(lock_view(key)(view), raise_=False).status_code for _ in range(2)] == [400, 400]
    assert not taken.keys
    assert caplog.text.count("anonymous='share'") <= 1
    assert site.post(lock_view(key, anonymous="share")(view)).status_code == 200
    assert taken.keys[0].endswith("anonymous")


def test_nobody_is_told_what_to_do() -> None:
    """Outside of Django's handler the refusal is its BadRequest."""
    with pytest.raises(BadRequest, match="needs a session, or a login"):
        lock_view("{user}")(ok)(RequestFactory().post("/"))


# ---- frameworks that authenticate by themselves


def post_as(view_or_urls: Any, *tokens: int) -> list[int]:
    patterns = view_or_urls if isinstance(view_or_urls, list) else [path("", view_or_urls)]
    with override_settings(ROOT_URLCONF=url_conf(*patterns), ALLOWED_HOSTS=["*"]):
        return [Client().post("/", headers={"authorization": f"Bearer {token}"}).status_code for token in tokens]


@pytest.mark.parametrize("place", ["method", "dispatch", "as_view", "viewset", "below api_view", "above api_view"])
def test_rest_framework_knows_its_users(taken: Taken, place: str) -> None:
    """Wherever the lock stands, the user is the one whom the framework authenticates."""
    view = rest_views(lock_view("order:{user}"))[place]
    assert post_as(view, 1, 2) == [200, 200]
    assert taken.keys == ["order:1", "order:2"]


@pytest.mark.parametrize("place", ["dispatch", "as_view", "viewset"])
def test_rest_framework_turns_away(place: str) -> None:
    """Who cannot be authenticated is told so by the framework, as always, and not by the lock."""
    assert post_as(rest_views(lock_view("order:{user}"))[place], 0) == [403]


def test_ninja_knows_its_clients(taken: Taken) -> None:
    """Operations of Django Ninja: `request.auth` tells who asks, be it a user or a client."""
    from ninja import NinjaAPI
    from ninja.security import HttpBearer

    class Users(HttpBearer):
        def authenticate(self, request: Any, token: str) -> Any:
            return User(pk=int(token), username=token)

    class Clients(HttpBearer):
        def authenticate(self, request: Any, token: str) -> Any:
            return {"client": token}

    for scheme in (Users(), Clients()):
        api = NinjaAPI(urls_namespace=f"askers-{type(scheme).__name__}")
        api.post("/", auth=scheme)(lock_view("order:{user}")(lambda request: {}))
        assert post_as([path("", api.urls)], 1, 2) == [200, 200]
    users, clients = taken.keys[:2], taken.keys[2:]
    assert users == ["order:1", "order:2"]
    assert len({key.removeprefix("order:auth ") for key in clients}) == 2
