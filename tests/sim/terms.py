"""What a play is like: drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

LEASE: Final = 5.0
RATE_CALLS, RATE_SECONDS, CAUTION = 3, 2, 0.02
FAULTS: Final = (
    "stop_one",
    "cut_one_off",
    "kill_one",
    "cut_all",
    "interrupt_some",
    "restart_server",
    "lose_data",
    "set_clock",
)
"""Methods of `troubles.py`."""
_HARMLESS: Final = ("interrupt_some", "stop_one")
Key = tuple[str, "int | tuple[str, ...]"]
"""Of a lock, and how many slots it has, or their names."""
_KEYS: Final[tuple[tuple[Key, ...], ...]] = (
    (("a", 1),),
    (("a", 1),),
    (("a", 1), ("b", 1)),
    (("a", 2),),
    (("a", 1), ("b", 3)),
    (("a", ("x", "y")),),
)


@dataclass(frozen=True)
class Terms:
    """Those of one play.

    Attributes:
        machines: processes.
        callers: of each.
        badness: of the network: 0 = no trouble at all, 1 = much.
        threads: the share of callers that are threads.
        is_hot: nobody rests, or holds a lock for long.
        rate: how many of the calls are for a place in a rate limit.
        faults: what befalls them.
    """

    seed: int
    machines: int
    callers: int
    keys: tuple[Key, ...]
    badness: float
    threads: float
    is_hot: bool
    rate: float
    faults: tuple[str, ...]

    @classmethod
    def of(cls, seed: int) -> Terms:
        """Those of a seed."""
        rng = random.Random(seed)
        faults = [fault for fault in FAULTS if rng.random() < 0.25]
        badness = rng.choice((0.0, 0.2, 0.5, 1.0))
        if rng.random() < 0.3:
            badness, faults = 0.0, [fault for fault in _HARMLESS if rng.random() < 0.5]
        return cls(
            seed=seed,
            machines=rng.randint(1, 4),
            callers=rng.randint(1, 4),
            keys=rng.choice(_KEYS),
            badness=badness,
            threads=rng.choice((0.0, 0.5, 1.0)),
            is_hot=rng.random() < 0.3,
            rate=rng.choice((0.0, 0.0, 0.3, 0.9)),
            faults=tuple(faults),
        )

    @property
    def is_quiet(self) -> bool:
        """Does nothing go wrong but that callers give up?"""
        return self.is_well and "stop_one" not in self.faults

    @property
    def is_well(self) -> bool:
        """Or processes are stopped for a while?"""
        return not self.badness and set(_HARMLESS).issuperset(self.faults)

    @property
    def lasts(self) -> float:
        """Seconds of trouble; then it is calm, and all that was begun comes to its end."""
        if self.is_hot:
            return 3.0
        return 25.0 if self.is_well else 15.0  # there is time to stop a process until it counts as dead

    @property
    def between_troubles(self) -> float:
        """Seconds."""
        return 0.2 if self.is_hot else 1.5

    @property
    def rests(self) -> tuple[float, ...]:
        """Seconds between two calls of a caller."""
        return (0.0, 0.0005, 0.003) if self.is_hot else (0.0, 0.05, 1.0)

    @property
    def holds(self) -> tuple[float, ...]:
        """Seconds for which a lock is held: longer than its lease, too."""
        return (0.0, 0.0005, 0.003) if self.is_hot else (0.0, 0.01, 0.3, 2.0, 7.0)
