"""What tests of the lab share: commands, images, and results compared without their times."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from manifold_mixup.lab import cli
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Result


def run(*arguments: str | float | Path) -> int:
    """Run ``manifold-mixup``, and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, arguments)))
    return stop.value.code


def write_images(folder: Path) -> None:
    """Write a few random pictures each as CIFAR-10 and CIFAR-100."""
    draw = np.random.default_rng(0)
    for classes in (10, 100):
        y = np.arange(300) % classes
        x = draw.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
        parts = {"x_train": x[:240], "y_train": y[:240], "x_test": x[240:], "y_test": y[240:]}
        np.savez(folder / f"cifar{classes}.npz", **parts)


def without_time(result: Result) -> Result:
    return replace(result, seconds=0)


def by_run(results: Iterable[Result]) -> dict[Recipe, Result]:
    return {result.run: without_time(result) for result in results}
