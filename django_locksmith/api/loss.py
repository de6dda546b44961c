"""Who is told that a lease was lost: its `on_lost`, and the receivers of the signal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from .. import signals
from ..runtime.contexts import LoopContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..runtime.contexts import Context

logger = logging.getLogger("django_locksmith.lock")


class Held(Protocol):
    """A lease, as far as this needs to know it."""

    @property
    def key(self) -> str:
        """The lock's key."""


def news_of_loss(lease: Held, why: str, on_lost: Any, context: Context) -> Callable[[], None] | None:
    """What another thread is to call, if somebody wants to hear of it."""
    if not callable(on_lost):
        on_lost = None
    elif isinstance(context, LoopContext):
        # The callback of a task runs in its loop, where it may cancel the task.
        try:
            context.loop.call_soon_threadsafe(_call, on_lost, lease)
        except RuntimeError:
            logger.error("the lock %r was lost after its event loop was closed", lease.key)
        on_lost = None
    if not on_lost and not signals.lost.wanted:
        return None

    def tell() -> None:
        if on_lost:
            _call(on_lost, lease)
        signals.lost.send_robust(None, lease=lease, why=why)

    return tell


def _call(on_lost: Any, lease: Held) -> None:
    try:
        on_lost(lease)
    except Exception:
        logger.exception("on_lost of the lock %r failed", lease.key)
