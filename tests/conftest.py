"""The hypothesis profile of the whole suite, its threads, and a fixture for what compiles."""

import os
import sys

import pytest
import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each on two cores wait for one another, twenty times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for what tests start
    torch.set_num_threads(1)

# The first call into torch takes longer than the default deadline, and a failure must come back.
settings.register_profile("manifold-mixup", deadline=None, derandomize=True)
settings.load_profile("manifold-mixup")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the files with slow tests first: one of them at the end keeps one process waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _limit_of_graphs():
    """Put back the compiler's limit of graphs, which a job raises, and timm when it is imported."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.config.recompile_limit = 8


@pytest.fixture
def fresh_compiler():
    """No code compiled before the test, and none left behind."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()  # not among what is reset
    yield
    torch.compiler.reset()
