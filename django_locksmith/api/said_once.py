"""Warnings about code that is likely wrong, each said once for each lock and process."""

from __future__ import annotations

import logging

logger = logging.getLogger("django_locksmith.lock")

_MOST = 100
_said: set[tuple[str, str]] = set()


def warn_once(text: str, name: str) -> None:
    """Log it, unless that was done before, or very often: `text` has one place for the lock's name."""
    if len(_said) < _MOST and (text, name) not in _said:
        _said.add((text, name))
        logger.warning(text + " (Said once for each lock.)", name)


RELEASED_BEFORE_COMMIT = (
    "the lock %r is released before the COMMIT of the transaction around it: the next holder reads the old rows."
    " Take it outside of the transaction, or say release='commit'."
)
DROPPED = (
    "a lease of the lock %r was dropped without being released, and so nobody can release it: it ends by itself."
    " Keep the lease, or the Lock object whose acquire() gave it, or use a with block."
)
