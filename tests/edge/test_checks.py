"""The system checks: what they find out, what they say about it, and when they ask a server at all."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.core import checks
from django.core.cache import cache
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from django.utils.decorators import method_decorator
from django.views import View

import django_locksmith
from django_locksmith import LockLost, Locksmith, locksmith
from django_locksmith.checks import check_order, check_prefix, check_retries, check_servers, check_views
from django_locksmith.checks.servers import rights
from django_locksmith.decorators import lock_view
from tests.helpers import ROOT, servers
from tests.helpers.deployments import DEPLOYMENTS, SINGLE, alias, available, in_force
from tests.helpers.origins import Origin
from tests.helpers.proxy import proxy_to
from tests.helpers.servers import poll
from tests.views.sites import rest_views, url_conf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment
    from tests.helpers.servers import Server

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
NOWHERE = "redis://127.0.0.1:1/0"  # nobody listens


def said(messages: list[checks.CheckMessage]) -> dict[str, str]:
    """What the checks say, by their ids; each has a hint."""
    assert all(message.hint for message in messages)
    assert len({message.id for message in messages}) == len(messages)
    return {message.id or "": message.msg for message in messages}


def run_command(*arguments: str) -> str:
    """What `manage.py check` prints of ours; errors, or not."""
    out, err = StringIO(), StringIO()
    try:
        call_command("check", *arguments, stdout=out, stderr=err)
    except SystemCheckError as error:
        err.write(str(error))
    return "\n".join(re.findall(r"locksmith\.[EW]\d+", out.getvalue() + err.getvalue()))


@contextmanager
def locks_in(cache: dict[str, Any], **more: Any) -> Iterator[None]:
    """Locks on an alias of their own, beside a cache of each process."""
    caches = {"default": {"BACKEND": LOCMEM}, "locks": cache, **more}
    with override_settings(CACHES=caches, LOCKSMITH={"REDIS": "locks"}):
        yield


@contextmanager
def server_with(*options: str) -> Iterator[Server]:
    """A Valkey of these options, which the locks are on."""
    with servers.running(servers.valkey_binary(), *options) as server, locks_in(alias(server.url)):
        yield server


# ---- when a server is asked


def test_a_server_is_asked_when_it_is_wanted() -> None:
    """Redis is asked by `check --deploy` and by `check --tag locksmith`, and by nothing else that runs the checks."""
    with locks_in(alias(NOWHERE)):
        for arguments in ([], ["--tag", "models"], ["--tag", "security", "--deploy"], ["django_locksmith"]):
            assert run_command(*arguments) == ""
        for arguments in (["--deploy"], ["--tag", "locksmith"], ["--deploy", "--tag", "locksmith"]):
            assert run_command(*arguments) == "locksmith.W004"
        assert run_command("--tag", "models", "--tag", "locksmith") == "locksmith.W004"


def test_locks_in_memory() -> None:
    """`check --deploy` warns of locks that each process has for itself; other runs do not: tests want them."""
    with override_settings(LOCKSMITH={"REDIS": "memory://"}):
        assert run_command() == ""
        assert run_command("--deploy") == "locksmith.W006"


def test_wrong_settings_are_said_once() -> None:
    """Where the settings are at fault, that is all that the checks say: there is no server to ask."""
    with override_settings(LOCKSMITH={"TIMEOUT": 0}):
        assert run_command("--deploy") == "locksmith.E001"
    with override_settings(LOCKSMITH={"REDIS": "default"}):
        assert run_command("--deploy", "--tag", "locksmith") == "locksmith.E002"


# ---- what the server says


@pytest.fixture(params=available(DEPLOYMENTS))
def locks(request: pytest.FixtureRequest, started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """Each kind of deployment in turn, which nothing but locks is on."""
    where = started(request.param)
    where.flush()
    with locks_in(where.cache):
        yield where


def test_all_is_well(locks: Deployment) -> None:
    """Of a server that is fit for locks the checks say nothing; nor do they leave anything behind on it."""
    assert check_servers() == []
    assert locks.left_behind() == set()
    if locks.kind == "cluster":
        assert locks.keys() == set()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_eviction(policy: str) -> None:
    """A server that may evict locks is warned of, by `check --deploy` also in words."""
    with server_with("--maxmemory-policy", policy):
        messages = said(check_servers())
        out = StringIO()
        call_command("check", "--deploy", stdout=out, stderr=out)
    assert messages.keys() == {"locksmith.W002"}
    assert policy in messages["locksmith.W002"]
    assert policy in out.getvalue()
    assert "noeviction" in out.getvalue()


@pytest.mark.parametrize(("rules", "found"), [("-info", True), ("-config", True), ("-info -config", False)])
def test_eviction_on_a_server_that_says_little(rules: str, found: bool) -> None:
    """Where INFO or CONFIG is refused, as hosts do, the other one will do; where both are, nothing is said."""
    with server_with("--maxmemory-policy", "allkeys-lru") as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", *rules.split())
        assert set(said(check_servers())) == ({"locksmith.W002"} if found else set())


def test_down() -> None:
    """A server that cannot be reached is a warning with the reason, and no exception."""
    with locks_in(alias(NOWHERE)):
        assert "Connection refused" in said(check_servers())["locksmith.W004"]


@pytest.mark.parametrize("where", ["redis+cluster://127.0.0.1:1/0", "redis://127.0.0.1:1/0"])
def test_down_by_url(where: str) -> None:
    """The same by a URL, of one server or a cluster."""
    with override_settings(LOCKSMITH={"REDIS": where}):
        assert said(check_servers()).keys() == {"locksmith.W004"}


def test_silent(own_server: Deployment) -> None:
    """The same of a server that accepts connections and never answers."""
    own_server.server.pause()
    try:
        assert said(check_servers()).keys() == {"locksmith.W004"}
    finally:
        own_server.server.resume()


def test_too_few_replicas(started: Callable[[str], Deployment]) -> None:
    """MIN_REPLICAS that the server does not have are found by trying: the warning says how many there are."""
    with locks_in(started("valkey").cache), override_settings(LOCKSMITH={"REDIS": "locks", "MIN_REPLICAS": 1}):
        assert "only 0 of the 1 replicas" in said(check_servers())["locksmith.W004"]


def test_memory_is_full() -> None:
    """A server that refuses locks for another reason is a warning in its words."""
    with server_with("--maxmemory", "1") as server:
        assert "maxmemory" in said(check_servers())["locksmith.W004"]
        with server.client() as client:
            client.config_set("maxmemory", 0)
        assert check_servers() == []


@pytest.mark.parametrize("tells", [True, False])
def test_replica(tells: bool) -> None:
    """A replica, which would refuse every lock, is an error, also where it does not answer INFO."""
    with server_with() as primary, servers.running(servers.valkey_binary()) as replica, replica.client() as client:
        client.replicaof("127.0.0.1", primary.port)
        poll(lambda: client.info("replication")["role"] == "slave")
        if not tells:
            client.execute_command("ACL", "SETUSER", "default", "-info")
        with locks_in(alias(replica.url)):
            messages = said(check_servers())
    assert messages.keys() == {"locksmith.E003"}
    assert str(replica.port) in messages["locksmith.E003"]


def test_too_old(started: Callable[[str], Deployment]) -> None:
    """A server before 6.2 is an error that names its version."""
    server = started("valkey").server
    with server.client() as client:
        version = client.info("server")["redis_version"]
    with proxy_to(server.port) as proxy, locks_in(alias(proxy.url)):
        # There is none to be had for the tests any more: this one only says that it is one.
        proxy.rewrite(f"redis_version:{version}".encode(), b"redis_version:6.0.9")
        messages = said(check_servers())
    assert messages.keys() == {"locksmith.E004"}
    assert "is version 6.0.9" in messages["locksmith.E004"]


# ---- others on the same Redis


@pytest.mark.parametrize(
    ("cache", "locks", "found"),
    [
        ({}, {}, False),
        ({"KEY_PREFIX": "shop"}, {}, True),
        ({"KEY_FUNCTION": "tests.edge.test_checks.key_of"}, {}, True),
        ({"KEY_PREFIX": "shop"}, {"PREFIX": "__locksmith:shop:"}, False),
        ({"KEY_PREFIX": "shop"}, {"PREFIX": "__locksmith:"}, False),
        ({"KEY_PREFIX": "shop"}, {"REDIS": NOWHERE}, False),
    ],
)
def test_projects_that_share_a_redis(cache: dict[str, str], locks: dict[str, str], found: bool) -> None:
    """Caches that are told apart, where locks are not, are warned of, with a prefix that would do."""
    caches = {"default": {**alias(NOWHERE), **cache}}
    with override_settings(CACHES=caches, LOCKSMITH=locks):
        messages = said(check_prefix())
        assert set(messages) == ({"locksmith.W007"} if found else set())
        if "KEY_PREFIX" in cache and found:
            (message,) = check_prefix()
            assert "'__locksmith:shop:'" in str(message.hint)


@pytest.mark.parametrize(
    ("cache", "locks", "found"),
    [
        ({}, {}, ""),
        ({"LOCATION": f"{NOWHERE}?retry_on_timeout=True"}, {}, "retry_on_timeout"),
        ({"LOCATION": f"{NOWHERE}?retry_on_timeout=False"}, {}, ""),
        ({"OPTIONS": {"CONNECTION_POOL_KWARGS": {"retry_on_error": [ConnectionError]}}}, {}, "retry_on_error"),
        ({}, {"REDIS": f"{NOWHERE}?retry_on_timeout=1"}, "retry_on_timeout"),
        ({"LOCATION": f"{NOWHERE}?retry_on_timeout=True"}, {"REDIS": NOWHERE}, ""),
    ],
)
def test_retries_of_the_pool(cache: dict[str, Any], locks: dict[str, str], found: str) -> None:
    """Where connections are told to repeat requests, the check says that locks do that by rules of their own."""
    with override_settings(CACHES={"default": {**alias(NOWHERE), **cache}}, LOCKSMITH=locks):
        messages = said(check_retries())
        assert set(messages) == ({"locksmith.W008"} if found else set())
        assert found in messages.get("locksmith.W008", "")


def key_of(key: str, prefix: str, version: int) -> str:
    return key


# ---- rights


@contextmanager
def as_user(where: Deployment, rules: list[str], keys: str = "__locksmith:*") -> Iterator[None]:
    """Locks are taken by a user that has these rights, and no others."""
    rights = [f"~{keys}", *(f"+{rule}" for rule in rules)]
    cache = {**where.cache, "LOCATION": f"redis://worker:secret@127.0.0.1:{where.server.port}/0"}
    for server in where.servers:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "worker", "on", ">secret", *rights)
    try:
        with in_force(replace(where, cache=cache)), locks_in(cache):
            yield
    finally:
        for server in where.servers:
            with server.client() as client:
                client.execute_command("ACL", "DELUSER", "worker")


def needed(where: Deployment) -> list[str]:
    return rights(cluster=where.kind == "cluster", replicas=False)


@pytest.mark.parametrize("command", ["XREAD", "ZRANDMEMBER"])
def test_host_that_takes_a_command_away(command: str) -> None:
    """A command that the server does not know is told of as one that may not be used."""
    with server_with("--rename-command", command, ""):
        assert f"may not use {command} on" in said(check_servers())["locksmith.E005"]


def test_scripts_that_cannot_be_loaded(valkey: Deployment, caller: Caller) -> None:
    """Where SCRIPT is forbidden, EVAL sends the scripts: locks, renewals and flights work, and no check complains."""
    with as_user(valkey, [*needed(valkey), "script|flush"]), valkey.server.client() as client:
        service = Locksmith(timeout=6, renew=True)
        client.script_flush()
        lease = caller.acquire(service("a"))
        assert lease is not None
        first = lease.deadline
        client.script_flush()
        poll(lambda: lease.deadline > first)
        client.script_flush()
        caller.release(lease)
        client.script_flush()
        assert caller.get(service, "v", caller.populate(lambda: 7)) == 7
        assert not [key for key in valkey.left_behind() if "news" not in key]
        assert said(check_servers()) == {}


@pytest.fixture(params=available([*SINGLE, "cluster"]))
def where(request: pytest.FixtureRequest, started: Callable[[str], Deployment]) -> Iterator[Deployment]:
    """Each kind of server in turn, with none of our scripts."""
    found = started(request.param)
    found.flush()
    for server in found.servers:
        with server.client() as client:
            client.script_flush()
    yield found
    found.flush()


def test_documented_rights_are_enough(where: Deployment, caller: Caller) -> None:
    """With the rights that the documentation names, everything works: waiting, renewal, looking in, single flight."""
    with as_user(where, needed(where)):
        assert check_servers() == []
        service = Locksmith()
        lease = caller.acquire(service("a", timeout=3, renew=True))
        assert lease is not None
        first = lease.deadline
        poll(lambda: lease.deadline > first)
        waiter = caller.start_acquire(service("a"))
        poll(lambda: (info := caller.info(service, "a")) and info.waiters == 1)
        caller.extend(lease, 30)
        assert caller.acquire(service("a", blocking_timeout=0.05)) is None
        caller.release(lease)
        following = waiter.result(10)
        assert [info.key for info in caller.locks(service)] == ["a"]
        assert caller.clear(service, "a")
        assert following is not None
        with pytest.raises(LockLost):
            caller.release(following)
        origin = Origin("value", held=True)
        callers = [caller.start_get(service, "v", caller.populate(origin), 60) for _ in range(2)]
        origin.begun()
        origin.let_all_go()
        assert [caller.result(30) for caller in callers] == ["value", "value"]
        caller.invalidate(service, "v")


@pytest.mark.parametrize("lacking", ["set", "del", "zadd", "pexpire", "evalsha", "eval", "blpop", "xread"])
def test_a_right_is_missing(where: Deployment, lacking: str) -> None:
    """A user who lacks a right is an error that names the command, and the line that gives him all he needs."""
    with as_user(where, [rule for rule in needed(where) if rule != lacking]):
        message = check_servers()[0]
    assert message.id == "locksmith.E005"
    # Redis 6.2 knows commands, and not always what comes behind them.
    assert f"'worker' may not use {lacking.upper().replace('|', ' ')} on" in message.msg
    assert message.hint == f"ACL SETUSER worker ~__locksmith:* {' '.join(f'+{rule}' for rule in needed(where))}"
    poll(lambda: not where.left_behind(), within=15)


def test_several_rights_are_missing(where: Deployment) -> None:
    """All commands that are missing are named at once."""
    with as_user(where, [rule for rule in needed(where) if rule not in ("rpush", "zscore", "time")]):
        assert "may not use TIME, ZSCORE, RPUSH on" in said(check_servers())["locksmith.E005"]


@pytest.mark.parametrize("keys", ["other:*", "__locksmith:check*"])
def test_keys_are_forbidden(where: Deployment, keys: str) -> None:
    """A user who may use the commands, but not on all keys with our prefix, is told so."""
    with as_user(where, needed(where), keys):
        messages = said(check_servers())
    assert messages.keys() == {"locksmith.E005"}
    assert "may not touch the keys of the locks (__locksmith:...)" in messages["locksmith.E005"]


def test_rights_are_those_that_are_used() -> None:
    """The rights are the commands of our scripts and of what is sent beside them: not one less, not one more."""
    package = Path(django_locksmith.__file__).parent
    scripts = "".join(path.read_text() for path in package.rglob("*.lua"))
    sent = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "servers.py")
    used = set(re.findall(r"redis\.p?call\('([A-Z]+)'", scripts))
    used |= {" ".join(words) for words in re.findall(r'pack\(b"([A-Z]+)"(?:, b"([A-Z]+)")?', sent)}
    used |= set(re.findall(r'names, b"([A-Z]+)"', sent)) | set(re.findall(r'_pages\([^)]*b"([A-Z]+)"', sent))
    used = {words.strip().lower().replace(" ", "|") for words in used}
    # What a scan and a wait begin with, or end with.
    used -= {"xread|block", "script|load"}  # the second is done without where it is forbidden
    used |= {"xread", "scan", "zscan", "eval", "evalsha"}
    named = {*rights(cluster=True, replicas=True), *rights(cluster=False, replicas=True)}
    assert used == named - {"cluster|slots", "command"}  # these two are redis-py's own


def test_documentation_names_the_rights() -> None:
    """docs/monitoring.md has the line for a single server, word for word."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    line = re.search(r"^ACL SETUSER (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    assert line
    assert re.findall(r"\+(\S+)", line.group(1)) == rights(cluster=False, replicas=False)


# ---- the database that a cache flushes


def flushed(**caches: dict[str, Any]) -> str:
    """What the checks say of caches that flush the locks."""
    with override_settings(CACHES={"default": {"BACKEND": LOCMEM}, **caches}):
        return said(check_servers()).get("locksmith.W003", "")


def test_cache_clear_deletes_the_locks(locks: Deployment) -> None:
    """Locks in the database of a cache are warned of, by the names of all caches; and it is true."""
    with override_settings(LOCKSMITH={"REDIS": "default"}):
        message = flushed(default=locks.cache, other=locks.cache)
        assert "cache.clear() of CACHES['default'] and CACHES['other']" in message
        with override_settings(CACHES={"default": locks.cache}):
            lease = locksmith("a").acquire()
            assert lease is not None
            cache.clear()
            assert not locksmith("a").locked()


def test_an_alias_for_the_locks_alone(locks: Deployment) -> None:
    """An alias that only LOCKSMITH names is for the locks, and nothing is said; another one beside it is a cache."""
    with override_settings(LOCKSMITH={"REDIS": "locks"}):
        assert flushed(locks=locks.cache) == ""
        assert "of CACHES['default'] deletes" in flushed(default=locks.cache, locks=locks.cache)


def test_another_database(started: Callable[[str], Deployment]) -> None:
    """A cache in another database of the same server, or with that number on another one, flushes no locks."""
    server = started("valkey").server
    with override_settings(LOCKSMITH={"REDIS": server.url}), servers.running(servers.valkey_binary()) as other:
        assert flushed(default=alias(f"redis://127.0.0.1:{server.port}/1")) == ""
        assert flushed(default=alias(other.url)) == ""
        assert "CACHES['default']" in flushed(default=alias(server.url))


@pytest.mark.parametrize("backend", ["django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"])
def test_the_same_server_by_another_name(started: Callable[[str], Deployment], backend: str) -> None:
    """The server is known by what it is, not by how it is called; Django's own Redis cache is looked at, too."""
    server = started("valkey").server
    with override_settings(LOCKSMITH={"REDIS": server.url}):
        there = {"BACKEND": backend, "LOCATION": f"redis://localhost:{server.port}/0"}
        assert "CACHES['default']" in flushed(default=there)
        assert flushed(default={"BACKEND": backend, "LOCATION": f"redis://localhost:{server.port}/3"}) == ""


def test_a_cache_that_is_down(started: Callable[[str], Deployment]) -> None:
    """A cache that cannot be asked is no trouble of the locks."""
    with override_settings(LOCKSMITH={"REDIS": started("valkey").server.url}):
        assert flushed(default=alias(NOWHERE), broken={"BACKEND": "no.such.Backend"}) == ""


# ---- views


def plain(request: HttpRequest, pk: int = 0) -> HttpResponse:
    return HttpResponse()


async def plain_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class Plain(View):
    def get(self, request: HttpRequest, pk: int = 0) -> HttpResponse:
        return HttpResponse()


class OneMethod(View):
    @method_decorator(locksmith("post"))
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


@method_decorator(locksmith("all"), name="dispatch")
class AllMethods(Plain):
    pass


def outer(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A decorator as they are written, around that of the lock."""

    @wraps(view)
    def around(*args: Any, **kwargs: Any) -> HttpResponse:
        return view(*args, **kwargs)

    return around


TOO_SOON = {
    "function": locksmith("a:{pk}")(plain),
    "under another decorator": outer(locksmith("a")(plain)),
    "in a partial": partial(locksmith("a")(plain), pk=1),
    "class, all methods": AllMethods.as_view(),
    "class, one method": OneMethod.as_view(),
}
IN_TIME = {
    "no lock": plain,
    "no lock, async": plain_async,
    "no lock, class": Plain.as_view(),
    "released after the commit": locksmith("a", release="commit")(plain),
    "not in a transaction": transaction.non_atomic_requests(locksmith("a")(plain)),
    "a lock around a class": locksmith("a", release="commit")(Plain.as_view()),
}
urlpatterns: list[Any] = []


def views_said(monkeypatch: pytest.MonkeyPatch, view: Any, *, atomic: bool = True) -> list[checks.CheckMessage]:
    """What the checks say of a project with this view, two levels down."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", atomic)
    monkeypatch.setitem(globals(), "urlpatterns", [path("a/", include([path("b/", include([path("c/", view)]))]))])
    with override_settings(ROOT_URLCONF=__name__):
        clear_url_caches()
        return check_views()


@pytest.mark.parametrize("view", TOO_SOON.values(), ids=TOO_SOON)
def test_view_releases_before_the_commit(monkeypatch: pytest.MonkeyPatch, view: Any) -> None:
    """A view that is decorated with a lock, and runs in a transaction of the request, is warned of by its name."""
    (message,) = views_said(monkeypatch, view)
    assert (message.id, message.level) == ("locksmith.W001", checks.WARNING)
    assert re.match(r"The view tests\.edge\.test_checks\.(plain|AllMethods|OneMethod) ", message.msg)
    assert "DATABASES['default']" in message.msg
    assert "release='commit'" in (message.hint or "")
    assert views_said(monkeypatch, view, atomic=False) == []


@pytest.mark.parametrize("view", IN_TIME.values(), ids=IN_TIME)
def test_view_is_all_right(monkeypatch: pytest.MonkeyPatch, view: Any) -> None:
    """Of views without a lock, outside of the transaction, or that wait for the commit, nothing is said."""
    assert views_said(monkeypatch, view) == []


def test_views_are_checked_with_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of views asks no server, and so runs whenever Django checks a project."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    monkeypatch.setitem(globals(), "urlpatterns", [path("", TOO_SOON["function"])])
    with override_settings(ROOT_URLCONF=__name__), locks_in(alias(NOWHERE)):
        clear_url_caches()
        assert run_command() == "locksmith.W001"


def test_project_without_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project without URLs, of workers only, has no views to look at."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    assert check_views() == []


@pytest.mark.parametrize(
    ("place", "key", "found"),
    [
        ("above api_view", "order:{user}", True),
        ("as_view", None, True),
        ("dispatch", "order:{user}", True),
        ("above api_view", "order:{path}", False),
        ("below api_view", "order:{user}", False),
        ("method", "order:{user}", False),
    ],
)
def test_locked_outside_of_rest_framework(place: str, key: str | None, found: bool) -> None:
    """A view that is locked per user where its framework has not authenticated yet is told of, and no other one."""
    view = rest_views(lock_view(key))[place]
    with override_settings(ROOT_URLCONF=url_conf(path("", view))):
        messages = check_order()
    assert [message.id for message in messages] == (["locksmith.W009"] if found else [])
    assert all("outside of Django REST framework" in message.msg for message in messages)
