"""Marks beside the locks: a word of ours under a name, which ends by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .key_names import DONE, decode, encode
from .packing import pack

if TYPE_CHECKING:
    from .store import Store


async def put(store: Store, name: str, value: str, ms: int) -> None:
    """Keep it for so long."""
    key = _key(store, name)
    await store.transport.call(key, pack(b"SET", key, encode(value), b"PX", b"%d" % ms))


async def get(store: Store, name: str) -> str | None:
    """What is kept; `None` if there is nothing."""
    key = _key(store, name)
    found = await store.transport.call(key, pack(b"GET", key))
    return None if found is None else decode(found)


def _key(store: Store, name: str) -> bytes:
    return encode(f"{store.prefix}{DONE}{name}")
