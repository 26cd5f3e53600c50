"""Tables with numbers as targets, as scikit-learn has them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manifold_mixup.lab.data.arrays import Data, shuffled

_TESTED = 0.2  # the share of the rows in the test set; there is no published split


def california_housing(root: Path) -> Data:
    """Load California housing: 20,640 districts, the target in units of 100,000 dollars.

    Pace and Barry, 1997. scikit-learn downloads it into ``root`` if it is not there, with a
    checksum.

    Raises:
        ValueError: scikit-learn is not installed.
        OSError: it is not there and cannot be downloaded, or its file is damaged.
    """
    table = _from_scikit_learn("fetch_california_housing", data_home=str(root))
    return _split("California housing", table.data, table.target)


def diabetes() -> Data:
    """Load the diabetes data: 442 patients, the target a score of the disease from 25 to 346.

    Efron et al., 2004. scikit-learn brings it along.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    table = _from_scikit_learn("load_diabetes", scaled=False)
    return _split("Diabetes", table.data, table.target)


def _from_scikit_learn(name: str, **options: Any) -> Any:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ValueError(
            "this data set comes with scikit-learn, which is not installed. Install it with: "
            "pip install scikit-learn"
        ) from error
    try:
        return getattr(sklearn.datasets, name)(**options)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise OSError(
            f"scikit-learn's {name} failed ({reason}). If you have a copy of its file, give its "
            f"folder: --root FOLDER."
        ) from error


def _split(name: str, x: NDArray[Any], y: NDArray[Any]) -> Data:
    """Return the data with a random fifth of the rows as the test set, the same each time."""
    rows = shuffled(len(x), 0)
    test, train = rows.split([round(_TESTED * len(x)), len(x) - round(_TESTED * len(x))])
    inputs, targets = (torch.from_numpy(np.asarray(array, dtype=np.float32)) for array in (x, y))
    mean, std = inputs[train].double().mean(0), inputs[train].double().std(0)
    return Data(
        name=name,
        x=inputs[train],
        y=targets[train],
        x_test=inputs[test],
        y_test=targets[test],
        classes=0,
        eps=0.0,
        space="",
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )
