"""Importing the library imports only torch and the standard library, and does little work."""

# `import manifold_mixup` imports torch only when a name is used (PEP 562). The cost of the names is
# measured for all of them at once.

import ast
import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import manifold_mixup

if not hasattr(os, "fork"):
    pytest.skip("forks, so that torch is loaded only once", allow_module_level=True)

EVERYTHING = "from manifold_mixup import *"
STRANGERS = ["manifold_mixup.lab", "matplotlib", "rich", "scipy", "torch._dynamo"]
PARTS_ON_DEMAND = ("manifold_mixup.lab", "manifold_mixup.integrations", "torch._dynamo")

# Each statement runs in a process that has imported only torch.
PROGRAM = """
import gc, json, os, sys, tempfile, torch

gc.disable()  # torch's objects may fall due for collection at any time
calls = 0

def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")
    if calls > 1_000_000:  # that is too many; counting more takes seconds
        sys.setprofile(None)

def forked(statement):
    readable, writable = os.pipe()
    if os.fork() == 0:
        before = set(sys.modules)
        sys.setprofile(count)
        exec(statement, {})
        sys.setprofile(None)
        with open(writable, "w") as pipe:
            json.dump([calls, sorted(set(sys.modules) - before)], pipe)
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        result = json.load(pipe)
    os.wait()
    return result

with tempfile.TemporaryDirectory() as folder:
    # An installed library is compiled.
    sys.pycache_prefix, sys.dont_write_bytecode = folder, False
    forked(sys.argv[1])
    library = forked(sys.argv[1])
    sys.pycache_prefix = None
    others = {name: forked(f"{sys.argv[1]}; import {name}") for name in sys.argv[2:]}
json.dump({"manifold_mixup": library, **others}, sys.stdout)
"""


@functools.cache
def imports():
    """Return the number of calls and the loaded modules of every import."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, EVERYTHING, *STRANGERS],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def strangers(name):
    """Return the modules of a package that importing the library loads, but torch does not."""
    _, loaded = imports()[name]
    assert "manifold_mixup._mixup" in loaded
    known = {"manifold_mixup", "torch", *sys.stdlib_module_names}
    return [
        name
        for name in loaded
        if name.split(".")[0] not in known or name.startswith(PARTS_ON_DEMAND)
    ]


def test_the_library_loads_nothing_but_torch():
    assert strangers("manifold_mixup") == []


@pytest.mark.parametrize("stranger", STRANGERS)
def test_the_test_above_can_fail(stranger):
    assert stranger in strangers(stranger)


def test_the_library_is_imported_in_few_calls():
    calls, _ = imports()["manifold_mixup"]
    # The standard library takes more calls since Python 3.14.
    assert 0 < calls < (30_000 if sys.version_info < (3, 14) else 31_500)


def test_the_count_can_be_too_high():
    """A decorator at import time would have loaded the compiler."""
    calls, _ = imports()["torch._dynamo"]
    assert calls > 1_000_000


def test_the_public_names():
    assert set(manifold_mixup.__all__) == {
        "Align",
        "Box",
        "Cut",
        "DrawnNoise",
        "Holes",
        "Interpolate",
        "Noise",
        "OneOf",
        "PatchUp",
        "SimilarityKernel",
        "LayerRow",
        "LayerTable",
        "ManifoldMixup",
        "MixPlan",
        "MixedTarget",
        "Report",
        "find_layers",
        "mix",
        "Near",
        "Remix",
        "sample_plan",
    }
    for name in manifold_mixup.__all__:
        assert getattr(manifold_mixup, name).__doc__


# The names, in a process that has not used any yet


def printed(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_import_alone_loads_the_standard_library():
    program = "import manifold_mixup, sys; dir(manifold_mixup); print(*sys.modules)"
    first = {name.split(".")[0] for name in printed("import sys; print(*sys.modules)")}
    strange = {name.split(".")[0] for name in printed(program)} - first
    assert strange - set(sys.stdlib_module_names) == {"manifold_mixup"}


def test_what_asks_for_names_before_they_are_there(tmp_path):
    """Completion lists them, pickle finds them, and each is loaded once."""
    plan = manifold_mixup.MixPlan("fc", lam=torch.tensor(0.5), perm=torch.tensor([1, 0]))
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    program = f"""
import manifold_mixup, pickle
print({{*manifold_mixup.__all__}} <= {{*dir(manifold_mixup)}})
print(pickle.load(open({str(tmp_path / "plan")!r}, "rb")).layer)
from manifold_mixup import mix
print(mix is manifold_mixup.mix is vars(manifold_mixup)["mix"] is manifold_mixup._weigh.mix.mix)
"""
    assert printed(program) == ["True", "fc", "True"]


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'manifold_mixup' has no attribute 'mixx'"):
        manifold_mixup.mixx  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'mixx'"):
        exec("from manifold_mixup import mixx")


def test_compiled_code_may_be_the_first_to_ask_for_a_name(monkeypatch, fresh_compiler):
    plan = manifold_mixup.MixPlan("fc", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
    monkeypatch.delitem(vars(manifold_mixup), "mix", raising=False)

    @torch.compile(fullgraph=True, backend="eager")
    def mixed(x):
        return manifold_mixup.mix(x, plan)

    assert mixed(torch.tensor([[0.0], [10.0]])).tolist() == [[2.5], [7.5]]
    assert "mix" in vars(manifold_mixup)


def test_what_type_checkers_are_told_is_what_there_is():
    """The names are listed three times: for type checkers, for ``*``, and with their modules."""
    tree = ast.parse(Path(manifold_mixup.__file__).read_text())
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
        for alias in node.names
        if node.module.startswith("manifold_mixup")
    }
    homes = {name: f"manifold_mixup.{home}" for name, home in manifold_mixup._HOMES.items()}
    assert told == homes
    assert sorted(told) == sorted(manifold_mixup.__all__)
