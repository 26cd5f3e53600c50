"""The paper's training protocol as recipes (appendix C and the authors' code)."""

from dataclasses import replace

from manifold_mixup.lab.recipes.recipe import FOUND, HIDDEN, Recipe

_PAPER = Recipe(
    loss="softmax_bce",
    batch=100,
    optimizer="sgd",
    lr=0.1,
    schedule="steps",
    weight_decay=1e-4,
    width=None,
    flip=True,
    crop=2,
)


SMALL = Recipe(loss="softmax_bce", optimizer="adam", weight_decay=0.0, width=None)
"""The common settings of the figures and of Table 8."""


def none(run: Recipe) -> Recipe:
    """Return the recipe without mixup."""
    return replace(run, method="no mixup", layers=())


def at_input(run: Recipe, alpha: float = 1.0) -> Recipe:
    """Return the recipe with input mixup; the paper uses α = 1 on CIFAR and SVHN."""
    return replace(run, method=f"input mixup α={alpha:g}", layers=("input",), alpha=alpha)


def manifold(run: Recipe, alpha: float = 2.0, layers: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe with manifold mixup; the paper uses α = 2 on CIFAR and SVHN."""
    eligible = layers or HIDDEN.get(run.model, FOUND)
    return replace(run, method=f"manifold mixup α={alpha:g}", layers=eligible, alpha=alpha)


def adversarial(run: Recipe) -> Recipe:
    """Return the recipe with adversarial training: PGD-7 at 8/255 in pixels (Madry et al., 2018).

    The paper quotes its numbers. Madry et al. trained on attacked examples only.
    """
    plain = none(run)
    return replace(plain, method="adversarial training, PGD-7", pgd_steps=7, pgd_eps=8 / 255)


def supervised(data: str, model: str) -> Recipe:
    """Return the protocol of Tables 1 and 2: 1,200 epochs, or 400 for wide ResNets."""
    wide = model.startswith("wrn")
    epochs, milestones = (400, (200, 300)) if wide else (1200, (400, 800))
    run = replace(_PAPER, data=data, model=model, epochs=epochs, milestones=milestones)
    if data == "tiny-imagenet":
        return replace(run, epochs=2000, milestones=(1000, 1500), crop=4)
    return replace(run, flip=data != "svhn")  # a mirrored house number is a different number


def longest() -> Recipe:
    """Return the protocol of Tables 5 and 6: 2,000 epochs on CIFAR-10."""
    run = supervised("cifar-10", "preact-resnet18")
    return replace(run, epochs=2000, milestones=(1000, 1500))
