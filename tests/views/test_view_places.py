"""`@lock_view(rate_limit=)`: requests at their places in a rate limit; and what hears who comes too early."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User

from django_locksmith import RetryLater, locksmith
from django_locksmith.decorators import lock_view
from tests.views.sites import HTML, KEY, Site, is_free, ok, somebody_has

if TYPE_CHECKING:
    from django.http import HttpResponse

pytestmark = pytest.mark.django_db(transaction=True)
MIDDLEWARE = ["django_locksmith.middleware.LocksmithMiddleware"]


def view_of(site: Site, rate: str = "1/60s", name: str = "api", body: Any = ok, **how: Any) -> Any:
    return lock_view(KEY, rate_limit=locksmith.rate_limit(name, rate), **how)(site.view(body))


def test_place_is_far_away(site: Site) -> None:
    """Who would have to wait for longer gets a 503 with Retry-After, and the lock is free again; nothing is booked."""
    view = view_of(site)
    assert site.post(view).status_code == 200
    for _ in range(2):
        response = site.post(view)
        assert response.status_code == 503
        assert 55 <= int(response.headers["Retry-After"]) <= 61
        assert response.headers["Cache-Control"] == "no-store"
        assert json.loads(response.content)["detail"] == "This is not possible at the moment."
        assert is_free(KEY)
    page = site.post(view, headers={"accept": HTML})
    assert "Please come again" in page.content.decode()
    assert "api" not in page.content.decode()
    (limit,) = locksmith.rate_limits()
    assert limit.windows[0].used == 1
    assert site.post(view_of(site, status=429)).status_code == 429


def test_waits_for_its_place(site: Site) -> None:
    """With time to wait, it is served at its place; who finds the lock busy takes none."""
    view = view_of(site, "1/s", blocking_timeout=30)
    assert [site.post(view).status_code for _ in range(2)] == [200, 200]
    with somebody_has():
        assert site.post(view_of(site, "1/s")).status_code == 409
    (limit,) = locksmith.rate_limits()
    assert limit.windows[0].used <= 1


def test_for_each_user(site: Site) -> None:
    """The name is a template as the key is: each user has an allowance."""
    view = view_of(site, name="api:{user}")
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    assert [site.post(view, as_user=user).status_code for user in (ann, bob, ann)] == [200, 200, 503]


def test_api_says_so(site: Site) -> None:
    """A `RetryLater` of the view pauses the limit for all; without a limit, the answer is the middleware's."""

    def body(request: Any, pk: int) -> HttpResponse:
        raise RetryLater(30)

    assert site.post(view_of(site, body=body)).headers["Retry-After"] in ("30", "31")
    (limit,) = locksmith.rate_limits()
    assert 20 < limit.paused_for <= 31
    with pytest.raises(RetryLater):
        site.post(lock_view(KEY)(site.view(body)))
    response = site.post(lock_view(KEY)(site.view(body)), MIDDLEWARE=MIDDLEWARE)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "30")


def test_methods(site: Site) -> None:
    """What is not locked takes no place."""
    view = view_of(site)
    assert [site.post(view, method="GET").status_code for _ in range(2)] == [200, 200]
    assert locksmith.rate_limits() == []


def test_bad_limits(site: Site) -> None:
    """What is no rate limit is refused when the view is decorated."""
    with pytest.raises(TypeError, match=r"rate_limit is what locksmith.rate_limit\(\) makes"):
        lock_view(KEY, rate_limit=5)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="has no 'github'"):
        lock_view(KEY, rate_limit="github")
