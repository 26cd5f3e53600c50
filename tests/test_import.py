"""Importing the library: torch, the standard library, nothing else, and in no time."""

import functools
import json
import os
import subprocess
import sys

import pytest

if not hasattr(os, "fork"):
    pytest.skip("forks, so that torch is loaded only once", allow_module_level=True)

STRANGERS = ["manifold_mixup.lab", "matplotlib", "rich", "scipy", "torch._dynamo"]
PARTS_ON_DEMAND = ("manifold_mixup.lab", "manifold_mixup.integrations", "torch._dynamo")

# Each statement runs in a process that has loaded torch and nothing else.
PROGRAM = """
import json, os, sys, tempfile, time, torch

def forked(statement):
    readable, writable = os.pipe()
    if os.fork() == 0:
        before, begin = set(sys.modules), time.process_time()
        exec(statement, {})
        spent, loaded = time.process_time() - begin, sorted(set(sys.modules) - before)
        with open(writable, "w") as pipe:
            json.dump([spent, loaded], pipe)
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        result = json.load(pipe)
    os.wait()
    return result

with tempfile.TemporaryDirectory() as folder:
    # An installed library is compiled.
    sys.pycache_prefix, sys.dont_write_bytecode = folder, False
    library = [forked("import manifold_mixup") for _ in range(7)]
    sys.pycache_prefix = None
    others = {name: forked(f"import manifold_mixup, {name}") for name in sys.argv[1:]}
json.dump({"manifold_mixup": min(library), **others}, sys.stdout)
"""


@functools.cache
def imports():
    """Return for every import the processor time in seconds and the modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *STRANGERS],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def strangers(name):
    """List the modules loaded with a package that importing the library should not load.

    What torch loads by itself does not count.
    """
    _, loaded = imports()[name]
    assert "manifold_mixup" in loaded
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


def test_the_library_adds_less_than_50_ms_to_torch():
    """In processor time, the least of several: what a busy machine adds is not ours."""
    seconds, _ = imports()["manifold_mixup"]
    assert 0 < seconds < 0.05


def test_the_clock_can_strike():
    """The compiler is what a decorator at import time would have pulled in."""
    seconds, _ = imports()["torch._dynamo"]
    assert seconds > 0.05


def test_the_public_names():
    import manifold_mixup

    assert set(manifold_mixup.__all__) == {
        "ManifoldMixup",
        "MixPlan",
        "MixedTarget",
        "find_layers",
        "mix",
        "sample_plan",
    }
    for name in manifold_mixup.__all__:
        assert getattr(manifold_mixup, name).__doc__
