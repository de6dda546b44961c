"""Results as a table to read and as JSON to keep."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

from .figures import quartiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .figures import Comparison, Figure, Result

_PACKAGES = (
    "Django",
    "django-redis",
    "redis",
    "hiredis",
    "python-redis-lock",
    "dogpile.cache",
    "django-cacheops",
    "cashews",
)


def surroundings(server: str, *, quick: bool) -> dict[str, Any]:
    """On what this was measured."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "server": server,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def headline(facts: dict[str, Any]) -> str:
    """The same in a line or two."""
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    load = "" if facts["load"] is None else f", load {facts['load']:.1f}"
    mode = "quick" if facts["quick"] else "full"
    return f"{mode} run: Python {facts['python']}, {packages}\n{facts['server']}, {facts['cpus']} CPUs{load}"


def table(result: Result) -> str:
    """One scenario: its figures, how ours compare, and what to know about them."""
    rows = [_figure_row(figure) for figure in result.figures]
    rows += [_comparison_row(comparison) for comparison in result.comparisons]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"\n{result.scenario}: {result.title}"]
    for who, value, spread, rest in rows:
        line = f"  {who:<{widths[0]}}  {value:>{widths[1]}}  {spread:<{widths[2]}}  {rest}"
        lines.append(line.rstrip())
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def _figure_row(figure: Figure) -> tuple[str, str, str, str]:
    return f"{figure.contender}: {figure.what}", _short(median(figure.rounds)), _spread(figure.rounds), figure.unit


def _comparison_row(comparison: Comparison) -> tuple[str, str, str, str]:
    return f"> {comparison.what}", _short(comparison.value), _spread(comparison.rounds), _verdict(comparison)


def _verdict(comparison: Comparison) -> str:
    words = [comparison.unit] if comparison.unit else []
    if comparison.target is not None:
        words.append("ok" if comparison.met else "MISSED")
        aim = "" if comparison.aim is None else f", aim {comparison.aim:g}"
        words.append(f"(target {comparison.better} {comparison.target:g}{aim})")
    return " ".join(words)


def _spread(rounds: Sequence[float]) -> str:
    if len(rounds) < 2:
        return ""
    low, high = quartiles(rounds)
    return f"[{_short(low)} .. {_short(high)}]"


def _short(value: float) -> str:
    if value and abs(value) < 1:
        return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def write_json(path: Path, facts: dict[str, Any], results: Sequence[Result]) -> None:
    """All of it, with the value of every round."""
    path.write_text(json.dumps({**facts, "scenarios": [_plain(result) for result in results]}, indent=1) + "\n")


def _plain(result: Result) -> dict[str, Any]:
    return {
        "scenario": result.scenario,
        "title": result.title,
        "figures": [asdict(figure) | _summary(figure.rounds) for figure in result.figures],
        "comparisons": [
            asdict(comparison) | _summary(comparison.rounds) | {"value": comparison.value, "met": comparison.met}
            for comparison in result.comparisons
        ],
        "notes": result.notes,
    }


def _summary(rounds: Sequence[float]) -> dict[str, float]:
    low, high = quartiles(rounds)
    return {"median": median(rounds), "quartile_1": low, "quartile_3": high, "min": min(rounds), "max": max(rounds)}
