"""Recipes by name, for any data set and model."""

from collections.abc import Callable
from dataclasses import replace

from manifold_mixup.lab.recipes import paper as protocol
from manifold_mixup.lab.recipes.fast import fast
from manifold_mixup.lab.recipes.recipe import (
    REGRESSIONS,
    Recipe,
    input_mixup,
    manifold_mixup,
    mixed,
    three_methods,
)
from manifold_mixup.lab.recipes.ways import WAYS
from manifold_mixup.lab.suggest import unknown

MIXING = {name: way.about for name, way in WAYS.items()}
RECIPES = {
    "modern": "Cross-entropy, warm-up and cosine, bfloat16.",
    "paper": "The authors' protocol.",
    "compare": "The settings of manifold-mixup compare.",
    "fast": "A target accuracy in the least time, for two tasks.",
}


def recipe(
    name: str, mixing: str, data: str, model: str, *, target_std: float | None = None
) -> Recipe:
    """Return the settings of a recipe for a data set and a model.

    Args:
        name: ``"modern"``, ``"paper"``, ``"compare"`` or ``"fast"``.
        mixing: the way of mixing, one of `MIXING`. No mixup, input mixup and manifold mixup have
            the recipe's own values, the other ways those of their authors.
        data: the data set.
        model: the model.
        target_std: the standard deviation of the targets of a file with numbers; the bandwidth of
            near pairs starts from it. ``None`` for classes, and for data sets that are known.

    Raises:
        ValueError: there is no such recipe, or no such kind of mixing.
    """
    if mixing not in MIXING:
        raise ValueError(f"{unknown('kind of mixing', mixing, MIXING)}.")
    if name not in RECIPES:
        raise ValueError(f"{unknown('recipe', name, RECIPES)}.")
    kinds: dict[str, Callable[[str, str], tuple[Recipe, ...]]] = {
        "modern": modern,
        "paper": paper,
        "compare": three_methods,
        "fast": fast,
    }
    three = dict(zip(("none", "input", "manifold"), kinds[name](data, model), strict=True))
    if data in REGRESSIONS or target_std is not None:
        three = {mixing: replace(run, loss="mse") for mixing, run in three.items()}
    if mixing in three:
        return three[mixing]
    run = mixed(three["none"], WAYS[mixing], alpha=three["manifold"].alpha)
    near = target_std is not None and run.pairs == "near"
    return replace(run, bandwidth=float(f"{target_std:.3g}")) if near else run


def paper(data: str, model: str) -> tuple[Recipe, ...]:
    """Return the authors' protocol: their loss, schedule and α (paper, appendix C)."""
    plain = protocol.supervised(data, model)
    return protocol.none(plain), protocol.at_input(plain), protocol.manifold(plain)


def modern(data: str, model: str) -> tuple[Recipe, ...]:
    """Return a typical recent protocol for images: 200 epochs, one cycle, bfloat16.

    α is the paper's. Images are shifted and mirrored if that is usual for the data set; other data
    sets are not augmented.
    """
    mirrored = data in ("cifar-10", "cifar-100", "tiny-imagenet")
    plain = Recipe(
        data=data,
        model=model,
        epochs=200,
        batch=128,
        optimizer="sgd",
        lr=0.1,
        schedule="one-cycle",
        weight_decay=5e-4,
        width=None,
        flip=mirrored,
        crop=4 if mirrored or data == "svhn" else 0,
        precision="bf16",
        channels_last=mirrored or data == "svhn",
    )
    return plain, input_mixup(plain, alpha=1.0), manifold_mixup(plain, alpha=2.0)
