"""MNIST and Fashion-MNIST, from the four published files."""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifold_mixup.lab.data import download
from manifold_mixup.lab.data.arrays import PIXELS, Data

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load(root: Path, kind: str) -> Data:
    """Load a data set from ``root``; if it is not there, torchvision downloads it.

    An existing copy, compressed or not, is only read, so its folder may be read-only.

    Args:
        root: the folder that has the files in ``KIND/raw``.
        kind: ``"MNIST"`` or ``"FashionMNIST"``, the name in torchvision.

    Raises:
        OSError: it is not there and cannot be downloaded, or a file is damaged.
    """
    raw = root / kind / "raw"
    if not all(_find(raw, name) for name in FILES):
        download.torchvision(kind, root)
    x, y, x_test, y_test = (_read(raw, name) for name in FILES)
    return Data(
        name="Fashion-MNIST" if kind == "FashionMNIST" else kind,
        x=x.unsqueeze(1),
        y=y.long(),
        x_test=x_test.unsqueeze(1),
        y_test=y_test.long(),
        classes=10,
        **PIXELS,
    )


def _find(raw: Path, name: str) -> Path | None:
    return next((path for path in (raw / f"{name}.gz", raw / name) if path.is_file()), None)


def _read(raw: Path, name: str) -> Tensor:
    """Read a file in IDX format: magic number, sizes, then one byte per value."""
    path = _find(raw, name)
    if path is None:
        raise OSError(f"{name} is missing in {raw}, though the download reported no error.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        sizes = np.frombuffer(content, ">i4", count=content[3], offset=4).tolist()
        values = np.frombuffer(content, np.uint8, count=math.prod(sizes), offset=4 + 4 * len(sizes))
    except (EOFError, OSError, IndexError, ValueError) as error:
        raise OSError(
            f"{path} is damaged ({error}). Delete it to download it again, or give another --root."
        ) from error
    return torch.from_numpy(values.reshape(sizes).copy())
