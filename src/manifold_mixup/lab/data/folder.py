"""Images in folders: ``train/CLASS/…`` and ``test/CLASS/…`` (or ``val``)."""

import mimetypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from manifold_mixup.lab.data.arrays import PIXELS, Data


def load(path: Path, *, tested: str = "") -> Data:
    """Read all images of a folder in colour, with classes numbered in the order of their names.

    Args:
        path: the folder.
        tested: the folder to read as the test set; by default ``test``, or else ``val``.

    Raises:
        ValueError: a part is missing, the classes differ, the images differ in size, or an image
            has another format or more than eight bits per channel.
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
    _require_all_read(path, names)
    x, y = stack(map(partial(_image, found), range(len(found))), names)
    return x, y, list(found.classes)


def _image(found: Any, index: int) -> Any:
    """Read an image; the error for a damaged image names its file."""
    name, label = found.samples[index]
    try:
        with Image.open(name) as image:
            image.load()
            return image, label
    except Exception as error:  # formats raise different errors: OSError, SyntaxError, ValueError
        raise OSError(
            f"{name} cannot be read as an image ({error}). Replace the file, or "
            f"remove it from the folder."
        ) from error


def _require_all_read(path: Path, names: Sequence[str]) -> None:
    """Raise a `ValueError` if images, by the ends of their names, were passed over."""
    read = set(names)
    for file in sorted(path.glob("*/**/*")):
        kind = mimetypes.guess_type(file.name)[0] or ""
        if file.name.startswith("."):
            continue
        if kind.startswith("image/") and file.is_file() and str(file) not in read:
            raise ValueError(
                f"{file} is an image ({kind}) whose name has an ending that is not read. Convert "
                f"it, to PNG for example, or remove it from the folder."
            )


def _colours(name: str, image: Image.Image) -> NDArray[np.uint8]:
    """Return an image in colour, ``(height, width, 3)``.

    Raises:
        ValueError: it has more than eight bits per channel, which Pillow would cut off at 255.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has pixels of more than eight bits (Pillow's mode {image.mode}). Scale them "
            f"to 0 to 255 and save the image with eight bits, or give an .npz file of floating "
            f"point numbers."
        )
    return np.asarray(image.convert("RGB"))


def stack(examples: Any, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Stack images and labels into tensors.

    Raises:
        ValueError: the images differ in size, or one has more than eight bits per channel.
    """
    pixels, labels = [], []
    for name, (image, label) in zip(names, examples, strict=True):
        pixels.append(_colours(name, image))
        labels.append(int(label))
        if pixels[-1].shape != pixels[0].shape:
            raise ValueError(
                f"{name} has {pixels[-1].shape[:2]} pixels, but {names[0]} has "
                f"{pixels[0].shape[:2]}. All images must have the same size; resize them first."
            )
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()), torch.tensor(labels)
