"""The command line of ``manifold-mixup train`` that trains a recipe."""

from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.recipe import Recipe

_NAMED = ("method", "data", "model")  # they follow from the first options
_ALWAYS = ("seed", "device")  # their defaults differ between machines, or invite to be changed


def train_command(
    run: Recipe,
    *,
    recipe: str,
    mixing: str,
    data: str,
    root: Path | None,
    target_std: float | None = None,
) -> list[str]:
    """Return the words of the command that trains a run.

    Args:
        run: the recipe of the run, with known layers.
        recipe: the name of the recipe to start from.
        mixing: its kind of mixing.
        data: the data set, as it is typed.
        root: the folder of the data sets; ``None`` for the usual one.
        target_std: the standard deviation of the targets of a file with numbers.
    """
    words = ["manifold-mixup", "train", "--recipe", recipe, "--mixing", mixing]
    words += ["--data", data, "--model", run.model]
    start = catalog.recipe(recipe, mixing, data, run.model, target_std=target_std)
    hints = get_type_hints(Recipe)
    for field in fields(Recipe):
        value = getattr(run, field.name)
        if field.name in _NAMED:
            continue
        if field.name in _ALWAYS or value != getattr(start, field.name):
            words += _option(field.name.replace("_", "-"), value, hints[field.name])
    return words if root is None else [*words, "--root", str(root)]


def _option(name: str, value: object, hint: object) -> list[str]:
    if isinstance(value, bool) and NoneType not in get_args(hint):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]
