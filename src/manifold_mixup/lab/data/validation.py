"""Validation sets: examples on which settings are chosen, so that the test set stays unseen.

A split is a function from a seed to a `Data` whose test set is a validation set. It holds no
example of the test set, so nothing that is trained or measured on it can read one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import folder, mnist1d, npz
from manifold_mixup.lab.data.arrays import Data, hold_out, take
from manifold_mixup.lab.data.label_noise import with_noisy_validation
from manifold_mixup.lab.data.long_tail import long_tailed

FRESH = 1000  # the first seed of generated data; no other part of the lab uses these seeds

SHARE = 0.2


class Split(Protocol):
    """A function from a seed to training and validation examples."""

    def __call__(self, seed: int, /) -> Data:
        """Return the data of a seed, with validation examples in place of the test set."""
        ...

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return the same function, which other processes can call at once for these seeds."""
        ...


class Validation(NamedTuple):
    """How a data set is validated.

    Attributes:
        split: returns the training and validation examples of a seed.
        about: a sentence about it.
        retrained: the training set of the final runs, in words.
        examples: the number of training examples that were taken; ``None`` for all.
    """

    split: Split
    about: str
    retrained: str
    examples: int | None


@dataclass(frozen=True)
class HeldOut:
    """A share of the training set, drawn anew for each seed.

    Attributes:
        data: the data; its test set is not used and should be empty.
        share: the share that is held out.
    """

    data: Data
    share: float

    def __call__(self, seed: int) -> Data:
        """Return the split of a seed."""
        return hold_out(self.data, share=self.share, seed=seed)

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return itself, as a split takes no time."""
        return self


@dataclass(frozen=True)
class OwnSet:
    """The validation set that comes with the data, the same for all seeds.

    Attributes:
        data: the data, with the validation set in place of the test set.
    """

    data: Data

    def __call__(self, seed: int) -> Data:
        """Return the data."""
        return self.data

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return itself."""
        return self


@dataclass(frozen=True)
class Generated:
    """MNIST-1D generated anew for each seed, training signals too.

    Held-out examples are missing in training, and mixing helps more with fewer examples. Generated
    examples are therefore the better judge.

    Attributes:
        examples: the number of training examples; ``None`` for all.
        unlabelled: whether the others are kept without their labels.
        ready_data: signals that are generated already, by seed.
    """

    examples: int | None = None
    unlabelled: bool = False
    ready_data: Mapping[int, Data] = field(default_factory=dict)

    def __call__(self, seed: int) -> Data:
        """Return the signals of a seed."""
        if seed in self.ready_data:
            return self.ready_data[seed]
        return _generated(seed, self.examples, self.unlabelled)

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return it with the signals of these seeds, which take seconds to generate."""
        return replace(self, ready_data={seed: self(seed) for seed in seeds})


@dataclass(frozen=True)
class LongTailed:
    """A split whose training examples have a long tail; its validation examples stay.

    Attributes:
        split: the split.
        imbalance: how many times more examples the first class has than the last.
    """

    split: Split
    imbalance: float

    def __call__(self, seed: int) -> Data:
        """Return the split of a seed."""
        return long_tailed(self.split(seed), self.imbalance)

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return it with its split ready."""
        return replace(self, split=self.split.ready(seeds))


@dataclass(frozen=True)
class Noisy:
    """A split whose validation labels are noisy; a recipe makes those of the training so.

    Attributes:
        split: the split.
        share: the share of wrong labels.
    """

    split: Split
    share: float

    def __call__(self, seed: int) -> Data:
        """Return the split of a seed."""
        return with_noisy_validation(self.split(seed), self.share, seed=seed)

    def ready(self, seeds: Iterable[int]) -> Self:
        """Return it with its split ready."""
        return replace(self, split=self.split.ready(seeds))


@lru_cache(maxsize=64)  # a megabyte each
def _generated(seed: int, examples: int | None, unlabelled: bool = False) -> Data:
    data = replace(mnist1d.load(seed=FRESH + seed), name="MNIST-1D (validation)")
    return data if examples is None else take(data, examples, unlabelled=unlabelled)


