"""Asks the servers of the locks what the system checks want to know. Nothing it does there lasts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from redis import exceptions as redis_errors

from ..exceptions import LocksmithError, ServerTrouble
from ..policy import locks as lock_policy
from ..policy.sync_bridge import run_sync
from ..rates import Rate, Window
from ..redis.connections import OneServer, open_deployment
from ..redis.key_names import Slots, decode, encode
from ..redis.messages import Attempt, Leads, News
from ..redis.packing import pack
from ..tokens import new_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from ..api.service import Locksmith
    from ..redis.connections import Deployment
    from ..redis.node import Node
    from ..runtime.contexts import Context

OLDEST = (6, 2)
"""The version that brought the commands of the scripts."""

_PROBE_SECONDS = 10.0
_ONE_SLOT = Slots(1, ("a",), b'["a"]')
_PROBE_WAIT = 0.02
_TRIAL_MS = b"3000"
_NOTHING = b"return 1"
_UNKNOWN = ("unknown command", "unknown subcommand")
_OF_COMMANDS = ("to run", *_UNKNOWN)
_TROUBLE = (
    redis_errors.RedisError,
    redis_errors.RedisClusterException,
    OSError,
    LocksmithError,
    ServerTrouble,
    ValueError,  # the prefix does not fit a cluster
)


@dataclass
class Findings:
    """What was found out about one server; a field is empty where the server did not tell."""

    where: str
    user: str
    database: int
    identity: str = ""
    """The same for whoever asks this server, by whatever address."""
    version: str = ""
    is_replica: bool = False
    eviction: str = ""
    forbidden: list[str] = field(default_factory=list)
    """The commands that our user may not use, as ACL rules name them."""
    keys_forbidden: bool = False

    @property
    def too_old(self) -> bool:
        """Does it lack commands of our scripts?"""
        number = re.match(r"(\d+)\.(\d+)", self.version)
        return number is not None and (int(number[1]), int(number[2])) < OLDEST


@dataclass
class Report:
    """What was found out about all servers of the locks."""

    servers: list[Findings] = field(default_factory=list)
    flushed_by: list[str] = field(default_factory=list)
    """The caches whose `clear()` deletes the locks, too."""
    trouble: str = ""
    """Why something could not be found out."""


def rights(*, cluster: bool, replicas: bool) -> list[str]:
    """The commands that locks and flights need, as ACL rules name them."""
    return [rule for rule, _ in _trials(b"", cluster=cluster, replicas=replicas)]


def ask_servers(service: Locksmith) -> Report:
    """Ask all servers of a service's locks. Raises nothing for trouble with them: it is a part of the answer."""
    found = Report()
    settings = service.settings
    key = f"check-{new_token('check').split('|')[0]}"
    try:
        deployment, context = service.runtime().deployment(), service.runtime().threads()
        names, flight = context.store.names(key).with_slots(_ONE_SLOT), context.flights.names(key)
        wanted = _trials(names.lock, cluster=deployment.cluster, replicas=bool(settings.min_replicas))
        # A user may be allowed some of the keys, and not those that belong to them.
        wanted += [("get", (b"GET", each)) for each in (*names.keys, *flight.keys)]
        for node in deployment.nodes():
            with _Server(node) as server:
                found.servers.append(_look_at(server, wanted))
        found.flushed_by = [alias for alias in caches.settings if _flushes(alias, settings.redis, found.servers)]
        if all(_can_hold_locks(server) for server in found.servers):
            try:
                run_sync(_try_out(context, key))
            finally:
                _clean_up(context, key)
    except _TROUBLE as error:
        found.trouble = str(error) or type(error).__name__
    return found


def _can_hold_locks(server: Findings) -> bool:
    return not (server.is_replica or server.too_old or server.forbidden or server.keys_forbidden)


