"""The table of promises in docs/internals.md: what it names is there."""

from __future__ import annotations

import re

import pytest

from tests.helpers import ROOT


def ledger() -> list[tuple[str, str, str]]:
    """Each promise with a test that holds it: its file and name."""
    text = (ROOT / "docs" / "internals.md").read_text()
    table = text.split("## What holds the promises", 1)[1].split("\n## ", 1)[0]
    rows = []
    for line in table.splitlines():
        if line.startswith("| ") and "`" in line:
            promise, tests = line.strip("| ").rsplit(" | ", 1)
            file = ""
            for named in re.findall(r"`([^`]+)`", tests):
                path, _, name = named.partition("::")
                file = path or file
                rows.append((promise, file, name))
    return rows


@pytest.mark.parametrize(("promise", "file", "name"), ledger())
def test_promise_has_its_test(promise: str, file: str, name: str) -> None:
    """Each promise names tests that exist."""
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{promise!r} names {file}::{name}, which is not there"
