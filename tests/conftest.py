"""The suite's options, hypothesis profile and threads, and a fixture for tests that compile."""

import gc
import os
import sys

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ


def pytest_configure(config):
    """Set up PyTorch and Hypothesis, unless others run the tests: the imports take seconds."""
    if config.getoption("numprocesses", None) and not WORKER:
        return
    gc.disable()  # until all is imported, of which nothing is garbage
    import torch
    from hypothesis import settings

    if WORKER:
        # Two processes with two threads each on two cores wait for each other: 20 times slower.
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
        torch.set_num_threads(1)
    for device in (torch.cuda, torch.xpu, torch.mtia):
        if not device.is_available():
            # Without such a device, PyTorch formats the whole stack to remember each seed.
            device.manual_seed_all = lambda seed: None
    # The first torch call exceeds the default deadline, and failures must be reproducible.
    settings.register_profile("manifold-mixup", deadline=None, derandomize=True)
    settings.load_profile("manifold-mixup")


def pytest_addoption(parser):
    parser.addoption(
        "--thorough",
        action="store_true",
        help="run the tests marked thorough too, which repeat others on more cases",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out thorough tests unless asked for, and run files with slow tests first.

    So no process is busy alone at the end.
    """
    if not (config.option.thorough or any("::" in each for each in config.args)):
        thorough = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=thorough)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    gc.enable()
    if guards := sys.modules.get("torch._dynamo.guards"):
        # For a log, the compiler empties the processor's caches at every graph: 20 ms.
        guards.profile_guard_manager = lambda *_: 0.0


@pytest.fixture(autouse=True)
def _limit_of_graphs():
    """Restore the compiler's limit of graphs, which a job raises, as does importing timm."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.config.recompile_limit = 8


@pytest.fixture(autouse=True)
def _only_new_garbage(monkeypatch):
    """Collect what a test leaves, and look at nothing older, such as all that was imported.

    Else every collection takes longer the more tests have run, and so does the end of the process.
    """
    gc.freeze()
    # The library asks whether objects are frozen, and counting them takes longer than a look.
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 1)
    yield
    gc.collect()


@pytest.fixture
def own_as_subclass(monkeypatch):
    """Put back PyTorch's `Tensor.as_subclass`.

    fastai replaces it when it is imported, by one on which the compiler recurses: findings/.
    """
    import torch

    if "as_subclass" in vars(torch.Tensor):
        monkeypatch.delattr(torch.Tensor, "as_subclass")


@pytest.fixture
def fresh_compiler():
    """Reset the compiler before and after the test."""
    import torch._dynamo

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()  # the reset does not include these
    yield
    torch.compiler.reset()
