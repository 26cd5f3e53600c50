"""The rooms of the lab have the imports in their headers, and there are no import cycles."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from manifold_mixup import lab

ROOT = Path(lab.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
LIGHT = ("commands", "launch", "playground", "recipes", "report", "runs", "terminal", "training")


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in ROOT.rglob("*.py")}


def nodes(tree, *, later):
    """Walk through a module; with ``later``, include code that runs after its import."""
    for node in ast.iter_child_nodes(tree):
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        if later or not deferred:
            yield node
            yield from nodes(node, later=later)


def imported(path, *, later):
    """Yield the modules of the lab that a file imports."""
    for node in nodes(ast.parse(path.read_text()), later=later):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(lab.__name__):
            parts = node.module.split(".")[2:]
            for alias in node.names:
                longer = ".".join([*parts, alias.name])
                yield longer if longer in FILES else ".".join(parts)


def room_of(module):
    return module.split(".")[0]


def importers():
    """Map every room to the rooms and files at the top that import it."""
    found = defaultdict(set)
    for module, path in FILES.items():
        for other in map(room_of, imported(path, later=True)):
            if other in ROOMS and other != room_of(module):
                found[other].add(room_of(module))
    return found


def promised(room, what):
    """Return the names in a line of a room's header."""
    header = ast.get_docstring(ast.parse(FILES[room].read_text()))
    line = re.search(rf"^{what}: (.*?)\.$", header, flags=re.M | re.S)
    return set(re.split(r",\s+", line[1])) if line else set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_who_imports_it(room):
    assert promised(room, "Imported by") == importers()[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_which_rooms_it_imports(room):
    assert promised(room, "Imports") == {other for other in ROOMS if room in importers()[other]}


def test_the_rooms_import_one_another_in_one_direction():
    imports = {room: promised(room, "Imports") for room in ROOMS}
    order = list(TopologicalSorter(imports).static_order())
    assert order.index("recipes") < order.index("training") < order.index("commands")


def test_no_file_imports_in_a_circle():
    graph = {name: set(imported(path, later=False)) - {name} for name, path in FILES.items()}
    for name, others in graph.items():  # importing a module also imports its room
        others |= {room_of(other) for other in others} - {room_of(name), name}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("data.arrays") < order.index("data") < order.index("training.loop")


def test_rooms_that_export_no_names_are_only_a_header():
    """A help page that needs one of their files must not import anything else."""
    for room in LIGHT:
        assert len(ast.parse(FILES[room].read_text()).body) == 1


def test_recipes_load_no_torch():
    command = "import sys, manifold_mixup.lab.recipes.catalog; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


def test_there_are_rooms():
    assert len(ROOMS) == 13
    top = {name for name in FILES if "." not in name} - set(ROOMS)
    assert top == {"__init__", "__main__", "choose", "cli", "seeds", "suggest"}
