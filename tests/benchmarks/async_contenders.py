"""The locks that are compared on asyncio. Each is made, used and closed in one event loop."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import redis.asyncio

from django_locksmith import locksmith

from .contenders import CONNECTIONS, LEASE, packed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Guard = AbstractAsyncContextManager[Any]


class AsyncContender(ABC):
    """One way to lock."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def lock(self, key: str) -> Guard:
        """A new lock object, to be used in an `async with` statement; waits if it is busy."""

    @abstractmethod
    async def close(self) -> None:
        """Close its connections."""


class Ours(AsyncContender):
    """django_locksmith; its connections are closed with the loop."""

    name = "ours"

    def lock(self, key: str) -> Guard:
        return locksmith(key)

    async def close(self) -> None:
        pass


class RedisAsyncio(AsyncContender):
    """`redis.asyncio.lock.Lock`."""

    name = "redis.asyncio"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = redis.asyncio.Redis.from_url(url, max_connections=CONNECTIONS)

    def lock(self, key: str) -> Guard:
        return self._client.lock(key, timeout=LEASE)

    async def close(self) -> None:
        await self._client.aclose()


class BareStream(AsyncContender):
    """SET NX PX and DEL on an asyncio stream: the floor, of which no safe lock can be made. Cannot wait."""

    name = "bare stream"
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        if await self._ask("SET", key, uuid.uuid4().hex, "NX", "PX", str(LEASE * 1000)) != b"+OK\r\n":
            raise RuntimeError("the floor found its key taken")
        try:
            yield
        finally:
            await self._ask("DEL", key)

    async def _ask(self, *words: str) -> bytes:
        if self._streams is None:
            await self._connect()
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(packed(*words))
        return await reader.readline()

    async def _connect(self) -> None:
        parts = urlsplit(self.url)
        self._streams = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 6379)
        if parts.password:
            await self._ask("AUTH", parts.password)
        if parts.path.strip("/"):
            await self._ask("SELECT", parts.path.strip("/"))

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


ALL: Final[dict[str, type[AsyncContender]]] = {
    contender.name: contender for contender in (Ours, RedisAsyncio, BareStream)
}
WAITING: Final = (Ours.name, RedisAsyncio.name)
