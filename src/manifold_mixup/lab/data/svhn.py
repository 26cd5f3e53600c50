"""Street View House Numbers."""

from pathlib import Path

import torch
from torch import Tensor

from manifold_mixup.lab.data import download
from manifold_mixup.lab.data.arrays import PIXELS, Data, take_per_class

CAP = 7325
"""Maximal number of training images per class in the authors' code: 62,156 of 73,257 in total."""


def load(root: Path) -> Data:
    """Load SVHN without its ``extra`` part, capped as the authors' code does.

    Raises:
        OSError: it is not there and cannot be downloaded.
    """
    (x, y), (x_test, y_test) = (_part(root, split) for split in ("train", "test"))
    half = (127.5 / 255,) * 3
    whole = Data("SVHN", x, y, x_test, y_test, classes=10, mean=half, std=half, **PIXELS)
    return take_per_class(whole, CAP)


def _part(root: Path, split: str) -> tuple[Tensor, Tensor]:
    part = download.torchvision("SVHN", root, split=split)
    return torch.from_numpy(part.data), torch.from_numpy(part.labels).long()
