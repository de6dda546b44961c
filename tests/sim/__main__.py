"""Play many seeds until one fails, or one seed again: `python -m tests.sim --help`."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING

import django

if TYPE_CHECKING:
    from .play import Failed

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def main() -> int:
    """0: all promises held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, and print its trace")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--schedules", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--mutants", action="store_true", help="how many schedules it takes to find each fault")
    parser.add_argument("--only", metavar="NAME", help="of the faults, this one")
    parser.add_argument("--show", action="store_true", help="of the faults, what the play says that finds it")
    options = parser.parse_args()
    django.setup()
    from .play import Failed, play
    from .terms import Terms

    if options.mutants:
        return find_mutants(options)

    try:
        if options.seed is not None:
            print(Terms.of(options.seed))
            print("\n".join(play(Terms.of(options.seed), traced=True).trace))
            return 0
        began, grants, steps = time.monotonic(), 0, 0
        for seed in range(options.first, options.first + options.schedules):
            outcome = play(Terms.of(seed))
            grants, steps = grants + outcome.grants, steps + outcome.steps
    except Failed as failed:
        print("\n".join(failed.trace))
        print(failed, file=sys.stderr)
        return 1
    took = time.monotonic() - began
    print(f"{options.schedules} schedules, {grants} grants, {steps} steps, {took:.1f} s: no promise was broken")
    return 0


def find_mutants(options: argparse.Namespace) -> int:
    """0: all were found. With `--show`, 1 is where one was."""
    from .mutants import MUTANTS

    wanted = [mutant for mutant in MUTANTS if options.only in (None, mutant.name)]
    if not wanted:
        names = ", ".join(repr(mutant.name) for mutant in MUTANTS)
        print(f"there is no fault {options.only!r}; there are {names}", file=sys.stderr)
        return 2
    took: list[int] = []
    for mutant in wanted:
        with mutant.install():
            seeds = range(options.first, options.first + options.schedules)
            failed = next(filter(None, map(_failure, seeds)), None)
        if failed is None:
            print(f"    - {mutant.name}: NOT FOUND in {options.schedules}", flush=True)
            continue
        if options.show:
            print(failed, file=sys.stderr)
            return 1
        took.append(failed.seed - options.first + 1)
        print(f"{took[-1]:5} {mutant.name}", flush=True)
    print(f"{len(took)} of {len(wanted)} found", end="")
    print(f", after {statistics.median(took):g} schedules (median), {max(took)} at most" if took else "")
    return 0 if len(took) == len(wanted) else 1


def _failure(seed: int) -> Failed | None:
    from .play import Failed, play
    from .terms import Terms

    try:
        play(Terms.of(seed))
    except Failed as failed:
        return failed
    return None


if __name__ == "__main__":
    sys.exit(main())
