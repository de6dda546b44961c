"""What may take long, done by a thread of its own, so that those who want its result can give up."""

from __future__ import annotations

import threading
from concurrent import futures
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Errand(Generic[T]):
    """One thread does it for all who ask meanwhile. What failed is tried again by whoever asks next."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self._name = name
        self._work = work
        self._mutex = threading.RLock()
        self._under_way: futures.Future[T] | None = None

    def result(self, wait: float) -> T:
        """What it gives. Raises what it raises, or `TimeoutError` after so many seconds; it goes on even so."""
        with self._mutex:
            future = self._under_way
            if future is None:
                future = self._under_way = futures.Future()
                try:
                    threading.Thread(target=self._run, args=(future,), name=self._name, daemon=True).start()
                except RuntimeError:  # no more threads
                    self._under_way = None
                    return self._work()
        try:
            return future.result(wait)
        except futures.TimeoutError:
            raise TimeoutError(f"no answer within {wait:g} s") from None

    def _run(self, future: futures.Future[T]) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self._under_way = None
            future.set_exception(error)
        else:
            self._under_way = None
            future.set_result(result)