class _Server:
    """A connection to one server, which answers word by word."""

    def __init__(self, node: Node) -> None:
        self._conn = node.dial()
        # redis-py tells by which way the connection goes, but its types do not.
        known = cast("Any", self._conn)
        self.where: str = getattr(known, "path", None) or f"{known.host}:{known.port}"
        self.user: str = getattr(known, "username", None) or "default"
        self.database = int(known.db or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._conn.disconnect()

    def ask(self, *words: bytes) -> Any:
        """The answer to a command. Raises what redis-py makes of an error."""
        self._conn.send_packed_command((pack(*words),), check_health=False)
        return self._conn.read_response(disconnect_on_error=False)

    def refusal(self, *words: bytes) -> str:
        """Why our user cannot use a command; empty if the user can, whatever else is wrong with it."""
        try:
            self.ask(*words)
        except redis_errors.NoPermissionError as error:
            return str(error)
        except redis_errors.ResponseError as error:
            # Some hosts take commands away from everybody. Whatever else is wrong: the server checks the rights first.
            return str(error) if str(error).startswith(_UNKNOWN) else ""
        return ""

    def told(self, *words: bytes) -> dict[str, str]:
        """The names and values that a command answers with; none where it is refused."""
        try:
            reply = self.ask(*words)
        except redis_errors.ResponseError:
            return {}
        if isinstance(reply, (bytes, str)):
            return dict(line.split(":", 1) for line in decode(reply).splitlines() if ":" in line)
        pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        return {decode(name): decode(value) for name, value in pairs if isinstance(value, (bytes, str))}


def _look_at(server: _Server, wanted: list[tuple[str, tuple[bytes, ...]]]) -> Findings:
    found = Findings(server.where, server.user, server.database)
    about = server.told(b"INFO")
    # Some hosts refuse INFO, others CONFIG; HELLO is open to everybody.
    greeting = {} if about else server.told(b"HELLO")
    found.identity = about.get("run_id", "")
    if not about and greeting.get("server") == "redis":  # others count their versions otherwise
        found.version = greeting.get("version", "")
    else:
        found.version = about.get("redis_version", "")
    found.is_replica = (about.get("role") or greeting.get("role")) in ("slave", "replica")
    found.eviction = about.get("maxmemory_policy") or server.told(b"CONFIG", b"GET", b"maxmemory-policy").get(
        "maxmemory-policy", ""
    )
    refusals = [(rule, server.refusal(*words)) for rule, words in wanted]
    found.forbidden = list(
        dict.fromkeys(rule for rule, refusal in refusals if any(word in refusal for word in _OF_COMMANDS))
    )
    found.keys_forbidden = any(refusal and not any(word in refusal for word in _OF_COMMANDS) for _, refusal in refusals)
    return found


def _trials(lock: bytes, *, cluster: bool, replicas: bool) -> list[tuple[str, tuple[bytes, ...]]]:
    """Each command that is needed, and a way to use it that changes nothing: the key is of another type."""
    trials: list[tuple[str, tuple[bytes, ...]]] = [
        ("set", (b"SET", lock, b"check", b"PX", _TRIAL_MS)),
        ("get", (b"GET", lock)),
        ("exists", (b"EXISTS", lock)),
        ("pttl", (b"PTTL", lock)),
        ("pexpire", (b"PEXPIRE", lock, _TRIAL_MS)),
        ("time", (b"TIME",)),
        ("zadd", (b"ZADD", lock, b"XX", b"1", b"check")),
        ("zrem", (b"ZREM", lock, b"check")),
        ("zscore", (b"ZSCORE", lock, b"check")),
        ("zcount", (b"ZCOUNT", lock, b"0", b"1")),
        ("zrange", (b"ZRANGE", lock, b"0", b"0")),
        ("zpopmin", (b"ZPOPMIN", lock)),
        ("zremrangebyscore", (b"ZREMRANGEBYSCORE", lock, b"0", b"1")),
        ("rpush", (b"RPUSH", lock, b"check")),
        ("blpop", (b"BLPOP", lock, b"0.001")),
        ("xadd", (b"XADD", lock, b"NOMKSTREAM", b"*", b"what", b"check")),
        ("xrevrange", (b"XREVRANGE", lock, b"+", b"-", b"COUNT", b"1")),
        ("xread", (b"XREAD", b"STREAMS", lock + b":none", b"0-0")),
        ("lindex", (b"LINDEX", lock, b"0")),
        ("llen", (b"LLEN", lock)),
        ("lrange", (b"LRANGE", lock, b"0", b"0")),
        ("ltrim", (b"LTRIM", lock, b"0", b"0")),
        ("lpop", (b"LPOP", lock)),
        ("rpop", (b"RPOP", lock)),
        ("hget", (b"HGET", lock, b"check")),
        ("hset", (b"HSET", lock, b"check", b"check")),
        ("eval", (b"EVAL", _NOTHING, b"1", lock)),
        ("evalsha", (b"EVALSHA", b"0" * 40, b"1", lock)),
    ]
    if cluster:
        trials.append(("scan", (b"SCAN", b"0", b"COUNT", b"1")))
        trials.append(("asking", (b"ASKING",)))
        # By these, redis-py learns where the keys are.
        trials += [("cluster|slots", (b"CLUSTER", b"SLOTS")), ("command", (b"COMMAND",))]
    else:
        trials += [("zscan", (b"ZSCAN", lock, b"0")), ("zrandmember", (b"ZRANDMEMBER", lock, b"1"))]
    if replicas:
        trials.append(("wait", (b"WAIT", b"0", b"1")))
    trials.append(("del", (b"DEL", lock)))
    return trials


# ---- a lock, a flight and a rate limit, from their beginning to their end


async def _try_out(context: Context, key: str) -> None:
    store, flights = context.store, context.flights
    for names in (store.names(key), store.names(key).with_slots(_ONE_SLOT)):
        holder, waiter = (Attempt(names, encode(new_token()), _PROBE_SECONDS, wait) for wait in (0.0, _PROBE_WAIT))
        await lock_policy.acquire(store, context.queues, holder, lambda *granted: granted)
        try:
            await lock_policy.acquire(store, context.queues, waiter, lambda *granted: granted)
            await lock_policy.extend(store, holder, _PROBE_SECONDS, replace=False)
            await lock_policy.look(store, names)
            await lock_policy.withdraw(store, waiter)
        finally:
            await lock_policy.release(store, holder)
    flight = flights.names(key)
    token = encode(new_token())
    if isinstance(await lock_policy.once_more(flights.join, flight, token, _PROBE_SECONDS), Leads):
        await lock_policy.once_more(flights.landing, flight, token)
        await lock_policy.once_more(flights.land, flight, token, News("landed"))
    kept, rate = Rate("check", (Window(1, _PROBE_SECONDS),)), context.rates.names(key)
    for _ in range(2):
        place = await lock_policy.once_more(context.rates.book, rate, kept, 1, None, encode(new_token()))
    await lock_policy.once_more(context.rates.reschedule, rate, kept, 2 * _PROBE_SECONDS)  # moves a place
    await lock_policy.once_more(context.rates.place, rate, place.number)
    await lock_policy.once_more(context.rates.unbook, rate, place.number, 1, b"")


def _clean_up(context: Context, key: str) -> None:
    # What is left would vanish by itself: that of a flight after seconds, that of a cluster's lock after minutes.
    deployment = context.store.transport.deployment
    names = context.store.names(key)
    rate = context.rates.names(key)
    for each in (context.flights.names(key).news, *rate.keys[:3], *([names.index] if names.own_index else [])):
        with _Server(deployment.node_for(each)) as server:
            server.ask(b"DEL", each)
    if rate.index is not None:
        with _Server(deployment.node_for(rate.index)) as server:
            server.ask(b"ZREM", rate.index, rate.lock)


# ---- caches in the database of the locks


def _flushes(alias: str, locks: str, servers: list[Findings]) -> bool:
    """Does `clear()` of this cache delete the locks, and may it well be called?

    An alias that only the locks have is for them. But everybody uses the one that is called "default".
    """
    if alias == locks:
        return alias == "default"
    databases = {server.database for server in servers}
    try:
        for node in _nodes_of(alias):
            with _Server(node) as cache:
                if cache.database in databases and any(_is_same(cache, server) for server in servers):
                    return True
    except _TROUBLE:
        pass  # a cache that cannot be asked is a trouble, but not of the locks
    return False


def _is_same(cache: _Server, server: Findings) -> bool:
    if cache.where == server.where:
        return True
    return bool(server.identity) and cache.told(b"INFO", b"server").get("run_id") == server.identity


def _nodes_of(alias: str) -> Iterator[Node]:
    """The servers that a cache flushes; none where it is not on Redis."""
    deployment: Deployment | None = None
    try:
        cache: Any = caches[alias]
        if isinstance(cache, RedisCache):
            deployment = OneServer(cache._cache.get_client(None, write=True).connection_pool)
        else:
            deployment = open_deployment(alias)
    except (ImproperlyConfigured, InvalidCacheBackendError):
        pass
    yield from deployment.nodes() if deployment is not None else ()
