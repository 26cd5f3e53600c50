"""Tiny-ImageNet-200: 100,000 images of 64 x 64 pixels; its validation set is the test set."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold_mixup.lab.data.arrays import PIXELS, Data

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
CACHE = "tiny-imagenet-200.npz"


def load(root: Path) -> Data:
    """Load Tiny-ImageNet from ``root``; if it is not there, it is downloaded and unpacked.

    All images are decoded once, and the arrays are cached in ``root``.

    Raises:
        OSError: it is not there and cannot be downloaded, or it is incomplete.
    """
    if not (root / CACHE).exists():
        folder = root / "tiny-imagenet-200"
        if not folder.is_dir():
            _download(root)
        _write_cache(root / CACHE, folder)
    with np.load(root / CACHE, allow_pickle=False) as file:
        x, y, x_test, y_test = (
            torch.from_numpy(file[key]) for key in ("x_train", "y_train", "x_test", "y_test")
        )
    half = (127.5 / 255,) * 3
    return Data("Tiny-ImageNet", x, y, x_test, y_test, classes=200, mean=half, std=half, **PIXELS)


def _download(root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(URL, str(root), md5=MD5)
    except (RuntimeError, OSError) as error:
        raise OSError(
            f"Tiny-ImageNet is not in {root} and could not be downloaded ({error}). If you have a "
            f"copy, give the folder that contains tiny-imagenet-200: --root FOLDER."
        ) from error


def _write_cache(path: Path, folder: Path) -> None:
    try:
        names = (folder / "wnids.txt").read_text().split()
        number = {name: index for index, name in enumerate(names)}
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    except OSError as error:
        raise OSError(
            f"{folder} is incomplete ({error}). Delete it to download it again."
        ) from error
    train = [
        (file, number[name])
        for name in names
        for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
    ]
    held = [line.split("\t")[:2] for line in lines]
    test = [(folder / "val" / "images" / file, number[name]) for file, name in held]
    arrays: dict[str, Any] = {}
    for part, pairs in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = _images(file for file, _ in pairs)
        arrays[f"y_{part}"] = np.array([label for _, label in pairs])
    np.savez(path, **arrays)


def _images(files: Iterable[Path]) -> NDArray[Any]:
    from PIL import Image

    decoded = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return np.ascontiguousarray(np.stack(decoded).transpose(0, 3, 1, 2))
