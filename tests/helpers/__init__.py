"""What the tests have in common: servers and their proxy, processes that are killed, workers, databases."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Where the documents and the example project are, beside the tests."""
