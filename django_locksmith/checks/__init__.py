"""System checks. They ask no server, unless by `check --deploy` or `check --tag locksmith`; nor fail if it is down."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings as django_settings
from django.core import checks
from django.core.cache import caches
from django.core.checks.registry import CheckRegistry
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.urls import URLPattern, URLResolver, get_resolver

from ..api.functions import dotted_name
from ..api.service import locksmith
from ..redis.connections import check_deployment
from ..redis.key_names import glob_escape
from ..views.askers import is_rest_view
from .servers import OLDEST, ask_servers, rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..api.lock import Lock
    from .servers import Findings, Report

TAG = "locksmith"


def register_checks() -> None:
    """Have Django run them with its own."""
    checks.register(check_settings, TAG)
    checks.register(check_prefix, TAG)
    checks.register(check_retries, TAG)
    checks.register(check_views, TAG)
    checks.register(check_order, TAG)
    checks.register(check_servers_for_tag, TAG)
    checks.register(check_servers, TAG, deploy=True)


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """E001: settings.LOCKSMITH is at fault. E002: what it names as Redis cannot hold locks."""
    try:
        settings = locksmith.settings
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint="See the settings of django_locksmith.", id="locksmith.E001")]
    try:
        check_deployment(settings.redis)
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), hint="See LOCKSMITH['REDIS'].", id="locksmith.E002")]
    return []


def check_prefix(**kwargs: Any) -> list[checks.CheckMessage]:
    """W007: projects share a Redis, and tell their caches apart there, but not their locks."""
    if check_settings() or "PREFIX" in (getattr(django_settings, "LOCKSMITH", None) or {}):
        return []
    where = locksmith.settings.redis
    cache = caches.settings.get(where, {})
    by = [name for name in ("KEY_PREFIX", "KEY_FUNCTION") if cache.get(name)]
    if not by:
        return []
    prefix = f"{locksmith.settings.prefix_now()}{cache.get('KEY_PREFIX') or 'project'}:"
    warning = checks.Warning(
        f"CACHES[{where!r}] is told apart by {' and '.join(by)} from others on its Redis, and locks are not:"
        " a lock of another project with the same key there is the same lock.",
        hint=f"Set LOCKSMITH['PREFIX'] to {prefix!r}, say, or to a function that makes it. Where locks are to be"
        " shared, say so by the prefix that they have now.",
        id="locksmith.W007",
    )
    return [warning]


def check_retries(**kwargs: Any) -> list[checks.CheckMessage]:
    """W008: the connections of the locks are told to repeat requests, which locks do by rules of their own."""
    if check_settings():
        return []
    where = locksmith.settings.redis
    options: dict[str, Any] = {}
    for url in [where] if "://" in where else _locations(caches.settings[where]):
        options.update(parse_qsl(urlsplit(url).query))
    if "://" not in where:
        options.update((caches.settings[where].get("OPTIONS") or {}).get("CONNECTION_POOL_KWARGS") or {})
    found = [name for name in ("retry", "retry_on_error", "retry_on_timeout") if _is_meant(options.get(name))]
    if not found:
        return []
    warning = checks.Warning(
        f"The connections of the locks have {' and '.join(found)}, which locks do not use: a request that others repeat"
        " could be granted twice. They ask again by rules of their own, and wait for a server in trouble.",
        hint="Nothing has to be done; silence this check. For longer patience, raise blocking_timeout.",
        id="locksmith.W008",
    )
    return [warning]


def _locations(cache: dict[str, Any]) -> list[str]:
    given = cache.get("LOCATION") or []
    return given.split(",") if isinstance(given, str) else [str(each) for each in given]


def _is_meant(option: Any) -> bool:
    return bool(option) and str(option).lower() not in ("false", "0", "no")


# ---- views


def check_views(**kwargs: Any) -> list[checks.CheckMessage]:
    """W001: a decorated view releases its lock before the COMMIT of its request."""
    atomic = {alias for alias, database in connections.settings.items() if database["ATOMIC_REQUESTS"]}
    if not atomic or not getattr(django_settings, "ROOT_URLCONF", None):
        return []
    found: dict[str, checks.CheckMessage] = {}
    for view in _views(get_resolver().url_patterns):
        databases = sorted(atomic - getattr(view, "_non_atomic_requests", set()))
        if databases and any(lock._options.release != "commit" for lock in _locks_of(view)):
            name = dotted_name(getattr(view, "view_class", view))
            found.setdefault(name, _released_too_soon(name, databases))
    return list(found.values())


def _released_too_soon(view: str, databases: list[str]) -> checks.CheckMessage:
    where = " and ".join(f"DATABASES[{alias!r}]" for alias in databases)
    return checks.Warning(
        f"The view {view} gives its lock back before the COMMIT: it is decorated with the lock, and ATOMIC_REQUESTS of"
        f" {where} puts the transaction around all that. The next holder reads the old rows.",
        hint="Let the release wait: locksmith(..., release='commit'). Or exempt the view by"
        " transaction.non_atomic_requests, and open the transaction inside of the lock.",
        id="locksmith.W001",
    )


def _views(patterns: Iterable[URLPattern | URLResolver]) -> Iterator[Callable[..., Any]]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _views(pattern.url_patterns)
        else:
            yield pattern.callback


def check_order(**kwargs: Any) -> list[checks.CheckMessage]:
    """W009: a view of Django REST framework is locked per user from the outside, where nobody is known yet."""
    if not getattr(django_settings, "ROOT_URLCONF", None):
        return []
    found: dict[str, checks.CheckMessage] = {}
    for view in _views(get_resolver().url_patterns):
        # Around the whole view, or around its dispatch, to which method_decorator copies the mark.
        around = getattr(view, "locksmith_wants_user", False) and is_rest_view(getattr(view, "__wrapped__", None))
        dispatch = getattr(getattr(view, "cls", None), "dispatch", None)
        if around or (is_rest_view(view) and getattr(dispatch, "locksmith_wants_user", False)):
            name = dotted_name(getattr(view, "cls", view))
            found[name] = checks.Warning(
                f"{name} is locked per user outside of Django REST framework, which authenticates within: that is done"
                " twice for each request, once for the lock.",
                hint="Put @lock_view below @api_view, or on the method of the class, by method_decorator.",
                id="locksmith.W009",
            )
    return list(found.values())


def _locks_of(view: Callable[..., Any]) -> Iterator[Lock]:
    """The locks that a view is decorated with, or the methods that a class-based one calls."""
    while isinstance(view, partial):
        view = view.func
    of_class = getattr(view, "view_class", None) or getattr(view, "cls", None)  # Django's word, and REST framework's
    methods = [getattr(of_class, name, None) for name in getattr(of_class, "http_method_names", ())]
    for function in (view, *methods):
        lock: Lock | None = getattr(function, "locksmith_lock", None)
        if lock is not None:
            yield lock


# ---- what the servers say


def check_servers_for_tag(**kwargs: Any) -> list[checks.CheckMessage]:
    """As `check_servers`, for `check --tag locksmith` alone."""
    # Django runs what is registered without `deploy` with every command, and tells a check neither the tags that were
    # asked for nor whether the others run as well.
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not CheckRegistry.run_checks.__code__:
        frame = frame.f_back
    run = {} if frame is None else frame.f_locals
    by_tag = TAG in (run.get("tags") or ())
    return check_servers() if by_tag and not run.get("include_deployment_checks") else []


def check_servers(**kwargs: Any) -> list[checks.CheckMessage]:
    """E003 to E005, W002 to W004, W006: what the servers of the locks say when they are asked."""
    if check_settings():
        return []
    if locksmith.settings.redis.startswith("memory://"):
        return [_in_memory()]
    found = ask_servers(locksmith)
    return [*_errors(found.servers), *_warnings(found)]


def _in_memory() -> checks.CheckMessage:
    return checks.Warning(
        "LOCKSMITH['REDIS'] is in the memory of each process, which has its locks for itself: that is for tests.",
        hint="Name a django-redis alias of CACHES, or a redis:// URL.",
        id="locksmith.W006",
    )


def _errors(servers: list[Findings]) -> Iterator[checks.CheckMessage]:
    if replicas := _places(server for server in servers if server.is_replica):
        yield checks.Error(
            f"LOCKSMITH['REDIS'] leads to a replica ({replicas}), which takes no writes, and so no locks.",
            hint="Name the primary; or have Sentinel name it, by django-redis' SentinelClient.",
            id="locksmith.E003",
        )
    if old := [server for server in servers if server.too_old]:
        yield checks.Error(
            f"The server of the locks ({_places(old)}) is version {old[0].version}, and lacks commands that they use.",
            hint=f"Locks need Redis {'.'.join(map(str, OLDEST))} or later, or Valkey.",
            id="locksmith.E004",
        )
    lacking: dict[str, list[Findings]] = {}
    for server in servers:
        if server.forbidden or server.keys_forbidden:
            lacking.setdefault(_what_is_lacking(server), []).append(server)
    if lacking:
        cluster = locksmith.runtime().deployment().cluster
        rules = rights(cluster=cluster, replicas=bool(locksmith.settings.min_replicas))
        keys = f"~{glob_escape(locksmith.settings.prefix_now())}*"
        yield checks.Error(
            "; ".join(f"{what} on {_places(where)}" for what, where in lacking.items()) + ".",
            hint=f"ACL SETUSER {servers[0].user} {keys} {' '.join(f'+{rule}' for rule in rules)}",
            id="locksmith.E005",
        )


def _what_is_lacking(server: Findings) -> str:
    lacking = []
    if server.forbidden:
        lacking.append("may not use " + ", ".join(rule.upper().replace("|", " ") for rule in server.forbidden))
    if server.keys_forbidden:
        lacking.append(f"may not touch the keys of the locks ({locksmith.settings.prefix_now()}...)")
    return f"The Redis user {server.user!r} {' and '.join(lacking)}"


def _warnings(found: Report) -> Iterator[checks.CheckMessage]:
    if evicting := [server for server in found.servers if server.eviction not in ("", "noeviction")]:
        yield checks.Warning(
            f"The server of the locks ({_places(evicting)}) may delete a lock that is held, when its memory is full:"
            f" its maxmemory-policy is {evicting[0].eviction}.",
            hint="Set maxmemory-policy to noeviction; where a cache needs eviction, give the locks a server of their"
            " own.",
            id="locksmith.W002",
        )
    if found.flushed_by:
        flushing = " and ".join(f"CACHES[{alias!r}]" for alias in found.flushed_by)
        yield checks.Warning(
            f"cache.clear() of {flushing} deletes all locks: it flushes the database that they are in.",
            hint="Give the locks a database of their own: a redis:// URL, or an alias that is for them alone, with"
            " another number (a cluster has but one: another cluster). If nobody clears it, silence this check.",
            id="locksmith.W003",
        )
    if found.trouble:
        yield checks.Warning(
            f"Whether locks work could not be found out: {found.trouble}",
            hint="Is LOCKSMITH['REDIS'] right, and does the server run?",
            id="locksmith.W004",
        )


def _places(servers: Iterable[Findings]) -> str:
    return ", ".join(server.where for server in servers)
