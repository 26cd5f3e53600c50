"""A command of the lab in a process of its own, for tests that kill it."""

import sys
from pathlib import Path

import torch

from manifold_mixup.lab import cli


def main(arguments: list[str], output: Path) -> None:
    """Run ``manifold-mixup`` with its output in a file."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    cli.main(arguments)
