"""The scripts: one transition of the protocol each, sent by digest and, where a server does not know them, by text."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple

ANY = -1
"""As many arguments as a call has."""


@dataclass(frozen=True, eq=False)
class Script:
    """A Lua script, and the digest that it is called by."""

    text: bytes
    arguments: int
    keys: int | None = None
    """How many of the lock's keys it is given, `None` = all: of a hash slot on its way to another node of a cluster,
    only scripts of one key run."""
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1; nothing secret hangs on it.
        digest = sha1(self.text, usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest.encode())


def _read(*names: str, arguments: int, keys: int | None = None) -> Script:
    folder = files(__name__)
    return Script(b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names), arguments, keys)


class Scripts(NamedTuple):
    """By which a lock goes from hand to hand."""

    acquire: Script
    try_: Script
    """The same, as it is asked most often: the first request of a caller who would wait for long."""
    abandon: Script
    release: Script
    release_alone: Script
    """Where the other keys are on another node just now: the waiters find out by themselves."""
    extend: Script


ACQUIRE = _read("grant", "acquire_free", "slots_kept", "baton", "acquire", arguments=5)
TRY = Script(ACQUIRE.text, arguments=3)
ABANDON = _read("release_unawaited", "baton", "release", arguments=2)
RELEASE = Script(ABANDON.text, arguments=1)
RELEASE_ALONE = _read("release_alone", arguments=1, keys=1)
EXTEND = _read("lasting", "extend", arguments=4, keys=1)
OF_LOCK = Scripts(ACQUIRE, TRY, ABANDON, RELEASE, RELEASE_ALONE, EXTEND)

ACQUIRE_SLOT = _read("grant", "baton", "slots", "claim_slot", "slots_kept", "slots_seldom", "acquire_slot", arguments=7)
ABANDON_SLOT = _read("baton", "slots", "hand_slot_over", "slots_seldom", "release_slot", arguments=2)
RELEASE_SLOT = Script(ABANDON_SLOT.text, arguments=1)
RELEASE_SLOT_ALONE = _read("release_slot_alone", arguments=1, keys=1)
EXTEND_SLOT = _read("lasting", "extend_slot", arguments=4, keys=1)
OF_SLOTS = Scripts(ACQUIRE_SLOT, ACQUIRE_SLOT, ABANDON_SLOT, RELEASE_SLOT, RELEASE_SLOT_ALONE, EXTEND_SLOT)

LOOK = _read("slots_kept", "look", arguments=0)
LOOK_ALONE = _read("slots_kept", "look_alone", arguments=0, keys=1)
FORGET = _read("forget", arguments=0)

JOIN = _read("news", "join", arguments=3)
LANDING = _read("news", "landing", arguments=1)
LAND = _read("news", "land", arguments=5)
VOID = _read("news", "void", arguments=2)

BOOK = _read("schedule", "book", arguments=ANY)
PLACE = _read("schedule", "place", arguments=1)
UNBOOK = _read("schedule", "unbook", arguments=4)
LOOK_RATE = _read("schedule", "look_rate", arguments=0)
RESCHEDULE = _read("schedule", "reschedule", arguments=ANY)
PASS_TIME = _read("schedule", "pass_time", arguments=1)
"""For tests alone."""
