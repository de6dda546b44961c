"""The scripts: one transition of the protocol each, sent by digest and, where a server does not know them, by text."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files

ANY = -1
"""As many arguments as a call has."""


@dataclass(frozen=True, eq=False)
class Script:
    """A Lua script, and the digest that it is called by."""

    text: bytes
    arguments: int
    keys: int | None = None
    """How many of the lock's keys it is given, `None` = all: in a slot on its way to another node of a cluster, only
    scripts of one key run."""
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1; nothing secret hangs on it.
        digest = sha1(self.text, usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest.encode())


def _read(*names: str, arguments: int, keys: int | None = None) -> Script:
    folder = files(__name__)
    return Script(b"\n".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names), arguments, keys)


ACQUIRE = _read("acquire_free", "baton", "acquire", arguments=5)
TRY = Script(ACQUIRE.text, arguments=3)
"""The same, as it is asked most often: the first request of a caller who would wait for long."""
ABANDON = _read("release_unawaited", "baton", "release", arguments=2)
RELEASE = Script(ABANDON.text, arguments=1)
RELEASE_ALONE = _read("release_alone", arguments=1, keys=1)
"""Of a lock whose other keys are on another node just now: its waiters find out by themselves."""
EXTEND = _read("extend", arguments=4, keys=1)
LOOK = _read("look", arguments=0)
LOOK_ALONE = _read("look_alone", arguments=0, keys=1)
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
