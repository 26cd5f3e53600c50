"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold_mixup.lab.data import download
from manifold_mixup.lab.data.arrays import PIXELS, Data

# Mean and standard deviation of each channel, for pixels of 0 to 255, as in the authors' code.
_MOMENTS = {
    10: ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    100: ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}


def load(root: Path, classes: int) -> Data:
    """Load CIFAR-10 or CIFAR-100 from ``root``; if it is not there, torchvision downloads it.

    Args:
        root: a folder with ``cifar10.npz`` (arrays as in an ``.npz`` data set), or with the
            published files as torchvision unpacks them.
        classes: 10 or 100.

    Raises:
        OSError: it is not there and cannot be downloaded, or a file is damaged.
    """
    packed = root / f"cifar{classes}.npz"
    arrays = _packed(packed) if packed.exists() else _published(root, classes)
    x, y, x_test, y_test = (torch.from_numpy(array) for array in arrays)
    mean, std = _MOMENTS[classes]
    return Data(
        name=f"CIFAR-{classes}",
        x=x.permute(0, 3, 1, 2).contiguous(),
        y=y.long(),
        x_test=x_test.permute(0, 3, 1, 2).contiguous(),
        y_test=y_test.long(),
        classes=classes,
        mean=tuple(value / 255 for value in mean),
        std=tuple(value / 255 for value in std),
        **PIXELS,
    )


def _packed(path: Path) -> list[NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except Exception as error:
        raise OSError(f"{path} is damaged ({error}). Delete it to download the data.") from error


def _published(root: Path, classes: int) -> list[NDArray[Any]]:
    parts = [download.torchvision(f"CIFAR{classes}", root, train=train) for train in (True, False)]
    return [array for part in parts for array in (part.data, np.asarray(part.targets))]
