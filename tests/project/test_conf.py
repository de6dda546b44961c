"""`settings.LOCKSMITH`: defaults, what is refused and how it is said, and where Redis may be."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_locksmith import Locksmith, locksmith
from django_locksmith.checks import check_settings
from django_locksmith.conf import Settings
from tests.helpers import servers
from tests.helpers.deployments import alias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.deployments import Deployment

NOWHERE = "redis://127.0.0.1:1/0"  # nobody listens
NAN, INF = float("nan"), float("inf")

BAD_VALUES = [
    *(("TIMEOUT", bad) for bad in (0, -1, NAN, INF, -INF, 0.0001, 400 * 86400, timedelta(0), timedelta(seconds=-1))),
    *(("TIMEOUT", bad) for bad in (True, None, "30", [30])),
    *(("BLOCKING_TIMEOUT", bad) for bad in (-1, NAN, INF, timedelta(seconds=-1), True, "30", [30])),
    *(("MAX_HOLD", bad) for bad in (0, -1, NAN, INF, timedelta(0), True, "3000", 119)),
    *(("RENEW", bad) for bad in (1, 0, None, "yes")),
    *(("MIN_REPLICAS", bad) for bad in (-1, 1.5, True, None, "1")),
    *(("PREFIX", bad) for bad in (None, b"bytes", 7, "x" * 201)),
    *(("REDIS", bad) for bad in ("", None, 7)),
]


@pytest.mark.parametrize("given", [{}, None, "absent"])
def test_defaults(given: Any) -> None:
    """Without settings there are the defaults that the documentation names."""
    with override_settings(LOCKSMITH=given):
        if given == "absent":
            del settings.LOCKSMITH
        assert Locksmith().settings == Settings(
            redis="default",
            prefix="__locksmith:",
            timeout=120.0,
            blocking_timeout=120.0,
            renew=False,
            max_hold=None,
            min_replicas=0,
        )


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("TIMEOUT", timedelta(minutes=1), 60.0),
        ("TIMEOUT", 1, 1.0),
        ("BLOCKING_TIMEOUT", None, None),
        ("BLOCKING_TIMEOUT", 0, 0.0),
        ("BLOCKING_TIMEOUT", timedelta(milliseconds=500), 0.5),
        ("MAX_HOLD", timedelta(hours=1), 3600.0),
        ("MAX_HOLD", 120, 120.0),
        ("RENEW", True, True),
        ("MIN_REPLICAS", 2, 2),
        ("PREFIX", "billing:", "billing:"),
        ("PREFIX", "", ""),
    ],
)
def test_good_values(name: str, value: Any, meant: Any) -> None:
    """Seconds may be int, float or timedelta, and what is given counts, in the settings as for one service."""
    with override_settings(LOCKSMITH={name: value}):
        assert getattr(Locksmith().settings, name.lower()) == meant
    assert getattr(Locksmith(**{name.lower(): value}).settings, name.lower()) == meant


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_bad_values(name: str, value: Any) -> None:
    """A value that makes no sense is refused by an error that names its setting, or argument, first."""
    with (
        override_settings(LOCKSMITH={name: value}),
        pytest.raises(ImproperlyConfigured, match=rf"^LOCKSMITH\['{name}'"),
    ):
        Locksmith().settings  # noqa: B018  # they are read at the first use
    with override_settings(LOCKSMITH={}), pytest.raises((TypeError, ValueError), match=rf"^{name.lower()} "):
        Locksmith(**{name.lower(): value}).settings  # noqa: B018


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TIMEOUTS", "did you mean 'TIMEOUT'"),
        ("timeout", "did you mean 'TIMEOUT'"),
        ("BLOCKING_TIME", "did you mean 'BLOCKING_TIMEOUT'"),
        ("XYZ", "it has REDIS, PREFIX, TIMEOUT, BLOCKING_TIMEOUT, RENEW, MAX_HOLD, MIN_REPLICAS"),
        (7, "it has REDIS"),
    ],
)
def test_unknown_setting(name: Any, said: str) -> None:
    """A setting that is not known is an error that tells the nearest one, or all that there are."""
    with override_settings(LOCKSMITH={name: 1}), pytest.raises(ImproperlyConfigured, match=f"{name!r}; {said}"):
        Locksmith().settings  # noqa: B018


def test_unknown_override() -> None:
    """A misspelt argument of a service is an error that tells the nearest one."""
    with pytest.raises(TypeError, match="'timeuot'; did you mean 'timeout'"):
        Locksmith(timeuot=3).settings  # noqa: B018


def test_settings_are_a_dict() -> None:
    """Settings that are no dict are refused."""
    with override_settings(LOCKSMITH=["default"]), pytest.raises(ImproperlyConfigured, match="is a dict, not list"):
        Locksmith().settings  # noqa: B018


def test_overrides_go_over_settings() -> None:
    """What a service is given counts for it; for the rest it follows the settings."""
    with override_settings(LOCKSMITH={"PREFIX": "a:", "TIMEOUT": 30, "REDIS": "redis"}):
        other = Locksmith(redis="other", prefix="b:")
        assert other("x").name == "b:x"
        assert other("x").timeout == 30
        assert (other.settings.redis, Locksmith().settings.redis) == ("other", "redis")
        assert Locksmith()("x").name == "a:x"


def test_an_override_can_clash_with_a_setting() -> None:
    """MAX_HOLD may not be shorter than TIMEOUT, wherever the two come from."""
    with override_settings(LOCKSMITH={"MAX_HOLD": 200}), pytest.raises(ValueError, match=r"^max_hold \(200 s\) is"):
        Locksmith(timeout=300).settings  # noqa: B018


def test_override_settings() -> None:
    """`override_settings` counts while it lasts, also for a service that was in use before."""
    service = Locksmith()
    before = service.settings
    with override_settings(LOCKSMITH={"TIMEOUT": 7, "BLOCKING_TIMEOUT": None, "PREFIX": "p:"}):
        assert (service("x").timeout, service("x").blocking_timeout, service("x").name) == (7, None, "p:x")
        assert locksmith("x").timeout == 7
    assert service.settings == locksmith.settings == before


def test_override_caches(valkey: Deployment) -> None:
    """When CACHES change, a service that was in use before follows them to the other server."""
    service = Locksmith()
    with service("x"):
        with servers.running(servers.valkey_binary()) as other, override_settings(CACHES={"default": alias(other.url)}):
            assert not service("x").locked()
        assert service("x").locked()


# ---- where Redis is


@pytest.fixture
def socket_url() -> Iterator[str]:
    """A server that is reached by a Unix socket."""
    folder = tempfile.mkdtemp(prefix="locksmith-")
    path = Path(folder) / "s"
    try:
        with servers.running(servers.valkey_binary(), "--unixsocket", str(path)):
            yield f"unix://{path}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take_both_ways(service: Locksmith) -> None:
    """Take a lock and give it back, in a thread and in a task."""

    async def in_task() -> None:
        async with service("x") as lease:
            assert lease.held

    with service("x") as lease:
        assert lease.held
    asyncio.run(in_task())


@override_settings(CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
def test_url(valkey: Deployment) -> None:
    """A redis:// URL does as well as an alias, without any cache on Redis."""
    take_both_ways(Locksmith(redis=valkey.server.url))
    with valkey.server.client() as client:
        assert client.exists("__locksmith:<index>")


