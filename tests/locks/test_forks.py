"""Forks that run no hook of Python, as servers make them that fork in C."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.helpers import ROOT

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment


@pytest.mark.skipif(sys.platform != "linux", reason="the fork of the C library is called by its name")
def test_child_owns_nothing(valkey: Deployment) -> None:
    """Such a child holds nothing of its parent's and cannot free it; connections, tokens and renewal are its own."""
    command = [sys.executable, "-m", "tests.helpers.c_fork", valkey.server.url]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["child"] == {"held": False, "remaining": 0, "released": "lost", "busy": True, "own": True}
    tokens = [*said["tokens"], said["ours"]]
    assert len({token.split("-")[0] for token in tokens}) == len(tokens), "a child makes its parent's tokens"
    assert said["renews"] is True
    assert said["after"] == [True, True, True, True]
