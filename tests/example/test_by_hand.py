"""The commands that the example's README has under "By hand", as they are printed, in the example's own environment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.blocks import all_blocks
from tests.helpers import ROOT
from tests.helpers.servers import free_port, poll

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "example_project"
STAYS = ("weather.api", "manage.py runserver", "config worker", "config beat")


def lines() -> list[str]:
    """Of both blocks."""
    blocks = [block for block in all_blocks() if block.page == "example_project/README.md"]
    wanted = [block for block in blocks if "runserver" in block.text or "config worker" in block.text]
    assert len(wanted) == 2
    return [line for block in wanted for line in block.text.splitlines()]


def test_by_hand(valkey: Deployment, tmp_path: Path) -> None:
    """Each of the commands works: both messages of each task have an end, and both of the cron jobs."""
    api, page = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        "REDIS_URL": valkey.server.url,
        "DATABASE": str(tmp_path / "db.sqlite3"),
        "WEATHER_API": f"http://127.0.0.1:{api}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        **{f"DJANGO_SUPERUSER_{name}": "me" for name in ("USERNAME", "PASSWORD")},
        "DJANGO_SUPERUSER_EMAIL": "me@example.org",
    }
    said = {name: tmp_path / f"{number}.txt" for number, name in enumerate(STAYS)}

    def shell(line: str) -> str:
        ours = line.replace("8765", str(api)).replace("runserver", f"runserver {page} --noreload")
        # Where nobody sits at the terminal, the user's name comes from the environment.
        return ours.replace("createsuperuser", "createsuperuser --noinput")

    def finishes(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", shell(line)],
            cwd=EXAMPLE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    def stays(line: str, name: str) -> subprocess.Popen[str]:
        process = stack.enter_context(
            subprocess.Popen(
                shlex.split(shell(line), comments=True),
                cwd=EXAMPLE,
                env=environment,
                stdout=stack.enter_context(said[name].open("w")),
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        stack.callback(process.terminate)
        return process

    def says(name: str, words: str, times: int = 1) -> None:
        poll(lambda: said[name].read_text().count(words) >= times, within=60)

    ready = {
        "weather.api": "http://",
        "manage.py runserver": "Quit the server",
        "config worker": " ready.",
        "config beat": "Starting",
    }
    with ExitStack() as stack:
        outputs = []
        for line in lines():
            name = next((each for each in STAYS if each in line), None)
            if name is None:
                outputs.append(finishes(line))
            else:
                stays(line, name)
                says(name, ready[name])
        says("config worker", "weather.tasks.refresh", 2 * 2)  # received, and succeeded
        says("config worker", "shop.tasks.restock", 2 * 2)
        log = said["config worker"].read_text()
        assert "Traceback" not in log
        assert outputs[-1].count("The report is complete.") + outputs[-1].count("Nothing to do") == 2
