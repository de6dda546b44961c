"""Play many seeds until one fails, or one seed again: `python -m tests.sim --help`."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")


def main() -> int:
    """0: all promises held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one, and print its trace")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default: 1)")
    parser.add_argument("--schedules", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--mutants", action="store_true", help="how many schedules it takes to find each fault")
    options = parser.parse_args()
    django.setup()
    from .play import Failed, play
    from .terms import Terms

    if options.mutants:
        return find_mutants(options.first, options.schedules)

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


def find_mutants(first: int, schedules: int) -> int:
    """0: all were found."""
    from .mutants import MUTANTS

    took: list[int] = []
    for mutant in MUTANTS:
        with mutant.install():
            found = next((seed for seed in range(first, first + schedules) if _fails(seed)), None)
        if found is None:
            print(f"    - {mutant.name}: NOT FOUND in {schedules}", flush=True)
        else:
            took.append(found - first + 1)
            print(f"{took[-1]:5} {mutant.name}", flush=True)
    middle, most = statistics.median(took), max(took)
    print(f"{len(took)} of {len(MUTANTS)} found, after {middle:g} schedules (median), {most} at most")
    return 0 if len(took) == len(MUTANTS) else 1


def _fails(seed: int) -> bool:
    from .play import Failed, play
    from .terms import Terms

    try:
        play(Terms.of(seed))
    except Failed:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
