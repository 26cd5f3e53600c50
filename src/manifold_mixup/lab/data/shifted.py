"""Test sets that others made for networks trained on CIFAR: CIFAR-10-C, CIFAR-100-C and CIFAR-10.1.

They are read from the published files, which are not downloaded.

CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, "Benchmarking neural network robustness to
common corruptions and perturbations", ICLR 2019) have a file for each corruption, with the test
images in their order at severity 1, then at severity 2, and so on to 5, and the labels of all.

CIFAR-10.1 (Recht, Roelofs, Schmidt and Shankar, "Do CIFAR-10 classifiers generalize to CIFAR-10?",
2018) has new images of the ten classes, in two versions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifold_mixup.lab.data.arrays import Data, shuffled

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip
"""The corruptions of the benchmark."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Those that the authors keep apart, to choose settings on. Their files may be missing."""

SEVERITIES = 5

_ARCHIVES = {
    10: "CIFAR-10-C.tar from https://zenodo.org/records/2535967",
    100: "CIFAR-100-C.tar from https://zenodo.org/records/3555552",
}
_VERSIONS = ("v4", "v6")
_RE_TEST = "https://github.com/modestyachts/CIFAR-10.1, folder datasets"
_SHAPE = (32, 32, 3)
_PROBED = 50  # rows at each end of a file that identify it

Array = NDArray[Any]


