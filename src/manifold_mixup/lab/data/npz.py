"""A task in a NumPy file: ``np.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)``."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifold_mixup.lab.data.arrays import PIXELS, Data

# The labels of all parts together, so that a class has the same number in each.
_NAMES = " np.unique(labels, return_inverse=True)[1] of the labels of all parts numbers classes."

KEYS = ("x_train", "y_train", "x_test", "y_test")

Array = NDArray[Any]


def load(path: Path, *, tested: str = "test") -> Data:
    """Read a task from an ``.npz`` file.

    Inputs may be vectors ``(n, features)``, grey images ``(n, height, width)`` or colour images
    with the channels first or last. Integer targets are classes, floating point targets numbers:
    a regression. uint8 inputs are pixels and are scaled to 0 to 1. Float images
    from 0 to 1 are kept. Other inputs are standardised by the mean and standard deviation of the
    training inputs, vectors feature by feature.

    Args:
        path: the file.
        tested: ``"test"``, or ``"val"`` to read ``x_val`` and ``y_val`` in place of the test set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another form; the message names the array and the row.
    """
    arrays = _read(path, tested)
    for part in ("train", tested):
        _check_inputs(path, f"x_{part}", arrays[f"x_{part}"])
        _check_targets(path, f"y_{part}", arrays[f"y_{part}"], count=len(arrays[f"x_{part}"]))
    _check_same_form(path, arrays, tested)
    (_check_numbers if arrays["y_train"].dtype.kind == "f" else _check_classes)(
        path, arrays, tested
    )
    return _as_data(path.stem, arrays, tested)


def has_validation(path: Path) -> bool:
    """Return whether a file has a validation set of its own, ``x_val`` and ``y_val``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an ``.npz`` file, or has only one of the two.
    """
    _require_npz(path)
    with np.load(path, allow_pickle=False) as file:
        found = [key for key in ("x_val", "y_val") if key in file.files]
    if len(found) == 1:
        raise ValueError(
            f"{path.name} has {found[0]} alone. Expected both x_val and y_val for a validation set "
            f"of its own, or neither."
        )
    return bool(found)


def target_std(path: Path) -> float | None:
    """Return the standard deviation of the training targets, or None if they are no numbers.

    None too if they are not as expected; `load` then says why. Only the targets are read.
    """
    try:
        _require_npz(path)
        with np.load(path, allow_pickle=False) as file:
            y = file["y_train"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if y.dtype.kind != "f" or not y.size:
        return None
    with np.errstate(all="ignore"):  # of targets that are not finite
        std = float(y.std(dtype=np.float64))
    return std if 0 < std < math.inf else None


def _require_npz(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. Expected an .npz with {', '.join(KEYS)}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is not an .npz file. Expected one with {', '.join(KEYS)}.")


def _keys(tested: str) -> tuple[str, ...]:
    return tuple(key.replace("test", tested) for key in KEYS)


def _read(path: Path, tested: str) -> dict[str, Array]:
    _require_npz(path)
    keys = _keys(tested)
    with np.load(path, allow_pickle=False) as file:
        missing = [key for key in keys if key not in file.files]
        if missing:
            raise ValueError(
                f"{path.name} has no {' and no '.join(missing)}; "
                f"it has {', '.join(file.files) or 'nothing'}. Expected {', '.join(keys)}."
            )
        arrays = {key: _array(path, file, key) for key in keys}
    for part in ("train", tested):
        labels = arrays[f"y_{part}"]
        if labels.ndim == 2 and labels.shape[1] == 1:
            arrays[f"y_{part}"] = labels[:, 0]
    return arrays


def _array(path: Path, file: Any, key: str) -> Array:
    try:
        return np.asarray(file[key])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{key} in {path.name} contains Python objects, which are not read, since that "
                f"could run code. Expected an array of numbers.{_NAMES if key[0] == 'y' else ''}"
            ) from error
        raise ValueError(f"{key} in {path.name} cannot be read: {error}") from error


def _check_inputs(path: Path, key: str, x: Array) -> None:
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{key} in {path.name} has type {x.dtype}. Expected numbers.")
    if x.ndim in (2, 3, 4) and not len(x):
        raise ValueError(f"{key} in {path.name} has no rows: its shape is {x.shape}.")
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise ValueError(
            f"{key} in {path.name} has shape {x.shape}. Expected (n, features), "
            "(n, height, width), (n, channels, height, width) or (n, height, width, channels)."
        )
    bad = ~np.isfinite(x)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ValueError(f"{key} in {path.name} contains NaN or infinity, first in row {row}.")


def _check_targets(path: Path, key: str, y: Array, *, count: int) -> None:
    if y.dtype.kind not in "iuf":
        raise ValueError(
            f"{key} in {path.name} has type {y.dtype}. Expected integers for classes, or floating "
            f"point numbers for a regression.{_NAMES if y.dtype.kind in 'USb' else ''}"
        )
    if y.ndim == 2 and len(y) == count:
        raise ValueError(
            f"{key} in {path.name} has shape {y.shape}, {y.shape[1]} targets per row. Expected one "
            f"per row, ({count},). For classes, {key}.argmax(1) makes one label of a row in which "
            f"one place is greatest."
        )
    if y.ndim != 1 or len(y) != count:
        raise ValueError(
            f"{key} in {path.name} has shape {y.shape}, but {key.replace('y', 'x')} has {count} "
            f"rows. Expected one target per row, ({count},)."
        )
    single = np.abs(y.astype(np.float64)) <= np.finfo(np.float32).max  # false for NaN too
    if not single.all():
        row = int(np.argmin(single))
        raise ValueError(
            f"{key} in {path.name} has the target {y[row]:g} in row {row}. Expected finite numbers "
            f"of single precision."
        )
    if y.dtype.kind != "f" and y.min() < 0:
        row = int(np.argmax(y < 0))
        raise ValueError(
            f"{key} in {path.name} has the label {y[row]} in row {row}. Expected 0 or more."
        )


def _check_same_form(path: Path, arrays: dict[str, Array], tested: str) -> None:
    """Raise a `ValueError` if the test set does not match the training set."""
    x, y, x_test, y_test = (arrays[key] for key in _keys(tested))
    if x.shape[1:] != x_test.shape[1:] or x.dtype.kind != x_test.dtype.kind:
        raise ValueError(
            f"the rows of x_train in {path.name} are {x.dtype} of shape {x.shape[1:]}, but "
            f"those of x_{tested} are {x_test.dtype} of shape {x_test.shape[1:]}. "
            "Expected the same."
        )
    if (x.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise ValueError(
            f"x_train in {path.name} has type {x.dtype}, but x_{tested} has {x_test.dtype}. "
            f"Expected uint8 in both, which is scaled to 0 to 1, or in neither."
        )
    _check_same_range(path, x, x_test, tested)
    if (y.dtype.kind == "f") != (y_test.dtype.kind == "f"):
        raise ValueError(
            f"y_train in {path.name} has type {y.dtype}, but y_{tested} has {y_test.dtype}. "
            f"Expected integers in both for classes, or floating point numbers in both for a "
            f"regression."
        )


_BEYOND = 2
"""A greatest value that images of values from 0 to 1 do not have, however they were scaled."""


def _check_same_range(path: Path, x: Array, x_test: Array, tested: str) -> None:
    """Raise a `ValueError` if only one of two sets of images has values from 0 to 1.

    A few values beyond that are those of images that were scaled by the range of others.
    """
    if x.ndim == 2 or x.dtype == np.uint8 or x.min() < 0:
        return
    if x.max() <= 1:
        apart = x_test.max() > _BEYOND or x_test.min() < 1 - _BEYOND
    else:
        apart = x.max() > _BEYOND and x_test.min() >= 0 and x_test.max() <= 1
    if apart:
        raise ValueError(
            f"the images of x_train in {path.name} have values from {x.min():g} to {x.max():g}, "
            f"but those of x_{tested} from {x_test.min():g} to {x_test.max():g}. Expected the same "
            f"units: 0 to 1 in both or in neither."
        )


def _check_numbers(path: Path, arrays: dict[str, Array], tested: str) -> None:
    y = arrays["y_train"]
    if np.ptp(y.astype(np.float32)) == 0:
        raise ValueError(
            f"all targets in y_train of {path.name} are {y[0]:g}. Expected numbers that differ."
        )


def _check_classes(path: Path, arrays: dict[str, Array], tested: str) -> None:
    y, y_test = arrays["y_train"], arrays[f"y_{tested}"]
    known = np.unique(y)
    if len(known) < 2 or known[-1] >= len(known):  # a class without examples would be an output
        raise ValueError(
            f"y_train in {path.name} has {len(known)} classes from {known[0]} to {known[-1]}. "
            f"Expected two or more classes, numbered from 0 without gaps.{_NAMES}"
        )
    unseen = np.setdiff1d(y_test, known)
    if len(unseen):
        row = int(np.argmax(y_test == unseen[0]))
        raise ValueError(
            f"y_{tested} in {path.name} has the label {unseen[0]} in row {row}, "
            "which y_train does not have."
        )


def _as_data(name: str, arrays: dict[str, Array], tested: str) -> Data:
    x, x_test = (_channels_first(arrays[f"x_{part}"]) for part in ("train", tested))
    numbers = arrays["y_train"].dtype.kind == "f"
    kind = np.float32 if numbers else np.int64
    y, y_test = (torch.from_numpy(arrays[f"y_{part}"].astype(kind)) for part in ("train", tested))
    attack: dict[str, Any] = PIXELS
    if x.dtype == np.uint8 and x.ndim == 4:
        pass  # stored as uint8; `as_input` scales them
    elif (scale := _pixel_scale(x)) is not None:
        x, x_test = x.astype(np.float32) / scale, x_test.astype(np.float32) / scale
    else:
        mean, std = _mean_and_std(x)
        x, x_test = (x - mean) / std, (x_test - mean) / std
        attack = {"eps": 0.1, "space": "standard deviations", "standardised": (mean, std)}
    classes = 0 if numbers else int(y.max()) + 1
    return Data(name, _tensor(x), y, _tensor(x_test), y_test, classes=classes, **attack)


def _channels_first(x: Array) -> Array:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return np.moveaxis(x, -1, 1)
    return x


def _pixel_scale(x: Array) -> float | None:
    """Return the maximal pixel value, 255 or 1, or ``None`` if the inputs are not pixels."""
    if x.dtype == np.uint8:
        return 255.0
    return 1.0 if x.ndim == 4 and x.min() >= 0 and x.max() <= 1 else None


def _mean_and_std(x: Array) -> tuple[Array, Array]:
    axis = 0 if x.ndim == 2 else None
    mean, std = x.mean(axis=axis, dtype=np.float64), x.std(axis=axis, dtype=np.float64)
    return np.asarray(mean), np.where(std > 0, std, 1.0)


def _tensor(x: Array) -> Tensor:
    kind = x.dtype if x.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.ascontiguousarray(x, dtype=kind))
