"""The names of a lock's keys in Redis.

The lock itself is plainly prefix + key, so that other clients of the `SET NX PX` pattern see and respect it. What
belongs to it carries a reserved word right behind the prefix: one ACL pattern (`prefix*`) covers everything.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from .lua import OF_LOCK, OF_SLOTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .lua import Scripts

_SLOTS = 16384
DONE = "<done>"
_RESERVED = (
    *("<queue>", "<baton>", "<index>"),
    *("<flight>", "<news>", "<pause>"),
    DONE,
    *("<rate>", "<places>", "<moved>", "<limits>"),
    "<settle>",
)
_OPEN_BRACE = "LOCKSMITH['PREFIX'] {!r} has an open brace; a cluster needs it closed or left out"
_LONGEST = 200
"""Bytes of a flight's name. A longer one (the keys of caches may be long) is replaced by its digest."""
_VARIANTS = 8
"""Ways to use one key that are remembered: it should be one."""
TOO_LONG = 1000
"""Characters of a key whose names are not remembered: with a thousand such, a process would be full of them."""


class Slots(NamedTuple):
    """How many may hold a lock at one time; and what the slots are called, if they have names."""

    most: int
    names: tuple[str, ...] = ()
    listed: bytes = b""
    """The names as Redis has them."""

    @property
    def number(self) -> float:
        """As Redis has it: with a half for those that have names."""
        return self.most + 0.5 if self.names else self.most

    def name_of(self, number: int) -> str:
        """The name of the slot with this number, from 1; none for 0."""
        return self.names[number - 1] if number else ""


ANY_SLOTS = Slots(0)
"""However many there are: to look at them, or to take one away."""


class Keyring(Protocol):
    """The keys of one lock or flight."""

    @property
    def key(self) -> str:
        """What users call it."""

    @property
    def lock(self) -> bytes:
        """The key that holds the token of who has it."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What the scripts get as KEYS, in this order."""

    @property
    def heads(self) -> dict[object, bytes]:
        """What the store has packed for it."""

    @property
    def scripts(self) -> Scripts:
        """What it is moved by."""

    @property
    def companions(self) -> tuple[bytes, ...]:
        """Keys that a renewal is to keep, too."""


@dataclass(frozen=True, eq=False)
class Names:
    """The keys of one lock. `own_index`: no other lock has it."""

    key: str
    lock: bytes
    queue: bytes
    baton: bytes
    index: bytes
    own_index: bool = False
    slots: Slots | None = None
    scripts: Scripts = OF_LOCK
    heads: dict[object, bytes] = field(default_factory=dict, repr=False)
    """What the store has packed for these names."""
    _variants: dict[Slots, Names] = field(default_factory=dict, repr=False)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What the scripts get as KEYS, in this order."""
        four = (self.lock, self.queue, self.baton, self.index)
        return (*four, self.index) if self.own_index else four

    @property
    def companions(self) -> tuple[bytes, ...]:
        """In a cluster, its last fence, which is to outlive it."""
        return (self.index,) if self.own_index else ()

    def with_slots(self, slots: Slots | None) -> Names:
        """The same of a lock that so many may hold; `None`: one."""
        if slots == self.slots:
            return self
        try:
            return self._variants[slots]  # type: ignore[index]  # None is none of them
        except KeyError:
            if len(self._variants) >= _VARIANTS:
                self._variants.clear()
            made = replace(self, slots=slots, scripts=OF_SLOTS if slots else OF_LOCK, heads={}, _variants={})
            if slots is not None:
                self._variants[slots] = made
            return made


@dataclass(frozen=True, eq=False)
class FlightNames:
    """The keys of one flight. `lock` is the right to lead it."""

    key: str
    lock: bytes
    news: bytes
    pause: bytes
    settle: bytes
    heads: dict[object, bytes] = field(default_factory=dict, repr=False)
    scripts: ClassVar[Scripts] = OF_LOCK  # its right to lead is renewed as a lock is
    companions: ClassVar[tuple[bytes, ...]] = ()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What the scripts get as KEYS, in this order."""
        return (self.lock, self.news, self.pause, self.settle)


