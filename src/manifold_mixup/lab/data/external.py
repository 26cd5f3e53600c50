"""Image data sets of torchvision and timm by name."""

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor

from manifold_mixup.lab.data import download
from manifold_mixup.lab.data.arrays import PIXELS, Data
from manifold_mixup.lab.data.folder import stack
from manifold_mixup.lab.suggest import nearest


def load(name: str, root: Path) -> Data:
    """Load ``"torchvision:NAME"`` or ``"timm:NAME"`` and decode its images.

    All images must have the same size. torchvision downloads the data if it can; timm's
    ``create_dataset`` reads them from ``root``.

    Raises:
        ValueError: there is no such data set, or its images differ in size.
        OSError: it is not there and cannot be downloaded.
    """
    check_name(name)
    library, _, kind = name.partition(":")
    read = _torchvision if library == "torchvision" else _timm
    (x, y), (x_test, y_test) = (read(kind, root, train) for train in (True, False))
    return Data(kind, x, y, x_test, y_test, classes=int(y.max()) + 1, **PIXELS)


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if torchvision has no such data set."""
    library, _, kind = name.partition(":")
    if library != "torchvision":
        return
    import torchvision.datasets

    names = torchvision.datasets.__all__
    if kind not in names:
        hint = nearest(kind, names, prefix="torchvision:")
        raise ValueError(f"torchvision has no data set {kind!r}.{hint}")


def _torchvision(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    import torchvision.datasets

    parameters = inspect.signature(getattr(torchvision.datasets, kind)).parameters
    part: dict[str, Any] = {"train": train} if "train" in parameters else {}
    if "split" in parameters and not part:
        part = {"split": "train" if train else "test"}
    if not part or "download" not in parameters:
        raise ValueError(
            f"torchvision:{kind} has no separate training and test sets to download. Arrange it as "
            f"a folder of images, or as an .npz file."
        )
    images = download.torchvision(kind, root, **part)
    return stack((images[n] for n in range(len(images))), _numbers(kind, len(images)))


def _timm(kind: str, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    from timm.data.dataset_factory import create_dataset

    try:
        split = "train" if train else "validation"
        found = create_dataset(kind, str(root), split=split, download=True)
    except (AssertionError, RuntimeError, ValueError, FileNotFoundError) as error:
        raise OSError(f"timm cannot open {kind!r} in {root} ({error}).") from error
    return stack((found[n] for n in range(len(found))), _numbers(kind, len(found)))


def _numbers(kind: str, count: int) -> list[str]:
    return [f"image {index} of {kind}" for index in range(count)]
