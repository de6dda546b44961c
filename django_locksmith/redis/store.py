"""What the stores of locks have in common: the names of their keys, and how a script is sent."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from ..exceptions import LockUnavailable
from .key_names import TOO_LONG, names_in_cluster, names_on_one_server
from .packing import pack, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .key_names import Keyring, Names
    from .lua import Script
    from .node import Node
    from .transport import Connection, Transport

_MANY = 1024


class Store:
    """The locks of one prefix on one deployment, over the transport of one process or event loop."""

    def __init__(self, transport: Transport, prefix: str | Callable[[], str]) -> None:
        self.transport = transport
        self.now = transport.now
        self.sleep = transport.sleep
        self.shielded = transport.shielded
        self._make_names = names_in_cluster if transport.deployment.cluster else names_on_one_server
        self._prefix = prefix
        self.names: Callable[[str], Names]
        """The keys in Redis of a lock, by its key."""
        if isinstance(prefix, str):
            self.names = _NamesCache(partial(self._make_names, prefix)).__getitem__
        else:
            self.names = self._names_of_now
            self._caches = _NamesCache(lambda made: _NamesCache(partial(self._make_names, made)))

    @property
    def prefix(self) -> str:
        """What the keys begin with, now: it may depend on the caller."""
        return self._prefix if isinstance(self._prefix, str) else self._prefix()

    def _names_of_now(self, key: str) -> Names:
        names: Names = self._caches[self.prefix][key]
        return names

    async def run(self, script: Script, names: Keyring, *arguments: bytes) -> Any:
        """The reply to a script's call."""
        try:
            return await self.transport.call(names.lock, request(script, names, *arguments))
        except NoScriptError:
            return await self.transport.call(names.lock, request(script, names, *arguments, full=True))

    async def load(self, lock: bytes, script: Script) -> None:
        """Have the server of this lock know a script. Where that is forbidden, its text is sent with each call."""
        try:
            await self.transport.call(lock, pack(b"SCRIPT", b"LOAD", script.text))
        except LockUnavailable:
            pass

    @asynccontextmanager
    async def connection_to(self, node: Node) -> AsyncIterator[Connection]:
        """A connection that is kept if all goes well, and dropped if not."""
        connection = await self.transport.connection_to(node)
        try:
            yield connection
        except BaseException:
            await connection.drop()
            raise
        await connection.keep()


class _NamesCache(dict[str, Any]):
    """What was made of late, by its name. A plain dict: `lru_cache` would cost three times as much."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make

    def __missing__(self, name: str) -> Any:
        if len(self) >= _MANY:
            self.clear()
        made = self._make(name)
        if len(name) <= TOO_LONG:
            self[name] = made
        return made
