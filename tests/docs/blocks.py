"""The code blocks of README and docs/, and those that are left out here, with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from textwrap import dedent
from typing import TYPE_CHECKING

from tests.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)

IN_CI = "sets up an environment of its own: .ci/run and tox run it"
AS_A_SUITE = "a file of a test suite: tests/kit/test_suites.py writes it to disk and runs it"
LEFT_OUT = {
    ("README.md", "pip install . "): IN_CI,
    ("README.md", "example_project/manage.py demo"): IN_CI,
    ("README.md", "-m pytest"): IN_CI,
    ("CONTRIBUTING.md", "pre-commit install"): IN_CI,
    ("CONTRIBUTING.md", "ruff check"): IN_CI,
    ("example_project/README.md", 'pip install -e ".[demo]"'): IN_CI,
    ("example_project/README.md", "demo --page"): "tests/example/test_page.py starts it, and looks at its pages",
    ("example_project/README.md", "runserver"): "tests/example/test_by_hand.py runs it",
    ("example_project/README.md", "celery -A config worker"): "tests/example/test_by_hand.py runs it",
    (
        "docs/commands.md",
        "KEY [options] -- COMMAND",
    ): "the form of a command; tests/edge/test_run.py has those it stands for",
    ("docs/internals.md", "runtime.py"): "a drawing: tests/project/test_layers.py holds it to the code",
    (
        "docs/internals.md",
        "deadline = granted_at",
    ): "a formula: tests/locks/test_promises.py and its neighbours hold it",
    (
        "docs/monitoring.md",
        "locksmith_acquisitions_total",
    ): "what a page shows: tests/edge/test_metrics.py has the names",
    ("docs/monitoring.md", "ACL SETUSER"): "tests/edge/test_checks.py holds it, word for word",
    ("docs/model.md", "python -m tests.model"): "they take minutes: tests/model/test_model.py does most of it",
    ("docs/simulation.md", "python -m tests.sim"): "they take minutes: tests/sim/test_simulation.py plays some of it",
    ("docs/tasks.md", "KEY       HOLDER"): "what a command prints: tests/edge/test_commands.py holds its columns",
    ("docs/tasks.md", "python -m pytest"): "a test that is slow, and is run by .ci/run",
    ("docs/tasks.md", "manage.py nightly_report"): "the command of somebody else's project",
    ("docs/testing.md", "# reports.py"): AS_A_SUITE,
    ("docs/testing.md", "# test_reports.py"): AS_A_SUITE,
    ("docs/testing.md", "# conftest.py"): AS_A_SUITE,
    ("docs/testing.md", "# test_reports_with_pytest.py"): AS_A_SUITE,
    ("docs/testing.md", "# test_with_a_real_server.py"): AS_A_SUITE,
}
"""Page and a piece of the block, which no other block of the page has; and who sees to it instead."""


@dataclass(frozen=True)
class Block:
    """One block. `line`: of the page, on which its text begins."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All that a user reads."""
    first = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "example_project/README.md")]
    return [*first, *sorted((ROOT / "docs").glob("*.md"))]


@cache
def all_blocks() -> list[Block]:
    """In their order."""
    blocks = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        page = path.relative_to(ROOT).as_posix()
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start(3)) + 1
            blocks.append(Block(page, line, found.group(2), dedent(found.group(3))))
    return blocks


def left_out(block: Block) -> str:
    """Why it is not run here; "" if it is."""
    reasons = [why for (page, piece), why in LEFT_OUT.items() if page == block.page and piece in block.text]
    assert len(reasons) <= 1, f"{block} has several reasons"
    return reasons[0] if reasons else ""


def here(*languages: str) -> list[Block]:
    """Those in these languages that are run here."""
    return [block for block in all_blocks() if block.language in languages and not left_out(block)]
