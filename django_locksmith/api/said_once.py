"""Warnings about code that is likely wrong, each said once for each lock and process."""

from __future__ import annotations

import logging
import re

logger = logging.getLogger("django_locksmith.lock")

_MOST, _LONGEST = 100, 200
_FIELD = re.compile(r"\{[a-z_]\w*([.\[][^{}]*)?\}", re.IGNORECASE)
_said: set[tuple[str, str]] = set()


def warn_once(text: str, name: str) -> None:
    """Log it, unless that was done before, or very often: `text` has one place for the lock's name."""
    name = name[:_LONGEST]
    if len(_said) < _MOST and (text, name) not in _said:
        _said.add((text, name))
        logger.warning(text + " (Said once for each lock.)", name)


def warn_of_braces(key: str) -> None:
    """Where a key looks like a template that nobody will fill in. (On a cluster braces may be meant: a hash tag.)"""
    if _FIELD.search(key):
        warn_once(BRACES, key)


RELEASED_BEFORE_COMMIT = (
    "the lock %r is released before the COMMIT of the transaction around it: the next holder reads the old rows."
    " Take it outside of the transaction, or say release='commit'."
)
BRACES = (
    "the key %r has braces in it, which stand for arguments in a decorator only: here they are the same for every"
    " caller. Was an f before the string forgotten?"
)
RATE_BY_MEMORY = (
    "the rate limit %r is kept by each process for itself, from what it knows, for Redis gives no usable answer: all of"
    " them together may be too fast."
)
DROPPED = (
    "a lease of the lock %r was dropped without being released, and so nobody can release it: it ends by itself."
    " Keep the lease, or the Lock object whose acquire() gave it, or use a with block."
)
NOBODY_IN_PARTICULAR = (
    "the lock of the view %r is the visitor's, and a request came that has no user, token, session or CSRF cookie: it"
    " was refused. Name what must not happen twice in the key, or say anonymous='share'."
)
NOT_A_RESPONSE = (
    'the view %r is locked until="closed", but what it returned is no response: the lock was released before it was'
    " sent. Lock the function that makes the response."
)
