"""Run the tests; and what failed, once more by itself.

Some tests are about time. A machine that stalls for a second in the middle of one may fail it for nothing, but hardly
the same one twice; what is broken fails again. What needed the second try is printed by the first, to be looked at.
"""

from __future__ import annotations

import subprocess
import sys

TESTS_FAILED = 1  # pytest's exit code; others (a usage error, say) are final


def main(*arguments: str) -> int:
    """Pytest's exit code."""
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.run(command, check=False).returncode
    if code != TESTS_FAILED:
        return code
    sys.stdout.write("== what failed, once more by itself\n")
    sys.stdout.flush()
    return subprocess.run([*command, "--last-failed"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
