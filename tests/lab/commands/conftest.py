"""What tests of commands share."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def file(tmp_path_factory, task):
    """The task in a file."""
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    np.savez(path, **{key: value.numpy() for key, value in arrays.items()})
    return path
