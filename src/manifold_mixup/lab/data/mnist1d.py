"""MNIST-1D: ten classes of one-dimensional signals, generated on the machine."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from manifold_mixup.lab.data.arrays import Data

TRAIN, TEST, SEED = 4000, 1000, 42


def load(*, seed: int = SEED, test: int = TEST) -> Data:
    """Generate MNIST-1D with its published settings: 4,000 + 1,000 signals of 40 values.

    Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", 2020.

    Args:
        seed: of the draw; the published one is 42. Any other gives signals of the same kind, on
            which settings can be chosen without a look at the published ones.
        test: how many test signals; 4,000 are for training.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    settings = get_dataset_args()
    settings.seed = seed
    settings.num_samples, settings.train_split = TRAIN + test, TRAIN / (TRAIN + test)
    with _numpy_randomness_as_before():
        raw = make_dataset(settings)
    return Data(
        name="MNIST-1D",
        x=torch.from_numpy(raw["x"]).float(),
        y=torch.from_numpy(raw["y"]),
        x_test=torch.from_numpy(raw["x_test"]).float(),
        y_test=torch.from_numpy(raw["y_test"]),
        classes=10,
        eps=0.1,
        space="raw signal units",
    )


@contextmanager
def _numpy_randomness_as_before() -> Iterator[None]:
    """Undo the seeding of the global generators that the package does."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
