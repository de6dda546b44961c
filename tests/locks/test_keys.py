"""Keys: the same for the same thing in every process, and never the same for two."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import logging
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext_lazy

from django_locksmith import Locksmith, locksmith, single_flight, tokens
from django_locksmith.api import said_once
from django_locksmith.api.flight_options import plan_of
from django_locksmith.api.key_templates import key_maker
from django_locksmith.conf import read_settings
from django_locksmith.views.askers import NOBODY
from django_locksmith.views.view_keys import ViewKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.deployments import Deployment


class Word(str, enum.Enum):
    """A `str` that is formatted otherwise than it compares, on some Pythons."""

    A = "report"


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    SEVEN = 7


class Plain:
    """Without a text of its own."""


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


def two(a: Any, b: Any = 1) -> None: ...


def made(template: str, *args: Any) -> str:
    return key_maker(template, two)(args, {})


# ---- a str of another class


def test_enum_is_the_string_that_it_equals(valkey: Deployment) -> None:
    """A key that is a `str` of another class is the lock of the equal string, whichever is asked for first."""
    for first, second in ((Word.A, "report"), ("report", Word.A)):
        lease = Locksmith()(first).acquire()
        assert lease is not None
        assert {"__locksmith:report"} <= valkey.keys()
        assert Locksmith()(second, blocking=False).acquire() is None
        assert lease.key == "report"
        assert type(lease.key) is str
        info = locksmith.info(second)
        assert info is not None
        assert locksmith.clear(second)
        assert locksmith.get_or_set(first, lambda: 1, 60) == 1
        assert locksmith.get_or_set(second, lambda: 2, 60) == 1
        locksmith.invalidate(second)


def test_enum_as_a_prefix_or_a_label(valkey: Deployment) -> None:
    """So it is for the prefix, and the label."""
    with Locksmith(prefix=Word.A)("a", label=Word.A) as lease:
        assert valkey.left_behind() == {"reporta"}
        assert lease.token.endswith("|report")


# ---- templates


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        ("x", "x"),
        (Word.A, "report"),
        (Colour.RED, "Colour.RED"),
        (Number.SEVEN, "7"),
        (1.5, "1.5"),
        (True, "True"),
        (None, "None"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2026, 11, 26), "2026-11-26"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, "a"), "(1, 'a')"),
        (b"x", "b'x'"),
        (Group(pk=3, name="staff"), "auth.group-3"),
        (SimpleLazyObject(lambda: User(pk=1, username="joe")), "1"),
        ([Group(pk=3), 4], "['auth.group-3', 4]"),
        (["meet at 0x1f"], "['meet at 0x1f']"),
        (collections.deque([1, "a"]), "[1, 'a']"),
        (Point(1, Group(pk=3)), "('Point', 1, 'auth.group-3')"),
    ],
)
def test_stable_values(value: Any, text: str) -> None:
    """What has a text of its own goes into the key as that text."""
    assert made("k:{a}", value) == f"k:{text}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Plain(), "a Plain has no text but its place in memory"),
        ([Plain()], "a Plain has no text"),
        (two, "is a place in memory"),
        (lambda: None, "is a place in memory"),
        (iter([1]), "iterator"),
        ([lambda: None], "is a place in memory"),
        (collections.deque([Plain()]), "a Plain has no text"),
        (Point(1, Plain()), "a Plain has no text"),
        (Point(1, {1}), "the order of a set"),
        ({"a": 1}.values(), "the order of a dict_values is by chance"),
        (Group.objects.all(), "a QuerySet is what the database says"),
        (Group.objects, "a QuerySet is what the database says"),
        (RequestFactory().get("/"), "a request has no text"),
        ({1, 2}, "the order of a set is by chance"),
        (({"a": 1},), "the order of a dict is by chance"),
        (gettext_lazy("yes"), "another one in each language"),
        (Group(name="new"), "this Group is not saved yet"),
        (SimpleLazyObject(Plain), "a Plain has no text"),
        (AnonymousUser(), "an anonymous user is no one in particular"),
    ],
)
@pytest.mark.parametrize("field", ["{a}", "{a!r}", "{a!s:>40}"])
def test_values_without_a_text(value: Any, said: str, field: str) -> None:
    """What has none is refused, by an error that says why, and names the field."""
    with pytest.raises(ValueError, match="cannot be made for this call") as caught:
        made(f"k:{field}", value)
    assert said in str(caught.value)
    assert "{a}" in str(caught.value)


def test_attributes_that_are_none() -> None:
    """An attribute that is `None`, as the key of what is not saved, is refused; an argument may be `None`."""
    assert made("{a}:{b}", None, None) == "None:None"
    for field in ("{a.pk}", "{a.pk!r}"):
        with pytest.raises(ValueError, match="it is None"):
            made(field, SimpleNamespace(pk=None))


@pytest.mark.parametrize(
    ("template", "one", "other"),
    [
        ("{a}:{b}", ("a", "b:c"), ("a:b", "c")),
        ("doc:{a}:{b}", ("a%3Ab", "c"), ("a:b", "c")),
        ("{a} and {b}", ("x", "y and z"), ("x and y", "z")),
        ("{a}{{:{b}", ("x{", "y"), ("x", "{y")),
        ("{a}-{b}", ("1", "-2"), ("1-", "2")),
        ("{a}→{b}", ("1", "→2"), ("1→", "2")),
        ("{a}\U0001f512{b}", ("%F0%9F%94%92", "2"), ("", "%94%92\U0001f5122")),
    ],
)
def test_parts_are_kept_apart(template: str, one: Any, other: Any) -> None:
    """Different arguments make different keys, whatever their texts contain."""
    assert made(template, *one) != made(template, *other)


def test_usual_keys_are_as_they_look() -> None:
    """What does not contain what separates the fields is in the key as it is; so is all of a single field."""
    assert made("{a}:{b}", "a-b/c d%", "ä") == "a-b/c d%25:ä"
    assert made("x:{a}", "a:b%") == "x:a:b%"


def test_fields_with_nothing_between() -> None:
    """A template that cannot keep its fields apart is refused when it is written."""
    with pytest.raises(ValueError, match="two fields with nothing between them"):
        locksmith("{a}{b}")(two)


def test_rule_is_the_same_everywhere(valkey: Deployment, rf: RequestFactory) -> None:
    """Locks, values and views make their keys by the one rule."""

    def view(request: Any, slug: Any, page: Any) -> None: ...

    key = ViewKey("{slug}:{page}", view)
    request = rf.get("/")
    assert key.make(request, NOBODY, (), {"slug": "a:b", "page": "c"}) == "a%3Ab:c"
    with pytest.raises(ValueError, match="no text but its place"):
        key.make(request, NOBODY, (), {"slug": Plain(), "page": 1})
    for decorate in (locksmith, lambda template: single_flight(key=template, timeout=60)):
        decorated: Callable[..., Any] = decorate("{a}:{b}")(two)
        with pytest.raises(ValueError, match="no text but its place"):
            decorated(Plain())


def test_widths_have_a_limit() -> None:
    """An argument cannot make a key of any length of another one."""
    assert made("{a:{b}}", "x", 5) == "x    "
    for width in (10**4, 10**9, "1" * 5000):
        with pytest.raises(ValueError, match="more than 1000 characters"):
            made("{a:{b}}", "x", width)


def test_default_key_of_a_view(rf: RequestFactory) -> None:
    """Without a template, a view's arguments go by the same rule."""

    def view(request: Any, slug: Any) -> None: ...

    key = ViewKey(None, view, shared=True)
    assert key.make(rf.get("/"), NOBODY, (), {"slug": Word.A}).endswith(":slug=report:anonymous")
    with pytest.raises(ValueError, match=r"view needs a key: its argument 'slug': a Plain has no text"):
        key.make(rf.get("/"), NOBODY, (), {"slug": Plain()})


