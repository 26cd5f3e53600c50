"""The examples of each task: development draws, and fresh ones that no one looked at before."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.candidates.texts import trec
from manifold_mixup.lab.data import Data, mnist1d, spirals
from manifold_mixup.lab.data.arrays import as_input, shuffled
from manifold_mixup.lab.seeds import seeded

Purpose = Literal["development", "confirmation"]
Draw = Callable[[Path, Purpose, int], Data]
"""From the folder of the data sets, the purpose and a seed to training and scored examples."""


@dataclass(frozen=True)
class Split:
    """Rows of a data set: those to train on, and those to score on."""

    train: Tensor
    scored: Tensor


def split(name: str, rows: Tensor, *, develop: int, choose: int, test: int) -> dict[str, Split]:
    """Divide rows at random into those of development and those of confirmation.

    Args:
        name: the name of the task, which seeds the order.
        rows: the rows of the training file.
        develop: number of rows of which development draws train.
        choose: number of rows on which settings are chosen.
        test: number of rows of the test set. All that remain are for training draws.
    """
    order = rows[shuffled(len(rows), seeded("candidates", name))]
    sizes = (develop, choose, test)
    developed, chosen, tested = order[: sum(sizes)].split(sizes)
    return {
        "development": Split(developed, chosen),
        "confirmation": Split(order[sum(sizes) :], tested),
    }


def drawn(data: Data, part: Split, seed: int, *, count: int) -> Data:
    """Draw training examples from a part of a data set, and take its scored ones as test set.

    Args:
        data: the data set, whose own test set is not used.
        part: the rows to draw from.
        seed: the seed of the draw.
        count: number of training examples.
    """
    rows = part.train[shuffled(len(part.train), seeded("draw", seed))[:count]]
    return _of_rows(data, rows, part.scored)


def drawn_classes(
    data: Data, part: Split, seed: int, *, classes: Tensor, count: int, tested: int
) -> Data:
    """Draw examples of some classes, which are numbered anew.

    Args:
        data: the data set, whose own test set is not used.
        part: the rows to draw from.
        seed: the seed of the draw.
        classes: the classes, in their new order.
        count: number of training examples of each class.
        tested: number of scored examples of each class, the same for every seed.
    """
    order = part.train[shuffled(len(part.train), seeded("draw", seed))]
    rows, scored = (
        torch.cat([among[data.y[among] == label][:most] for label in classes])
        for among, most in ((order, count), (part.scored, tested))
    )
    number = torch.full((data.classes,), -1)
    number[classes] = torch.arange(len(classes))
    subset = _of_rows(data, rows, scored)
    return replace(subset, y=number[subset.y], y_test=number[subset.y_test], classes=len(classes))


def _of_rows(data: Data, rows: Tensor, scored: Tensor) -> Data:
    return replace(
        data, x=data.x[rows], y=data.y[rows], x_test=data.x[scored], y_test=data.y[scored]
    )


# The purposes have different seeds, so that no draw of the one is a draw of the other.
_FIRST = {"development": 7_000, "confirmation": 9_000}


def two_spirals(root: Path, purpose: Purpose, seed: int) -> Data:
    """Draw two spirals of 100 points each, and 2,000 others to score on."""
    del root
    return spirals.load(per_class=100, held_out=1000, seed=_FIRST[purpose] + seed)


def few_signals(root: Path, purpose: Purpose, seed: int) -> Data:
    """Draw 500 signals of MNIST-1D, and 4,000 others to score on."""
    del root
    data = mnist1d.load(seed=_FIRST[purpose] + seed)
    return replace(data, x=data.x[:500], y=data.y[:500], eps=0.0)


_SEEN = 10_000
"""The images of MNIST that earlier explorations trained on: those that `take` draws first."""


def digits(root: Path, purpose: Purpose, seed: int) -> Data:
    """Draw 2,000 images from MNIST's training file, which has the scored ones too."""
    data = _mnist(root)
    rows = shuffled(len(data.x), 0)[_SEEN:]
    parts = split("mnist-narrow", rows, develop=15_000, choose=5_000, test=10_000)
    return drawn(data, parts[purpose], seed, count=2000)


@cache
def _mnist(root: Path) -> Data:
    return datasets.load("mnist", root=root)


def houses(root: Path, purpose: Purpose, seed: int) -> Data:
    """Draw 1,000 districts of California housing, without the lab's test set.

    Models subtract the mean of the draw and divide by its standard deviation.
    """
    data = _california(root)
    rows = torch.arange(len(data.x))
    parts = split("california", rows, develop=4_500, choose=2_000, test=4_000)
    draw = drawn(data, parts[purpose], seed, count=1000)
    mean, std = (getattr(draw.x.double(), name)(0) for name in ("mean", "std"))
    return replace(draw, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


@cache
def _california(root: Path) -> Data:
    return datasets.load("california-housing", root=root)


SIDE = 80
"""Pixels of a side of the images for fine-tuning."""


CLASSES = 20
"""Classes of a draw for fine-tuning."""
_TESTED = 40


def photos(root: Path, purpose: Purpose, seed: int, *, per_class: int) -> Data:
    """Draw 20 of CIFAR-100's classes, and images of each, enlarged to 80 x 80 pixels.

    The scored ones, 40 of each class, are from the training file too. Pixels are scaled from -1
    to 1, as for the pretraining of EfficientNet-Lite.
    """
    data = _cifar_100(root)
    rows = torch.arange(len(data.x))
    parts = split("cifar-100", rows, develop=14_000, choose=6_000, test=10_000)
    classes = shuffled(data.classes, seeded("classes", purpose, seed))[:CLASSES]
    part = parts[purpose]
    draw = drawn_classes(data, part, seed, classes=classes, count=per_class, tested=_TESTED)
    half = (0.5, 0.5, 0.5)
    return replace(
        draw,
        x=enlarged(draw.x, SIDE),
        x_test=enlarged(draw.x_test, SIDE),
        mean=half,
        std=half,
        eps=0.0,  # an attack would take longer than the training
    )


@cache
def _cifar_100(root: Path) -> Data:
    return datasets.load("cifar-100", root=root)


def enlarged(x: Tensor, side: int) -> Tensor:
    """Return images ``(n, channels, height, width)``, uint8, bicubically enlarged, as uint8."""
    larger = F.interpolate(as_input(x), size=(side, side), mode="bicubic", align_corners=False)
    return larger.clamp(0, 1).mul(255).round().to(torch.uint8)


def questions(root: Path, purpose: Purpose, seed: int, *, count: int) -> Data:
    """Draw questions of TREC's training file, which has the scored ones too.

    Its last tenth was looked at before, when the settings of ``examples/text.py`` were chosen, and
    serves only development.
    """
    data = _trec(root)
    before = len(data.x) - len(data.x) // 10
    rows, seen = torch.arange(before), torch.arange(before, len(data.x))
    parts = split("trec", rows, develop=1_400, choose=0, test=500)
    parts["development"] = replace(parts["development"], scored=seen)
    return drawn(data, parts[purpose], seed, count=count)


@cache
def _trec(root: Path) -> Data:
    return trec(root)