@dataclass(frozen=True, eq=False)
class RateNames:
    """The keys of one rate limit. `lock` is its state, by which it is found; in a cluster there is no index."""

    key: str
    lock: bytes
    places: bytes
    news: bytes
    index: bytes | None
    heads: dict[object, bytes] = field(default_factory=dict, repr=False)
    scripts: ClassVar[Scripts] = OF_LOCK
    companions: ClassVar[tuple[bytes, ...]] = ()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What the scripts get as KEYS, in this order."""
        three = (self.places, self.lock, self.news)
        return three if self.index is None else (*three, self.index)


def check_key(key: object) -> str:
    """`key` itself, if a lock can have it; else a `TypeError` or `ValueError` that says why not."""
    if type(key) is not str:
        if not isinstance(key, str):
            hint = "; as a decorator, write @locksmith() with parentheses" if callable(key) else ""
            raise TypeError(f"a lock's key is a str, not {type(key).__name__}: {key!r}{hint}")
        key = str.__str__(key)  # an Enum, say, is formatted otherwise than it compares
    if not key.isascii():
        try:
            encode(key)
        except UnicodeEncodeError as error:
            raise ValueError(f"the key {key!r} cannot be written as UTF-8: {error.reason}") from error
    if key[:1] == "<" and key.startswith(_RESERVED):
        raise ValueError(f"the key {key!r} starts with a word that is reserved for the keys that belong to locks")
    return key


def can_be_written(text: str) -> bool:
    """Has it bytes for Redis? A lone surrogate has none."""
    try:
        encode(text)
    except UnicodeEncodeError:
        return False
    return True


def encode(text: str) -> bytes:
    # Python's way to carry bytes that are no UTF-8 (file names, for one): the same bytes go to Redis.
    return text.encode("utf-8", "surrogateescape")


def decode(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def names_on_one_server(prefix: str, key: str) -> Names:
    """On one server the index is shared by all locks of the prefix."""
    return Names(
        key,
        encode(f"{prefix}{key}"),
        encode(f"{prefix}<queue>{key}"),
        encode(f"{prefix}<baton>{key}"),
        encode(f"{prefix}<index>"),
    )


def names_in_cluster(prefix: str, key: str) -> Names:
    """In a cluster all keys of a lock live in the slot of the lock, whatever braces its key contains.

    Raises `ValueError` where the prefix has an open brace.
    """
    queue, baton, index = (_companion(prefix, word, key) for word in _RESERVED[:3])
    return Names(key, encode(f"{prefix}{key}"), queue, baton, index, own_index=True)


def names_of_flight(prefix: str, key: str, *, in_cluster: bool) -> FlightNames:
    """The keys of a flight share a slot by a tag of their own; a single server does not mind.

    Raises `ValueError` where the prefix has an open brace.
    """
    if len(key) > TOO_LONG:
        return _names_of_flight.__wrapped__(prefix, key, in_cluster=in_cluster)
    return _names_of_flight(prefix, key, in_cluster=in_cluster)


@lru_cache(maxsize=1024)
def _names_of_flight(prefix: str, key: str, *, in_cluster: bool) -> FlightNames:
    name = encode(key)
    if len(name) > _LONGEST:
        name = sha256(name).hexdigest().encode()
    words = (*_RESERVED[3:6], _RESERVED[11])
    flight, news, pause, settle = _tagged(prefix, words, name, in_cluster=in_cluster)
    return FlightNames(key, flight, news, pause, settle)


@lru_cache(maxsize=1024)
def names_of_rate(prefix: str, name: str, *, in_cluster: bool) -> RateNames:
    """As those of a flight."""
    state, places, news = _tagged(prefix, _RESERVED[7:10], encode(name), in_cluster=in_cluster)
    return RateNames(name, state, places, news, None if in_cluster else index_of_rates(prefix))


def index_of_rates(prefix: str) -> bytes:
    """Where the rate limits of one server are found."""
    return encode(f"{prefix}{_RESERVED[10]}")


def states_of_rates(prefix: str) -> bytes:
    """The pattern by which those of a cluster are."""
    return encode(glob_escape(f"{prefix}{_RESERVED[7]}")) + b"*"


def rate_of_state(prefix: str, state: bytes | str) -> str | None:
    """The name of the rate limit whose state this key is; `None` if it is none."""
    tag, brace, name = decode(state).removeprefix(f"{prefix}{_RESERVED[7]}{{").partition("}")
    return name if brace and len(tag) <= 4 else None


def _tagged(prefix: str, words: Sequence[str], name: bytes, *, in_cluster: bool) -> list[bytes]:
    keys = [encode(f"{prefix}{word}{{{crc_hqx(name, 0):x}}}") + name for word in words]
    if in_cluster and len({slot_of(key) for key in keys}) > 1:
        raise ValueError(_OPEN_BRACE.format(prefix))
    return keys


def is_lock(prefix: str, name: bytes | str) -> bool:
    """Is this name, found in Redis, one of a lock, and not of something that belongs to it?"""
    text = decode(name)
    return text.startswith(prefix) and not text[len(prefix) :].startswith(_RESERVED)


def not_a_lock(name: bytes, why: str) -> str:
    """What is said of a key that something else is stored under."""
    whose = f"the lock {name.decode('utf-8', 'replace')!r}" if name else "the locks"
    return f"a key of {whose} holds something that is no lock: {why}; delete it, or choose another key or PREFIX"


def glob_escape(text: str) -> str:
    """A pattern that Redis matches with this text alone."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def slot_of(name: bytes) -> int:
    """The cluster slot of a key: CRC16 of its hash tag, if it has one that is not empty, else of the whole name."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % _SLOTS


def _companion(prefix: str, word: str, key: str) -> bytes:
    lock = encode(f"{prefix}{key}")
    slot = slot_of(lock)
    head, tail = encode(f"{prefix}{word}"), encode(key)
    # A tag of the key's own serves as it is, behind a colon; a key without braces is its own tag; the rest (`a}b`,
    # `a{}b`) gets one. No two of these are alike, so that no two locks share what belongs to them.
    name = head + b":" + tail
    if b"{" in lock and slot_of(name) == slot:
        return name
    name = head + b"{" + lock + b"}"
    if b"}" not in lock and slot_of(name) == slot:
        return name
    name = head + b"{" + _tag_for(slot) + b"}" + tail
    if slot_of(name) != slot:
        raise ValueError(_OPEN_BRACE.format(prefix))
    return name


@lru_cache(maxsize=1024)
def _tag_for(slot: int) -> bytes:
    return next(tag for n in count() if crc_hqx(tag := b"%x" % n, 0) % _SLOTS == slot)