@pytest.mark.parametrize("backend", ["django.core.cache.backends.redis.RedisCache", "django_valkey.cache.ValkeyCache"])
def test_other_caches_on_redis(valkey: Deployment, backend: str) -> None:
    """An alias of Django's own Redis cache, or of django-valkey, leads to its server."""
    there = valkey.server.url.replace("redis://", "valkey://" if "valkey" in backend else "redis://")
    caches = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with override_settings(CACHES=caches | {"other": {"BACKEND": backend, "LOCATION": [there]}}):
        service = Locksmith(redis="other")
        take_both_ways(service)
        assert service.runtime().deployment().nodes()[0].socket_timeout > 0
    with valkey.server.client() as client:
        assert client.exists("__locksmith:<index>")


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
def test_schemes_of_valkey(valkey: Deployment, scheme: str) -> None:
    """A URL as Valkey's clients write it does as well."""
    take_both_ways(Locksmith(redis=valkey.server.url.replace("redis://", f"{scheme}://")))


def test_options_of_django_valkey() -> None:
    """What django-valkey is told of its server counts for locks, too."""
    options = {"PASSWORD": "s3cret", "SOCKET_TIMEOUT": 3, "CONNECTION_POOL_KWARGS": {"max_connections": 7}}
    entry = {"BACKEND": "django_valkey.cache.ValkeyCache", "LOCATION": "valkeys://h:1/2", "OPTIONS": options}
    with override_settings(CACHES={"default": entry}):
        node = Locksmith(redis="default").runtime().deployment().nodes()[0]
    assert node.socket_timeout == 3
    assert (node._pool.max_connections, node._settings["password"], node._settings["db"]) == (7, "s3cret", 2)
    assert node._dial_class.__name__ == "SSLConnection"


def test_unix_url(socket_url: str) -> None:
    """A unix:// URL leads to a server by its socket, for threads and tasks."""
    take_both_ways(Locksmith(redis=socket_url))


