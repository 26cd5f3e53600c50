"""The rooms of the lab have the imports in their headers, and there are no import cycles."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from manifold_mixup import lab
from rooms import Package, room_of

ROOT = Path(lab.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
LIGHT = ("commands", "launch", "playground", "recipes", "report", "runs", "terminal", "training")
LAB = Package(lab.__name__, ROOT, ROOT.rglob("*.py"), ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_who_imports_it(room):
    assert LAB.promised(room, "Imported by") == LAB.importers[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_which_rooms_it_imports(room):
    imports = {other for other in ROOMS if room in LAB.importers[other]}
    assert LAB.promised(room, "Imports") == imports


def test_the_rooms_import_one_another_in_one_direction():
    imports = {room: LAB.promised(room, "Imports") for room in ROOMS}
    order = list(TopologicalSorter(imports).static_order())
    assert order.index("recipes") < order.index("training") < order.index("commands")


def test_no_file_imports_in_a_circle():
    graph = {name: LAB.imported(name, later=False) - {name} for name in LAB.files}
    for name, others in graph.items():  # importing a module also imports its room
        others |= {room_of(other) for other in others} - {room_of(name), name}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("data.arrays") < order.index("data") < order.index("training.loop")


def test_rooms_that_export_no_names_are_only_a_header():
    """A help page that needs one of their files must not import anything else."""
    for room in LIGHT:
        assert len(ast.parse(LAB.files[room].read_text()).body) == 1


def test_recipes_load_no_torch():
    command = "import sys, manifold_mixup.lab.recipes.catalog; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


def test_there_are_rooms():
    assert len(ROOMS) == 15
    top = {name for name in LAB.files if "." not in name} - set(ROOMS)
    assert top == {"__init__", "__main__", "cli", "seeds", "suggest"}
