"""A small task, a file of it, small runs of it, and images, for the lab's tests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lab_runs import write_images
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe


@pytest.fixture(scope="session")
def task() -> Data:
    """Three overlapping Gaussian classes of vectors."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(330) % 3
    x = torch.randn(330, 6, generator=generator) + 2 * torch.eye(6)[y]
    return Data("blobs", x[:250], y[:250], x[250:], y[250:], classes=3, eps=0.1, space="units")


@pytest.fixture
def npz(tmp_path, task) -> Path:
    """The task in a file."""
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    np.savez(tmp_path / "blobs.npz", **{key: value.numpy() for key, value in arrays.items()})
    return tmp_path / "blobs.npz"


@pytest.fixture(scope="session")
def plain() -> Recipe:
    return Recipe(data="blobs", epochs=3, batch=32, lr=0.05, width=16)


@pytest.fixture(scope="session")
def runs(plain) -> tuple[Recipe, ...]:
    """No mixup, input mixup and manifold mixup with two seeds."""
    methods = (
        plain,
        replace(plain, method="input mixup", layers=("input",)),
        replace(plain, method="manifold mixup", layers=("input", "hidden1", "hidden2")),
    )
    return tuple(replace(run, seed=seed) for seed in range(2) for run in methods)


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder where CIFAR-10 and CIFAR-100 have a few random pictures each."""
    write_images(tmp_path)
    return tmp_path


@pytest.fixture
def one_thread():
    """Compute with one thread, so that all sums are taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
