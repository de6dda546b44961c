"""Requests as bytes, packed once for each lock and script: redis-py's own packing is a fifth of an acquire."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .key_names import Keyring
    from .lua import Script


def bulk(part: bytes) -> bytes:
    """One argument."""
    return b"$%d\r\n%b\r\n" % (len(part), part)


def pack(*parts: bytes) -> bytes:
    """A command."""
    return b"*%d\r\n%b" % (len(parts), b"".join(map(bulk, parts)))


def head(script: Script, names: Keyring, full: bool = False) -> bytes:
    """A script's call without its arguments. `full`: with its text, for a server that may not know it."""
    if full:
        return _head(script, names, b"EVAL", script.text)
    try:
        return names.heads[script]
    except KeyError:
        packed = names.heads[script] = _head(script, names, b"EVALSHA", script.digest)
        return packed


def _head(script: Script, names: Keyring, *command: bytes) -> bytes:
    keys = names.keys[: script.keys]
    parts = (*command, b"%d" % len(keys), *keys)
    return b"*%d\r\n%b" % (len(parts) + script.arguments, b"".join(map(bulk, parts)))


def request(script: Script, names: Keyring, *arguments: bytes, full: bool = False) -> bytes:
    """A script's call."""
    if script.arguments < 0:  # not to be packed beforehand, for their number is not known
        called = (b"EVAL", script.text) if full else (b"EVALSHA", script.digest)
        return pack(*called, b"%d" % len(names.keys), *names.keys, *arguments)
    return head(script, names, full) + b"".join(map(bulk, arguments))
