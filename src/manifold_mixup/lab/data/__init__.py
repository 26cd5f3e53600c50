"""Data sets by name, each a few functions in a file of its own.

Takes a name and a folder for downloads. Gives a `Data`: training and test examples as tensors, cut
to what a recipe asks for, and batches of them for any number of processes.

Imported by: commands, evaluate, launch, models, playground, report, runs, terminal, training.
Imports: recipes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

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
    tiny_imagenet,
)
from manifold_mixup.lab.data.arrays import (
    Data,
    as_input,
    hold_out,
    take,
    take_classes,
    take_per_class,
    take_tested,
)
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.suggest import unknown

__all__ = [
    "Data",
    "as_input",
    "check_name",
    "hold_out",
    "load",
    "load_for",
    "take",
    "take_per_class",
    "take_tested",
]

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
    "factors-a": lambda _: factors.load("a"),
    "factors-b": lambda _: factors.load("b"),
    "factors-c": lambda _: factors.load("c"),
    "factors-a-mixed": lambda _: factors.load("a", mixed=True),
    "factors-b-mixed": lambda _: factors.load("b", mixed=True),
    "factors-c-mixed": lambda _: factors.load("c", mixed=True),
}
NAMES = tuple(_KNOWN)

_FETCHED = "Downloaded, or read from a copy under --root."
_MADE = "Made on the spot."
_MADE_HERE = ("mnist-1d", "spirals", *(name for name in NAMES if name.startswith("factors-")))
ABOUT = {
    **{name: _MADE if name in _MADE_HERE else _FETCHED for name in NAMES},
    "torchvision:NAME": "A classification set of torchvision, such as torchvision:FashionMNIST.",
    "timm:NAME": "A data set that timm's create_dataset reads.",
    "a folder": "train/CLASS/* and test/CLASS/* (or val), images of one size.",
    "a file .npz": "x_train, y_train, x_test and y_test: vectors or images.",
}
"""What can be loaded, each with where it comes from."""


def load(name: str, *, root: Path) -> Data:
    """Load a data set.

    Args:
        name: one of `NAMES`, ``"torchvision:NAME"``, ``"timm:NAME"``, the path of an ``.npz`` file,
            or of a folder of images.
        root: where downloads go, and where a copy at hand is looked for.

    Raises:
        ValueError: there is no such data set, or what was found is malformed.
        OSError: a file cannot be read or downloaded.
    """
    check_name(name)
    if name in _KNOWN:
        return _KNOWN[name](root)
    if _is_elsewhere(name):
        return external.load(name, root)
    return npz.load(Path(name)) if name.endswith(".npz") else folder.load(Path(name))


def load_for(run: Recipe, *, root: Path) -> Data:
    """Load what a run trains on: its data set, cut to as many examples as its recipe says.

    The same examples are kept for every seed.

    Raises:
        ValueError: there is no such data set, or not that many examples.
        OSError: a file cannot be read or downloaded.
    """
    data = load(run.data, root=root)
    if run.per_class is not None:
        data = take_per_class(data, run.per_class)
    return data if run.examples is None else take(data, run.examples)


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if there is no such data set."""
    if name in _KNOWN or name.endswith(".npz") or Path(name).is_dir():
        return
    if _is_elsewhere(name):
        external.check_name(name)
        return
    reason = _no_file(name)
    if reason:
        raise ValueError(reason)
    others = ("torchvision:NAME", "timm:NAME", "the path of an .npz file or of a folder of images")
    raise ValueError(f"{unknown('data set', name, (*NAMES, *others))}.")


def _no_file(name: str) -> str:
    """Say what is wrong with what looks like a path; nothing if it does not."""
    path = Path(name)
    if path.is_file():
        return f"{name} is a file, but no .npz. Expected one, or a folder of images."
    if "/" in name:
        return f"there is no folder {name}; paths are read from {Path.cwd()}."
    return ""


def _is_elsewhere(name: str) -> bool:
    return name.startswith(("torchvision:", "timm:"))
