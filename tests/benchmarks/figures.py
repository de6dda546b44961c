"""What was measured, as records; medians and quartiles over rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Figure:
    """One figure of one contender: one value for each round."""

    contender: str
    what: str
    unit: str
    rounds: Sequence[float]


@dataclass(frozen=True)
class Comparison:
    """A ratio, or a figure of ours, and the target it should meet, if there is one."""

    what: str
    rounds: Sequence[float]
    target: float | None = None
    better: Literal["<=", ">="] = "<="
    aim: float | None = None
    judged_by: Literal["median", "worst"] = "median"
    unit: str = ""

    @property
    def value(self) -> float:
        """What is held against the target."""
        if self.judged_by == "median":
            return median(self.rounds)
        return max(self.rounds) if self.better == "<=" else min(self.rounds)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; `None` without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "<=" else self.value >= self.target


@dataclass
class Result:
    """All that a scenario found."""

    scenario: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, unit: str, rounds_by_contender: Mapping[str, Sequence[float]]) -> None:
        """Add a figure of several contenders."""
        for contender, rounds in rounds_by_contender.items():
            self.figures.append(Figure(contender, what, unit, rounds))


def quartiles(rounds: Sequence[float]) -> tuple[float, float]:
    """The lower and upper quartile; of less than two values, the value."""
    if len(rounds) < 2:
        return rounds[0], rounds[0]
    low, _, high = quantiles(rounds, n=4, method="inclusive")
    return low, high


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours by theirs, round by round: what slowed down a round slowed down both."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 = all got the same, 1/n = one got all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The contenders in another order each round, so that none always comes after the same."""
    by %= len(names)
    return [*names[by:], *names[:by]]
