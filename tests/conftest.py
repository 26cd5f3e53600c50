"""The hypothesis profile of the whole suite, and a fixture for what compiles."""

import pytest
import torch
from hypothesis import settings

# The first call into torch takes longer than the default deadline, and a failure must come back.
settings.register_profile("manifold-mixup", deadline=None, derandomize=True)
settings.load_profile("manifold-mixup")


@pytest.fixture
def fresh_compiler():
    """No code compiled before the test, and none left behind."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
