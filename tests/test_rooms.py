"""The rooms of the library have the imports in their headers."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import manifold_mixup
from rooms import Package

ROOT = Path(manifold_mixup.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("_*/__init__.py"))
FILES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
# Files at the top of the library that may import rooms; others must not.
PUBLIC = {"_mixup", "_checks", "_find", "_inspect"}
LIBRARY = Package("manifold_mixup", ROOT, FILES, ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_who_imports_it(room):
    assert LIBRARY.promised(room, "Imported by") == LIBRARY.importers[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_which_rooms_it_imports(room):
    imports = {other for other in ROOMS if room in LIBRARY.importers[other]}
    assert LIBRARY.promised(room, "Imports") == imports


def test_a_file_at_the_top_knows_no_room_unless_it_is_public():
    knowing = {one for room in ROOMS for one in LIBRARY.importers[room] if one not in ROOMS}
    assert knowing <= PUBLIC


def test_no_file_imports_in_a_circle():
    graph = {module: LIBRARY.imported(module) for module in LIBRARY.files}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("_plan") < order.index("_attach.attachment") < order.index("_mixup")


def test_there_are_rooms():
    assert len(ROOMS) == 7
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
