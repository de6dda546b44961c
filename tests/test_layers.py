"""The layers of the package, as docs/internals.md draws them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from textwrap import indent

import django_locksmith

PACKAGE = Path(django_locksmith.__file__).parent
LAYERS = {
    "edge": [
        "apps",
        "checks",
        "survey",
        "management",
        "decorators",
        "middleware",
        "view_keys",
        "answers",
        "admin",
        "overview",
        "models",
        "warden",
        "wording",
        "contrib",
        "pytest_plugin",
        "testing",
    ],
    "public": [
        "fencing",
        "service",
        "compute_once",
        "values",
        "lock",
        "lease",
        "key_templates",
        "workshop",
        "renewal",
        "watch",
        "transactions",
    ],
    "policy": ["flights", "protocol", "bridge"],
    "store": [
        "flight_store",
        "store",
        "packing",
        "sync_wires",
        "async_wires",
        "wires",
        "gates",
        "seats",
        "connections",
        "lua",
        "names",
        "conf",
    ],
    "ground": ["tokens", "records", "exceptions", "signals"],
}
RANK = {module: rank for rank, layer in enumerate(reversed(LAYERS)) for module in LAYERS[layer]}
# Within a layer, a module imports only what stands behind it.
PLACE = {module: place for layer in LAYERS.values() for place, module in enumerate(layer)}


def modules() -> dict[str, list[Path]]:
    """The files of each module of the package; a folder is one module."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


class Imports(ast.NodeVisitor):
    """What a file imports of its own package when it runs, and of the world."""

    def __init__(self, path: Path) -> None:
        self.depth = len(path.relative_to(PACKAGE).parts)
        self.own: set[str] = set()
        self.world: set[str] = set()
        self.visit(ast.parse(path.read_text()))

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.world.update(alias.name.split(".")[0] for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0:
            name = (node.module or "").split(".")
            (self.own if name[0] == "django_locksmith" else self.world).update(name[1:2] or name[:1])
        elif node.level == self.depth:
            self.own.update([node.module.split(".")[0]] if node.module else [alias.name for alias in node.names])


def test_every_module_has_a_layer() -> None:
    """Each module of the package stands in exactly one layer."""
    assert sorted(RANK) == sorted(modules())


def test_imports_point_down() -> None:
    """A module imports only from layers below its own, or what stands behind it in its own."""
    upward = []
    for name, paths in modules().items():
        for path in paths:
            for other in Imports(path).own & set(RANK) - {name}:
                same = RANK[other] == RANK[name]
                if RANK[other] > RANK[name] or (same and PLACE[other] < PLACE[name]):
                    upward.append(f"{name} -> {other}")
    assert not upward


def test_policy_knows_nothing_of_the_world() -> None:
    """The rules import no Redis, no Django, no asyncio, no threads and no clock: they are given a store."""
    for name in LAYERS["policy"]:
        world = {each for path in modules()[name] for each in Imports(path).world}
        assert world <= {"__future__", "typing", "random", "math"}


def test_the_drawing_is_true() -> None:
    """docs/internals.md and the package's docstring draw the layers as they are."""
    text = (Path(__file__).parent.parent / "docs" / "internals.md").read_text()
    block = re.search(r"```layers\n(.*?)```", text, re.DOTALL)
    assert block
    assert indent(block.group(1), "    ") in (django_locksmith.__doc__ or "")
    drawn: dict[str, set[str]] = {}
    layer = ""
    for line in block.group(1).splitlines():
        layer = line.split(" ")[0] or layer
        drawn.setdefault(layer, set()).update(re.findall(r"\b(\w+)(?:\.py\b|/)", line))
    assert drawn == {layer: set(names) for layer, names in LAYERS.items()}
