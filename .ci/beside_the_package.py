"""Copy what stands beside the package to a folder without it, so that tests find the installed wheel, as users do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(root: Path, target: Path) -> None:
    """Copy."""
    for name in ("tests", "example_project", "docs"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    # All that the pages lead to.
    for path in (root / "pyproject.toml", root / "LICENSE", *root.glob("*.md")):
        shutil.copy(path, target / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
