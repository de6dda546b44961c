"""Caches of one process, and a cache that a test can hook into."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.cache.backends.locmem import LocMemCache

if TYPE_CHECKING:
    from collections.abc import Callable


_numbers = count(1)


class Hooked(LocMemCache):
    """A cache that does what a test says before it is read ("get"), after that ("got"), before "set" and "delete"."""

    hooks: ClassVar[dict[str, Callable[[], None]]] = {}

    def _do(self, what: str) -> None:
        if what in self.hooks:
            self.hooks[what]()

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        self._do("get")
        found = super().get(key, default, version)
        self._do("got")
        return found

    def set(self, key: Any, *value: Any, **how: Any) -> None:
        self._do("set")
        super().set(key, *value, **how)

    def delete(self, key: Any, version: int | None = None) -> bool:
        self._do("delete")
        return super().delete(key, version)


def in_process(backend: str = "django.core.cache.backends.locmem.LocMemCache") -> dict[str, Any]:
    """A CACHES entry for a cache of this process, and empty."""
    return {"BACKEND": backend, "LOCATION": f"{backend} {next(_numbers)}"}


def fail() -> None:
    raise OSError("the cache is broken")
