"""How the network is: what a byte takes, and what becomes of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_LONGEST = 8.0
"""Seconds; more than a server may keep silent."""


class Weather:
    """Drawn from a seed; calm in the end, so that all that was begun can end."""

    def __init__(self, rng: Random, badness: float) -> None:
        self._rng = rng
        self._badness = badness
        self.is_calm = False

    def delay(self) -> float:
        """Seconds, of some bytes in one direction."""
        rng = self._rng
        usual = rng.expovariate(1 / 0.0003)
        if self.is_calm or rng.random() > 0.08 * self._badness:
            return min(usual, 0.01)
        return rng.uniform(0.01, 0.5) if rng.random() < 0.6 else rng.uniform(0.5, _LONGEST)

    def fate(self) -> tuple[str, int, bool] | None:
        """Of a new connection: which direction, after how many bytes, and whether it is cut or goes silent."""
        rng = self._rng
        if self.is_calm or rng.random() > 0.3 * self._badness:
            return None
        most = rng.choice((400, 2000, 20_000))
        return rng.choice(("up", "down")), rng.randrange(most), rng.random() < 0.7
