"""What the engine keeps, and what it answers."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf
from typing import Any

Reply = Any


class Refusal(Exception):
    """What the server answers with an error."""


class Status(bytes):
    """What it answers as a word, such as OK."""


OK = Status(b"OK")
WRONG_KIND = Refusal("WRONGTYPE Operation against a key holding the wrong kind of value")


class SortedSet:
    """Members by score, then by name."""

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def put(self, member: bytes, score: float) -> None:
        """New, or moved."""
        self.drop(member)
        self.scores[member] = score
        insort(self.order, (score, member))

    def drop(self, member: bytes) -> bool:
        """Whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.order[bisect_left(self.order, (score, member))]
        return True

    def __len__(self) -> int:
        return len(self.order)


class Stream(list[tuple[tuple[int, int], list[bytes]]]):
    """Entries by their numbers."""


def score_text(score: float) -> bytes:
    """As Redis writes a score."""
    if score in (inf, -inf):
        return b"inf" if score > 0 else b"-inf"
    return b"%d" % int(score) if score == int(score) and abs(score) < 1e17 else repr(score).encode()
