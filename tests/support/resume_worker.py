"""A training that kills itself, for tests/lab/runs/test_resume.py."""

import os
import signal
from pathlib import Path

import torch

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training.loop import train


def main(run: Recipe, folder: Path, *, steps: int, writes: int) -> None:
    """Train, and die before a step or within a write, whichever count is reached first."""
    torch.set_num_threads(1)
    left = {"steps": steps, "writes": writes}
    fsync = os.fsync

    def die(what: str) -> None:
        left[what] -= 1
        if left[what] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_stop() -> bool:
        die("steps")
        return False

    def dying_fsync(number: int) -> None:
        """Die when part of a checkpoint is written."""
        if left["writes"] == 1:
            os.ftruncate(number, os.fstat(number).st_size * 2 // 3)
        die("writes")
        fsync(number)

    os.fsync = dying_fsync
    data = datasets.load(run.data, root=Path())
    train(run, data, folder=folder, save_every=0, stop=dying_stop)