@dataclass(frozen=True)
class CifarC:
    """The files of CIFAR-10-C or CIFAR-100-C.

    Attributes:
        folder: the folder with the files.
        kinds: the corruptions whose files are there, the extra ones last.
        y: the labels of the images at each severity, ``(n,)``, int64.
        rows: the images to take, of the ``n`` at each severity.
    """

    folder: Path
    kinds: tuple[str, ...]
    y: Tensor
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels of the images that are taken."""
        return self.y[self.rows]

    def images(self, kind: str) -> Iterator[Tensor]:
        """Yield the images of a corruption by severity, uint8, ``(rows, 3, 32, 32)``."""
        file = _mapped(self.folder / f"{kind}.npy")
        for severity in range(SEVERITIES):
            first = severity * len(self.y)
            yield _channels_first(file[first + self.rows.numpy()])

    def describe(self) -> dict[str, Any]:
        """Return what identifies the files, without reading them whole."""
        digest = hashlib.sha256()
        for kind in self.kinds:
            file = _mapped(self.folder / f"{kind}.npy")
            digest.update(file[:_PROBED].tobytes() + file[-_PROBED:].tobytes())
        digest.update(self.y.numpy().tobytes() + self.rows.numpy().tobytes())
        return {"kinds": list(self.kinds), "images": len(self.rows), "ends": digest.hexdigest()}


def cifar_c(folder: Path, data: Data, *, count: int | None = None) -> CifarC:
    """Open CIFAR-10-C or CIFAR-100-C; the images are read when they are asked for.

    The published files have 50,000 rows, 10,000 for each severity. Smaller copies are accepted if
    they have that form, five parts of as many images, with the same labels in each: a file that
    was cut off somewhere does not.

    Args:
        folder: the folder with ``labels.npy`` and a file for each corruption.
        data: the whole data set that the model was trained on.
        count: the number of images to take at each severity, the same fixed random subset that
            `take_tested` takes of as many; ``None`` for all.

    Raises:
        ValueError: the model is not for images of CIFAR, or a file has another form, or labels
            that are not those of the test set.
        FileNotFoundError: a file is missing; the message has the archive.
    """
    archive = _archive(data)
    missing = [name for name in ("labels", *CORRUPTIONS) if not (folder / f"{name}.npy").is_file()]
    if missing:
        names = ", ".join(f"{name}.npy" for name in missing)
        raise FileNotFoundError(f"{folder} has no {names}. Unpack {archive} and give its folder.")
    y = _labels(folder / "labels.npy", data, archive)
    kinds = (*CORRUPTIONS, *(kind for kind in EXTRA if (folder / f"{kind}.npy").is_file()))
    for kind in kinds:
        _require_images(folder / f"{kind}.npy", SEVERITIES * len(y), archive)
    rows = torch.arange(len(y)) if count is None else shuffled(len(y), 0)[:count].sort().values
    return CifarC(folder, kinds, y, rows)


def _archive(data: Data) -> str:
    shape = tuple(data.x_test.shape[1:])
    if data.classes not in _ARCHIVES or shape != (3, 32, 32) or data.bounds != (0.0, 1.0):
        raise ValueError(
            f"CIFAR-10-C and CIFAR-100-C have pixels of shape (3, 32, 32) and 10 or 100 classes, "
            f"but {data.name} has {data.classes} classes and inputs of shape {shape} in "
            f"{data.space}. Evaluate a model that was trained on CIFAR."
        )
    return _ARCHIVES[data.classes]


def _labels(path: Path, data: Data, archive: str) -> Tensor:
    labels = _mapped(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % SEVERITIES:
        raise ValueError(
            f"{path} has {labels.dtype} of shape {labels.shape}. Expected integers, as many for "
            f"each of {SEVERITIES} severities, (50000,) in {archive}."
        )
    parts = labels.reshape(SEVERITIES, -1).astype(np.int64)
    if not parts.size or (parts != parts[0]).any():
        raise ValueError(
            f"{path} has {len(labels):,} labels whose {SEVERITIES} parts differ, so the severities "
            f"cannot be told apart. Was it cut off? Unpack {archive} again."
        )
    y = torch.from_numpy(parts[0].copy())
    if y.min() < 0 or y.max() >= data.classes:
        raise ValueError(
            f"{path} has labels from {y.min()} to {y.max()}, but {data.name} has {data.classes} "
            f"classes. Give the folder of {archive}."
        )
    if len(y) == len(data.y_test) and (wrong := int((y != data.y_test).sum())):
        raise ValueError(
            f"{path} differs from the labels of the test set of {data.name} in {wrong:,} of "
            f"{len(y):,} rows. Is it {archive}, and are both in the published order?"
        )
    return y


def cifar_10_1(folder: Path, data: Data) -> dict[str, tuple[Tensor, Tensor]]:
    """Load CIFAR-10.1.

    Args:
        folder: the folder with ``cifar10.1_v4_data.npy`` and ``cifar10.1_v4_labels.npy``, or the
            same of version 6, or both.
        data: the data set that the model was trained on.

    Returns:
        Images, uint8, ``(n, 3, 32, 32)``, and labels, ``(n,)``, by version: 2,021 images in
        version 4, 2,000 in version 6.

    Raises:
        ValueError: the model is not for CIFAR-10, or a file has another form.
        FileNotFoundError: there is no version, or only a part of one.
    """
    if data.classes != 10 or _archive(data) != _ARCHIVES[10]:
        raise ValueError(
            f"CIFAR-10.1 has the ten classes of CIFAR-10, but {data.name} has {data.classes}."
        )
    sets = {}
    for version in _VERSIONS:
        paths = [folder / f"cifar10.1_{version}_{kind}.npy" for kind in ("data", "labels")]
        exist = [path.is_file() for path in paths]
        if any(exist) and not all(exist):
            lacks = paths[exist.index(False)]
            raise FileNotFoundError(f"{folder} has no {lacks.name}. Download it from {_RE_TEST}.")
        if all(exist):
            sets[version] = _re_test(*paths)
    if not sets:
        names = " and no ".join(f"cifar10.1_{version}_data.npy" for version in _VERSIONS)
        raise FileNotFoundError(f"{folder} has no {names}. Download them from {_RE_TEST}.")
    return sets


def _re_test(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    y = _mapped(labels)
    if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y) or y.min() < 0 or y.max() > 9:
        raise ValueError(
            f"{labels} has {y.dtype} of shape {y.shape}. Expected integers from 0 to 9, one for "
            f"each image. Download it from {_RE_TEST}."
        )
    _require_images(images, len(y), _RE_TEST)
    return _channels_first(np.array(_mapped(images))), torch.from_numpy(y.astype(np.int64))


def _require_images(path: Path, count: int, source: str) -> None:
    file = _mapped(path)
    if file.dtype != np.uint8 or file.shape != (count, *_SHAPE):
        raise ValueError(
            f"{path} has {file.dtype} of shape {file.shape}, but there are {count:,} labels. "
            f"Expected uint8 of shape {(count, *_SHAPE)}. It should come from {source}."
        )


def _mapped(path: Path) -> Array:
    """Open an array without reading it.

    Raises:
        ValueError: the file is damaged, or no array.
    """
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Unpack or download it again.") from error
    return array


def _channels_first(images: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
