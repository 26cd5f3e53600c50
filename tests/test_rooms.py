"""The rooms of the library have the imports in their headers."""

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import manifold_mixup

ROOT = Path(manifold_mixup.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("_*/__init__.py"))
FILES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
# Files at the top of the library that may import rooms; others must not.
PUBLIC = {"__init__", "_mixup", "_checks", "_find", "_inspect"}


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path):
    """Yield the modules of the library that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("manifold_mixup"):
            _, *parts = node.module.split(".")
            for alias in node.names:
                longer = ".".join([*parts, alias.name])
                yield (
                    longer
                    if (ROOT / f"{longer.replace('.', '/')}.py").exists()
                    else ".".join(parts)
                )


IMPORTS = {name_of(path): set(imported(path)) - {""} for path in FILES}


def room_of(module):
    return module.split(".")[0]


def importers():
    """Map every room to the rooms and files at the top that import it."""
    found = defaultdict(set)
    for module, others in IMPORTS.items():
        for other in map(room_of, others):
            if other in ROOMS and other != room_of(module) and module != "__init__":
                found[other].add(room_of(module))
    return found


def promised(room, what):
    """Return the names in a line of a room's header."""
    header = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    line = re.search(rf"^{what}: (.*)\.$", header, flags=re.M)
    return set(line[1].split(", ")) if line else set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_who_imports_it(room):
    assert promised(room, "Imported by") == importers()[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_which_rooms_it_imports(room):
    assert promised(room, "Imports") == {other for other in ROOMS if room in importers()[other]}


def test_a_file_at_the_top_knows_no_room_unless_it_is_public():
    knowing = {one for room in ROOMS for one in importers()[room] if one not in ROOMS}
    assert knowing <= PUBLIC


def test_no_file_imports_in_a_circle():
    order = list(TopologicalSorter(IMPORTS).static_order())
    assert order.index("_plan") < order.index("_attach.attachment") < order.index("_mixup")


def test_there_are_rooms():
    assert len(ROOMS) == 5
    assert all(len(list((ROOT / room).glob("*.py"))) > 4 for room in ROOMS)


def test_the_tree_in_contributing_has_every_file_once():
    page = (ROOT.parents[1] / "CONTRIBUTING.md").read_text()
    tree = re.search(r"^src/manifold_mixup/\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)[1]
    room, named = "", []
    for line in tree.splitlines():
        name, *said = line.split(maxsplit=1)
        assert said, line
        room = name if name.endswith("/") else room if line.startswith("    ") else ""
        if name != room:
            named.append(room + name)
    there = {path.relative_to(ROOT).as_posix() for path in FILES if not path.name.startswith("__")}
    assert sorted(named) == sorted(there)
