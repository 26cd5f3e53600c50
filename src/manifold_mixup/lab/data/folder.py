"""Images in folders: ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifold_mixup.lab.data.arrays import PIXELS, Data


def load(path: Path, *, tested: str = "") -> Data:
    """Read all images of a folder in colour, with classes numbered in the order of their names.

    Args:
        path: the folder.
        tested: the folder to read as the test set; by default ``test``, or else ``val``.

    Raises:
        ValueError: a part is missing, the classes differ, or the images differ in size.
        OSError: an image cannot be read.
    """
    names = (tested,) if tested else ("test", "val")
    test = next((path / name for name in names if (path / name).is_dir()), None)
    if not (path / "train").is_dir() or test is None:
        raise ValueError(
            f"{path} has no folders train and test (or val). Expected {path.name}/train/CLASS/* "
            f"and {path.name}/test/CLASS/*."
        )
    x, y, classes = _part(path / "train")
    x_test, y_test, same = _part(test)
    if classes != same:
        odd = ", ".join(sorted(set(classes) ^ set(same)))
        raise ValueError(f"{path / 'train'} and {test} have different classes: {odd}.")
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"the images in {path / 'train'} have {tuple(x.shape[2:])} pixels, but those in {test} "
            f"have {tuple(x_test.shape[2:])}. Expected the same size."
        )
    return Data(path.name, x, y, x_test, y_test, classes=len(classes), **PIXELS)


def has_validation(path: Path) -> bool:
    """Return whether a folder has ``val`` beside ``test``, so that ``val`` is not the test set."""
    return (path / "val").is_dir() and (path / "test").is_dir()


def _part(path: Path) -> tuple[Tensor, Tensor, list[str]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no images in class folders ({error}).") from error
    names = [name for name, _ in found.samples]
    x, y = stack(map(partial(_image, found), range(len(found))), names)
    return x, y, list(found.classes)


def _image(found: Any, index: int) -> Any:
    """Read an image; the error for a damaged image names its file."""
    try:
        image, label = found[index]
        return image.convert("RGB"), label
    except Exception as error:  # formats raise different errors: OSError, SyntaxError, ValueError
        raise OSError(
            f"{found.samples[index][0]} cannot be read as an image ({error}). Replace the file, or "
            f"remove it from the folder."
        ) from error


def stack(examples: Any, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Stack images and labels into tensors.

    Raises:
        ValueError: the images differ in size.
    """
    pixels, labels = [], []
    for name, (image, label) in zip(names, examples, strict=True):
        pixels.append(np.asarray(image.convert("RGB")))
        labels.append(int(label))
        if pixels[-1].shape != pixels[0].shape:
            raise ValueError(
                f"{name} has {pixels[-1].shape[:2]} pixels, but {names[0]} has "
                f"{pixels[0].shape[:2]}. All images must have the same size; resize them first."
            )
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()), torch.tensor(labels)
