"""`python -m tests.benchmarks`: run scenarios, print a table, write JSON."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import headline, surroundings, table, write_json
from .scenarios import SCENARIOS
from .server import describe, stage

if TYPE_CHECKING:
    from .figures import Result


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    # So that a time limit from outside ends our processes and the server too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    facts = _look_around(options)
    print(headline(facts), flush=True)
    results: list[Result] = []
    failed = []
    for name in options.scenarios or SCENARIOS:
        try:
            with stage(options.redis_url, quick=options.quick) as place:
                results.append(SCENARIOS[name](place))
        except Exception:
            failed.append(name)
            print(f"\n{name}: FAILED\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        print(table(results[-1]), flush=True)
    if options.json is not None:
        write_json(options.json, {**facts, "failed": failed}, results)
    missed = [comparison for result in results for comparison in result.comparisons if comparison.met is False]
    return 1 if failed or (options.check and missed) else 0


def _look_around(options: argparse.Namespace) -> dict[str, Any]:
    with stage(options.redis_url, quick=options.quick) as place:
        return surroundings(describe(place.control), quick=options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Compare locks on Redis.")
    parser.add_argument(
        "scenarios", nargs="*", metavar="scenario", help=f"{', '.join(SCENARIOS)}; default: all of them"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, no figures to quote")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything to this file")
    parser.add_argument("--redis-url", metavar="URL", help="a server to spare, instead of the embedded Valkey")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
