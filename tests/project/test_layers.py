"""The layers of the package: docs/internals.md draws what the import contracts of pyproject.toml hold.

The contracts themselves are kept by `lint-imports`, with the linters. They count imports for types, too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import django_locksmith
from tests.helpers import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PACKAGE = Path(django_locksmith.__file__).parent


def drawing() -> str:
    """The drawing in docs/internals.md."""
    found = re.search(r"```layers\n(.*?)```", (ROOT / "docs" / "internals.md").read_text(), re.DOTALL)
    assert found
    return found.group(1)


def drawn() -> dict[str, set[str]]:
    """The floors of the drawing, from the top; what is a folder of the package ends with a slash."""
    floors: dict[str, set[str]] = {}
    floor = ""
    for line in drawing().splitlines():
        floor = line.split(" ")[0] or floor
        names = re.findall(r"\b(\w+)(?:\.py\b|/)", line.removeprefix(floor))
        floors.setdefault(floor, set()).update(names)
    return floors


def contract(name: str) -> dict[str, Any]:
    """One of the contracts that lint-imports holds."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: dict[str, Any] = next(each for each in settings["tool"]["importlinter"]["contracts"] if each["name"] == name)
    return found


def modules(folder: Path) -> set[str]:
    """What a folder of the package consists of."""
    found = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    return found | {path.parent.name for path in folder.glob("*/__init__.py")}


def test_the_drawing_is_complete() -> None:
    """Each module of the package is drawn, once, and in its folder."""
    floors = drawn()
    folders = {floor.removesuffix("/") for floor in floors if floor.endswith("/")}
    for folder in folders:
        assert floors[f"{folder}/"] == modules(PACKAGE / folder)
    flat = [name for floor, names in floors.items() if not floor.endswith("/") for name in names]
    assert sorted([*flat, *folders]) == sorted(modules(PACKAGE))


def test_the_drawing_has_the_order_of_the_contract() -> None:
    """What is drawn above may import what is drawn below, and never the other way round."""
    layers = [set(re.findall(r"\w+", layer)) for layer in contract("Imports point down")["layers"]]
    depth = {name: number for number, layer in enumerate(layers) for name in layer}
    deepest = -1
    for floor, names in drawn().items():
        depths = [depth[name] for name in ([floor.removesuffix("/")] if floor.endswith("/") else names)]
        assert min(depths) >= deepest
        deepest = max(depths)


def test_the_front_door_shows_the_drawing() -> None:
    """Who opens the package first sees the same drawing there."""
    assert indent(drawing(), "    ") in (django_locksmith.__doc__ or "")


def test_files_are_short() -> None:
    """No file of the package has more than 400 lines."""
    long = {str(path): lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