def validation(
    name: str,
    *,
    root: Path,
    share: float | None = None,
    examples: int | None = None,
    usual: int | None = None,
    imbalance: float = 1.0,
    label_noise: float = 0.0,
    unlabelled: bool = False,
) -> Validation:
    """Return the validation of a data set.

    Args:
        name: the name of the data set, as for `load`.
        root: the folder of the data sets.
        share: the share of the training set to hold out. By default, the data's own validation set
            if it has one, or else a fifth.
        examples: the number of training examples to take, a random subset.
        usual: the same if ``examples`` is ``None``, but at most as many as there are; ``None`` for
            all.
        imbalance: how many times more training examples the first class has than the last.
        label_noise: the share of wrong validation labels.
        unlabelled: keep the training examples that are not taken, or that a long tail leaves out,
            without their labels.

    Raises:
        ValueError: the share is out of range or leaves too few examples, there are not that many
            examples, or the data are malformed.
        OSError: a file cannot be read or downloaded.
    """
    if share is not None and not 0 < share < 1:
        raise ValueError(f"--validation is {share:g}. Expected more than 0 and less than 1.")
    result = _usual_validation(name, root, share, _Subset(examples, usual, unlabelled))
    if imbalance != 1:
        result = result._replace(
            split=LongTailed(result.split, imbalance),
            about=f"{result.about}; the classes of the others get rarer, up to 1:{imbalance:g}",
        )
    if label_noise:
        result = result._replace(
            split=Noisy(result.split, label_noise),
            about=f"{result.about}; {100 * label_noise:g} % of all labels are wrong",
        )
    return result


class _Subset(NamedTuple):
    """The number of training examples to take, and what becomes of the others."""

    examples: int | None
    usual: int | None
    unlabelled: bool

    def take_from(self, data: Data) -> tuple[Data, int | None]:
        """Return the data with as many training examples as were asked for, and their number."""
        count = self.examples
        if count is None and self.usual is not None:
            count = min(self.usual, len(data.x))
        if count is None:
            return (replace(data, unlabelled=data.x[:0]) if self.unlabelled else data), None
        return take(data, count, unlabelled=self.unlabelled), count


def _usual_validation(name: str, root: Path, share: float | None, subset: _Subset) -> Validation:
    if share is None:
        if name == "mnist-1d":
            return _generated_validation(subset)
        if (own_set := _own_validation_set(name)) is not None:
            own_set, count = subset.take_from(own_set)
            about = f"the data's own validation set, {len(own_set.x_test):,} examples"
            return Validation(
                OwnSet(own_set), about, "the training set, without the validation set", count
            )
        share = SHARE
    data, count = subset.take_from(without_test(datasets.load(name, root=root)))
    held_out = len(hold_out(data, share=share).x_test)
    about = f"each seed holds out {held_out:,} of the {len(data.x):,} training examples"
    return Validation(
        HeldOut(data, share), about, "the whole training set, held-out examples too", count
    )


def without_test(data: Data) -> Data:
    """Return the data without the examples of its test set."""
    return replace(data, x_test=data.x[:0], y_test=data.y[:0])


def _own_validation_set(name: str) -> Data | None:
    """Return the data with its own validation set in place of the test set, if it has one."""
    path = Path(name)
    if name.endswith(".npz"):
        data = npz.load(path, tested="val") if npz.has_validation(path) else None
    elif path.is_dir():
        data = folder.load(path, tested="val") if folder.has_validation(path) else None
    else:
        data = None
    return None if data is None else replace(data, name=f"{data.name} (validation)")


def _generated_validation(subset: _Subset) -> Validation:
    _, count = subset.take_from(_generated(0, None))
    about = "each seed generates its own training and validation signals"
    split = Generated(count, subset.unlabelled)
    return Validation(split, about, "the published training set", count)
