"""Data sets by name, each in its own file.

Given a name and a folder for downloads, it returns a `Data`: training and test examples as tensors,
reduced to the number a recipe asks for. It also makes batches, for any number of processes.

Imported by: candidates, commands, evaluate, launch, models, playground, report, runs, search,
terminal, training.
Imports: recipes.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from manifold_mixup.lab.data import (
    cifar,
    external,
    factors,
    folder,
    idx,
    mnist1d,
    npz,
    spirals,
    svhn,
    tabular,
    tiny_imagenet,
)
from manifold_mixup.lab.data.arrays import (
    Data,
    arguments,
    as_input,
    hold_out,
    take,
    take_classes,
    take_per_class,
    take_tested,
)
from manifold_mixup.lab.data.long_tail import long_tailed
from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.suggest import unknown

__all__ = [
    "Data",
    "arguments",
    "as_input",
    "check_name",
    "hold_out",
    "load",
    "load_for",
    "reduced",
    "take",
    "take_per_class",
    "take_tested",
]

_GENERATED: dict[str, Callable[..., Data]] = {
    "mnist-1d": mnist1d.load,
    "spirals": spirals.load,
    "spirals-100": partial(spirals.load, per_class=100),
}
_KNOWN: dict[str, Callable[[Path], Data]] = {
    "mnist-1d": lambda _: mnist1d.load(),
    "mnist": partial(idx.load, kind="MNIST"),
    "mnist-0-4": lambda root: take_classes(idx.load(root, "MNIST"), 5, name="MNIST, digits 0 to 4"),
    "fashion-mnist": partial(idx.load, kind="FashionMNIST"),
    "cifar-10": partial(cifar.load, classes=10),
    "cifar-100": partial(cifar.load, classes=100),
    "svhn": svhn.load,
    "tiny-imagenet": tiny_imagenet.load,
    "spirals": lambda _: spirals.load(),
    "spirals-100": lambda _: _GENERATED["spirals-100"](),
    "california-housing": tabular.california_housing,
    "diabetes": lambda _: tabular.diabetes(),
    "factors-a": lambda _: factors.load("a"),
    "factors-b": lambda _: factors.load("b"),
    "factors-c": lambda _: factors.load("c"),
    "factors-a-mixed": lambda _: factors.load("a", mixed=True),
    "factors-b-mixed": lambda _: factors.load("b", mixed=True),
    "factors-c-mixed": lambda _: factors.load("c", mixed=True),
}
NAMES = tuple(_KNOWN)

ABOUT = {
    "mnist-1d": "Signals of 40 values, ten classes. Generated.",
    "mnist": "Handwritten digits. Downloaded if not in --root.",
    "mnist-0-4": "MNIST, only the digits 0 to 4. Downloaded if not in --root.",
    "fashion-mnist": "Pictures of clothes, ten classes. Downloaded if not in --root.",
    "cifar-10": "Small photos, ten classes. Downloaded if not in --root.",
    "cifar-100": "Small photos, 100 classes. Downloaded if not in --root.",
    "svhn": "Street view house numbers. Downloaded if not in --root.",
    "tiny-imagenet": "Photos of 64 x 64 pixels, 200 classes. Downloaded if not in --root.",
    "spirals": "Two spirals in the plane, of 200 points each. Generated.",
    "spirals-100": "Two spirals of 100 points each. Generated.",
    "california-housing": "House values by district: regression. Downloaded if not in --root.",
    "diabetes": "A score of the disease of 442 patients: regression. Part of scikit-learn.",
    "factors-a": "Rendered ones and sevens; the label is the side they lean to. Generated.",
    "factors-b": "As factors-a, with other test angles. Generated.",
    "factors-c": "Rendered ones and sevens; the label is the digit. Generated.",
    **{
        f"factors-{task}-mixed": f"factors-{task}, with mixed training images (Table 8). Generated."
        for task in "abc"
    },
    "NAME:SEED": "Another draw of mnist-1d, spirals or spirals-100, such as spirals:3. Generated.",
    "torchvision:NAME": "A classification set of torchvision, such as torchvision:FashionMNIST.",
    "timm:NAME": "A data set that timm's create_dataset reads.",
    "a folder": "Images of one size, in train/CLASS/* and test/CLASS/* (or val/CLASS/*).",
    "an .npz file": "Vectors or images, as arrays x_train, y_train, x_test and y_test.",
}
"""Every data set name with a description."""


def load(name: str, *, root: Path) -> Data:
    """Load a data set.

    Args:
        name: one of `NAMES`, ``"NAME:SEED"`` for another draw of generated data,
            ``"torchvision:NAME"``, ``"timm:NAME"``, the path of an ``.npz`` file, or of a folder of
            images.
        root: the folder of the data sets; what is not there is downloaded to it.

    Raises:
        ValueError: there is no such data set, or it is malformed.
        OSError: a file cannot be read or downloaded.
    """
    check_name(name)
    if name in _KNOWN:
        return _KNOWN[name](root)
    source, seed = generated.split(name)
    if seed is not None:
        data = _GENERATED[source](seed=seed)
        return replace(data, name=f"{data.name}, draw {seed}")
    if _is_external(name):
        return external.load(name, root)
    return npz.load(Path(name)) if name.endswith(".npz") else folder.load(Path(name))


def load_for(run: Recipe, *, root: Path) -> Data:
    """Load the data set of a run, reduced to the number of examples in its recipe.

    All seeds get the same examples.

    Raises:
        ValueError: there is no such data set, or not that many examples.
        OSError: a file cannot be read or downloaded.
    """
    return reduced(load(run.data, root=root), run)


def reduced(data: Data, run: Recipe) -> Data:
    """Return the training examples of a data set that a run takes, the same for all seeds.

    If the run learns without labels too, the other examples are its unlabelled ones.

    Raises:
        ValueError: there are not that many examples.
    """
    if not run.ict_weight:
        return _labelled(data, run)
    labelled = _labelled(replace(data, x=torch.arange(len(data.x))), run)
    rest = torch.ones(len(data.x), dtype=torch.bool)
    rest[labelled.x] = False
    return replace(labelled, x=data.x[labelled.x], unlabelled=data.x[rest])


def _labelled(data: Data, run: Recipe) -> Data:
    if run.per_class is not None:
        data = take_per_class(data, run.per_class)
    if run.examples is not None:
        data = take(data, run.examples)
    return data if run.imbalance == 1 else long_tailed(data, run.imbalance)


def short_name(name: str) -> str:
    """Return the name of a file or folder without its path, which says nothing about a run."""
    return Path(name).name if name.endswith(".npz") or Path(name).is_dir() else name


def target_std(name: str) -> float | None:
    """Return the standard deviation of the targets of a file with numbers as targets, or None."""
    return npz.target_std(Path(name)) if name.endswith(".npz") else None


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if there is no such data set."""
    if name in _KNOWN or name.endswith(".npz") or Path(name).is_dir():
        return
    if generated.split(name)[1] is not None:
        return
    if wrong := generated.fault(name, NAMES):
        raise ValueError(wrong)
    if _is_external(name):
        external.check_name(name)
        return
    reason = _no_file(name)
    if reason:
        raise ValueError(reason)
    others = (
        "NAME:SEED",
        "torchvision:NAME",
        "timm:NAME",
        "the path of an .npz file or of a folder of images",
    )
    raise ValueError(f"{unknown('data set', name, (*NAMES, *others))}.")


def _no_file(name: str) -> str:
    """Return the problem with a name that looks like a path, or "" if it does not."""
    path = Path(name)
    if path.is_file():
        return f"{name} is not an .npz file. Expected an .npz file or a folder of images."
    if "/" in name:
        return f"there is no folder {name}; paths are relative to {Path.cwd()}."
    return ""


def _is_external(name: str) -> bool:
    return name.startswith(("torchvision:", "timm:"))