def test_cache_by_an_enum(valkey: Deployment) -> None:
    """The alias of a cache, too, is the string that it equals; and anything else is refused."""

    class Alias(str, enum.Enum):
        DEFAULT = "default"

    events: list[str] = []
    assert locksmith.get_or_set("a", lambda: events.append("computed") or 1, 60, cache=Alias.DEFAULT) == 1
    assert call_name(cache=Alias.DEFAULT) == call_name() == "default"
    locksmith.invalidate("a", cache=Alias.DEFAULT)
    assert locksmith.get_or_set("a", lambda: 2, 60) == 2
    with pytest.raises(TypeError, match="cache must be a str"):
        locksmith.get_or_set("a", 1, 60, cache=None)  # type: ignore[arg-type]  # that is the point


def call_name(**how: Any) -> str:
    alias = plan_of(how).cache  # type: ignore[arg-type]  # a dict of options
    assert type(alias) is str
    return alias


def test_clear_checks_keys(valkey: Deployment) -> None:
    """What is to be cleared is named by the same keys, also in a `LockInfo`; a pattern is a string."""
    with locksmith("a"):
        info = locksmith.info("a")
    assert info is not None
    with pytest.raises(ValueError, match="reserved"):
        locksmith.clear(dataclasses.replace(info, key="<queue>a"))
    for ask in (locksmith.locks, lambda pattern: locksmith.clear(pattern=pattern)):
        with pytest.raises(TypeError, match="pattern must be a str"):
            ask(b"*")  # type: ignore[operator]  # that is the point


