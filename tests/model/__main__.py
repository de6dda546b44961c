"""See `python -m tests.model --help`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import django

from .settings import CASES, MUTANTS
from .spin import NotHere, look_through

if TYPE_CHECKING:
    from collections.abc import Iterable

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def main() -> int:
    """0: all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Look through the model of a lock.")
    parser.add_argument("--quick", action="store_true", help="only what takes less than a minute each")
    parser.add_argument("--mutants", action="store_true", help="put faults in: each must be refuted")
    parser.add_argument("--traces", type=int, metavar="N", help="play N simulations, and follow them in the model")
    parser.add_argument("--first", type=int, default=1, help="the first seed of those (default: 1)")
    options = parser.parse_args()
    try:
        if options.traces is not None:
            django.setup()
            return follow(range(options.first, options.first + options.traces))
        return refute() if options.mutants else prove(quick=options.quick)
    except NotHere as error:
        print(error, file=sys.stderr)
        return 2


def prove(*, quick: bool) -> int:
    """Every case holds, in every state."""
    bad = 0
    for case in CASES:
        if quick and not case.is_quick:
            continue
        verdict = look_through("lock.pml", case.settings, served=case.served)
        holds = verdict.complete and not verdict.refuted
        bad += not holds
        said = "holds" if holds else "REFUTED" if verdict.refuted else "NOT LOOKED THROUGH"
        print(f"{said:8} {verdict.states:>12,} states {verdict.seconds:7.1f} s  {case.name}", flush=True)
    return 1 if bad else 0


def refute() -> int:
    """Every fault is found."""
    bad = 0
    for mutant in MUTANTS:
        settings = {**mutant.case.settings, mutant.define: None}
        verdict = look_through("lock.pml", settings, served=mutant.case.served, thorough=False)
        bad += not verdict.refuted
        said = "refuted" if verdict.refuted else "NOT REFUTED"
        print(f"{said:8} {verdict.states:>12,} states {verdict.seconds:7.1f} s  {mutant.define}: {mutant.breaks}")
    return 1 if bad else 0


def follow(seeds: Iterable[int]) -> int:
    """Every trace is a behaviour of the model."""
    from .traces import as_c, recorded, rows

    steps = [recorded(seed) for seed in seeds]
    verdict = look_through("traces.pml", {}, thorough=False, more=as_c([row for each in steps for row in rows(each)]))
    calls = sum(map(len, steps))
    if verdict.refuted or not verdict.complete:
        print(verdict.said, file=sys.stderr)
        return 1
    print(f"{calls} calls in {sum(map(bool, steps))} plays: all as in the model ({verdict.seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
