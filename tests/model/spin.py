"""Runs Spin: the model becomes a program in C, which looks through its states."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

FOLDER = Path(__file__).parent
DEEPEST = 1_000_000
"""Steps of one path."""
MOST_MEGABYTES = 8_000
LONGEST = 1200.0
"""Seconds."""


class NotHere(RuntimeError):
    """What it takes is not installed."""


class Verdict(NamedTuple):
    """What came of it. `complete`: every state was looked at."""

    states: int
    refuted: bool
    complete: bool
    seconds: float
    said: str


def look_through(
    model: str, settings: dict[str, int | None], *, served: bool = False, thorough: bool = True, more: str = ""
) -> Verdict:
    """Every state of the model with these settings; up to the first that breaks it.

    `served`: not the states, but the endless paths, on which nobody who could go on stands still for ever. `thorough`:
    there is much to look through, and it pays to have gcc think about it. `more`: the text of `steps.h`.
    """
    if not all(map(shutil.which, ("spin", "gcc"))):
        raise NotHere("Spin and gcc are needed: on Debian, `apt-get install spin gcc`")
    began = time.monotonic()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for each in FOLDER.glob("*.pml"):
            shutil.copy(each, folder)
        (folder / "steps.h").write_text(more)
        defines = [f"-D{key}" if value is None else f"-D{key}={value}" for key, value in settings.items()]
        _run(folder, "spin", *defines, *(["-DSERVED"] if served else []), "-a", model)
        kind = ["-DNFAIR=5"] if served else ["-DSAFETY"]
        how = "-O2" if thorough else "-O0"
        _run(folder, "gcc", "-w", how, "-DCOLLAPSE", f"-DMEMLIM={MOST_MEGABYTES}", *kind, "-o", "pan", "pan.c")
        said = _run(folder, "./pan", f"-m{DEEPEST}", *(["-a", "-f"] if served else []))
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"([\d.e+]+) states, stored", said)
    if errors is None or states is None:
        raise RuntimeError(f"Spin says nothing that can be read:\n{said}")
    is_complete = not re.search(r"Search not completed|max search depth too small|out of memory", said)
    return Verdict(int(float(states[1])), errors[1] != "0", is_complete, time.monotonic() - began, said)


def _run(folder: Path, *command: str) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST, check=False)
    said = ran.stdout + ran.stderr
    if ran.returncode and "errors:" not in said:
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return said
