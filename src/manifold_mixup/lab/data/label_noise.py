"""Training labels of which a share is wrong; the test set stays clean."""

from dataclasses import replace

import torch
from torch import Tensor

from manifold_mixup.lab.data.arrays import Data
from manifold_mixup.lab.seeds import seeded


def with_label_noise(data: Data, share: float, *, seed: int) -> Data:
    """Give a share of the training examples another class; symmetric noise.

    Of ``n`` examples, ``round(share * n)`` are drawn, and each gets one of the other classes, all
    equally likely. The draw depends on the number of examples, the share and the seed alone, so
    that all methods learn from the same labels.

    Args:
        data: the data, with classes as labels. A validation split that is taken afterwards is noisy
            too.
        share: the share of wrong labels, 0 for none.
        seed: the seed of the run.

    Raises:
        ValueError: the share is out of range, or the labels are no classes.
    """
    if not share:
        return data
    require_classes(data, share)
    return replace(data, y=_flipped(data.y, share, data.classes, seeded("label noise", seed)))


def with_noisy_validation(data: Data, share: float, *, seed: int) -> Data:
    """Do the same to the labels of a validation set that stands in place of the test set."""
    if not share:
        return data
    require_classes(data, share)
    noise_seed = seeded("label noise of the validation", seed)
    return replace(data, y_test=_flipped(data.y_test, share, data.classes, noise_seed))


def require_classes(data: Data, share: float) -> None:
    """Raise a `ValueError` if the labels cannot have this share of noise."""
    if not 0 <= share < 1:
        raise ValueError(f"label_noise is {share}. Expected 0 or more, and less than 1.")
    if share and (data.y.is_floating_point() or data.classes < 2):
        raise ValueError(
            f"label_noise is {share:g}, but {data.name} has no classes as labels. Leave it at 0."
        )


def in_words(share: float) -> str:
    """Return what a title says about the share of wrong labels, "" without any.

    Examples:
        >>> in_words(0.4)
        ', 40 % of the training labels wrong'
    """
    return f", {100 * share:g} % of the training labels wrong" if share else ""


def _flipped(y: Tensor, share: float, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    # A step of 1 to classes - 1 around the circle of the classes ends in each of the others.
    step = torch.randint(1, classes, (len(rows),), generator=generator)
    noisy = y.clone()
    noisy[rows] = (y[rows] + step) % classes
    return noisy