WRONG_PLACES = {
    "not Redis": (
        {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        "default",
        r"'default'.*LocMemCache.*BACKEND.*'django_redis.cache.RedisCache'",
    ),
    "a client that is none of redis-py's": (
        {
            "default": {
                "BACKEND": "django_valkey.cache.ValkeyCache",
                "LOCATION": "valkey://h",
                "OPTIONS": {"CLIENT_CLASS": "django_valkey.client.SentinelClient", "SENTINELS": [("h", 1)]},
            }
        },
        "default",
        r"CLIENT_CLASS of django-valkey locks cannot use; give the URL",
    ),
    "unknown alias": ({"default": alias(NOWHERE), "b": alias(NOWHERE)}, "c", r"'c', which is no alias.*'default', 'b'"),
    "no such backend": (
        {"default": {"BACKEND": "no.such.Backend"}},
        "default",
        r"'default'.*no.such.Backend",
    ),
    "sharded": (
        {
            "default": {
                "BACKEND": "django_redis.cache.RedisCache",
                "LOCATION": [NOWHERE, NOWHERE],
                "OPTIONS": {"CLIENT_CLASS": "django_redis.client.ShardClient"},
            }
        },
        "default",
        r"ShardClient.*one server, Sentinel or Redis Cluster",
    ),
    "scheme": ({"default": alias(NOWHERE)}, "http://127.0.0.1:1", r"'http'; known are redis://, rediss://, unix://"),
    "port": ({"default": alias(NOWHERE)}, "redis://127.0.0.1:x/0", r"LOCKSMITH\['REDIS'\] is not a usable URL"),
    "password": (
        {"default": alias(NOWHERE)},
        "redis://:s3cr/et@h",
        r"^(?!.*s3cr)LOCKSMITH.*its password percent-encoded",
    ),
    "unknown option": ({"default": alias(NOWHERE)}, f"{NOWHERE}?password=s3cret&timeout=1", "does not have: timeout$"),
    "bad option": ({"default": alias(NOWHERE)}, f"{NOWHERE}?password=s3cret&socket_timeout=abc", "not a usable URL"),
    "no time": (
        {"default": alias(NOWHERE)},
        f"{NOWHERE}?password=s3cret&socket_timeout=0",
        "socket_timeout is not more",
    ),
    "protocol": ({"default": alias(NOWHERE)}, f"{NOWHERE}?password=s3cret&protocol=9", "not a usable URL"),
    "certificates": ({"default": alias(NOWHERE)}, "rediss://:s3cret@h/0?ssl_cert_reqs=x", "not a usable URL"),
    "database": ({"default": alias(NOWHERE)}, "redis://h/s3cret", "not a usable URL"),
    "one slash": ({"default": alias(NOWHERE)}, "redis:/:s3cret@h", "no alias in CACHES"),
    "password as scheme": ({"default": alias(NOWHERE)}, "s3cret://h", "a URL scheme that is unknown"),
    "control characters": ({"default": alias(NOWHERE)}, "redis://:s3cret@h\x00/0", "not a usable URL"),
    "brackets": ({"default": alias(NOWHERE)}, "redis://[::1/0", r"LOCKSMITH\['REDIS'\] is not a usable URL"),
}


@pytest.mark.parametrize(("caches", "where", "said"), WRONG_PLACES.values(), ids=WRONG_PLACES)
def test_wrong_place(caches: dict[str, Any], where: str, said: str) -> None:
    """What cannot hold locks is refused by an error that says what to change, and found by the system check."""
    with override_settings(CACHES=caches, LOCKSMITH={"REDIS": where}):
        with pytest.raises(ImproperlyConfigured, match=said) as caught:
            Locksmith()("x").acquire()
        messages = our_checks()
    assert [(message.id, message.level) for message in messages] == [("locksmith.E002", checks.ERROR)]
    told = "".join(traceback.format_exception(caught.value)) + "".join(message.msg for message in messages)
    # The line that the test itself stands in is quoted, too; the password must not be.
    assert "s3cr" not in told


def our_checks() -> list[checks.CheckMessage]:
    """What our system checks say."""
    return check_settings()


def test_checks_are_registered() -> None:
    """Django runs our checks with its own."""
    assert check_settings in checks.registry.registry.get_checks()


def test_check_of_settings() -> None:
    """Settings at fault are the error locksmith.E001, in the words of the exception."""
    with override_settings(LOCKSMITH={"TIMEOUT": 0}):
        (message,) = our_checks()
    assert (message.id, message.level) == ("locksmith.E001", checks.ERROR)
    assert message.msg.startswith("LOCKSMITH['TIMEOUT'] must be from")


@pytest.mark.parametrize("where", ["default", NOWHERE, NOWHERE.replace("redis:", "redis+cluster:")])
def test_check_asks_no_server(where: str) -> None:
    """The system checks are content with settings that are right, though Redis is down."""
    with override_settings(CACHES={"default": alias(NOWHERE)}, LOCKSMITH={"REDIS": where}):
        assert our_checks() == []