def test_forgotten_f(valkey: Deployment, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a field that nobody fills in is warned of, once; what a decorator made is not."""
    monkeypatch.setattr(said_once, "_said", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with locksmith("z:{account_id}"):
                pass
            locksmith.get_or_set("z:{user}", 1, 60)
        locksmith("{{a}}")(two)(1)
        single_flight(key="v:{a}", timeout=60)(two)("x")
        with locksmith("json {} {1}"):
            pass
    said = [record.getMessage().split(" has braces")[0] for record in caplog.records]
    assert said == ["the key 'z:{account_id}'", "the key 'z:{user}'"]


@pytest.mark.parametrize(
    ("argument", "label"),
    [
        ("runserver", "program runserver"),
        ("postgres://u:secret@h/db", "program"),
        ("--token=secret", "program"),
        ("", "program"),
    ],
)
def test_label_tells_no_secrets(monkeypatch: pytest.MonkeyPatch, argument: str, label: str) -> None:
    """By default a token tells the program, and its first argument if that is a plain word."""
    monkeypatch.setattr("sys.argv", ["/usr/bin/program", argument, "more"])
    assert tokens._describe_process()[1] == label


# ---- settings


@pytest.mark.parametrize("given", [[], "", 0, False, ()])
def test_settings_that_are_none(given: Any) -> None:
    """`LOCKSMITH` that is no dict is refused, also where it is empty."""
    with (
        override_settings(LOCKSMITH=given),
        pytest.raises(ImproperlyConfigured, match=r"settings\.LOCKSMITH is a dict"),
    ):
        read_settings()


@pytest.mark.parametrize("setting", ["prefix", "redis"])
def test_lone_surrogates(setting: str) -> None:
    """A text that cannot be written is refused by the name of the setting."""
    with pytest.raises(ValueError, match=f"{setting} cannot be written as UTF-8"):
        read_settings({setting: "a\udc00\ud800"})
    with pytest.raises(ValueError, match=r"label .* cannot be written"):
        locksmith("a", label="\ud800").acquire()
    with pytest.raises(ValueError, match="token must be a str that nobody else uses"):
        locksmith("a").acquire(token="\ud800")


@pytest.mark.parametrize("option", ["timeout", "blocking_timeout", "max_hold"])
def test_numbers_beyond_floats(option: str) -> None:
    """A number that is too large for seconds is refused by the name of the option."""
    with pytest.raises(ValueError, match=f"{option} is far too large"):
        locksmith("a", **{option: 10**400, "renew": True})  # type: ignore[call-overload]  # one of several
