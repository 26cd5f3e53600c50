"""The recipe ``fast``: a target test error in the least time on two CPU cores.

The settings were chosen on held-out parts of the training sets (docs/performance.md).
"""

from manifold_mixup.lab.recipes.recipe import Recipe, input_mixup, manifold_mixup

TARGETS = {("mnist-1d", "cnn"): 2.0, ("fashion-mnist", "factor-cnn"): 8.5}
"""Target error at the last epoch, in percent, for each data set and model."""

_ALPHA = {"mnist-1d": 0.2, "fashion-mnist": 0.1}

_PLAIN = {
    "mnist-1d": Recipe(data="mnist-1d", model="cnn", width=32, epochs=15, batch=100, lr=3e-2),
    "fashion-mnist": Recipe(
        data="fashion-mnist", model="factor-cnn", width=16, epochs=4, batch=64, lr=1e-2,
        flip=True, channels_last=True,
    ),
}  # fmt: skip


def fast(data: str, model: str) -> tuple[Recipe, ...]:
    """Return no mixup, input mixup and manifold mixup, all with the same budget.

    Raises:
        ValueError: the recipe was not made for this data set and model.
    """
    if (data, model) not in TARGETS:
        known = " and ".join(f"{model} on {data}" for data, model in TARGETS)
        raise ValueError(
            f"the recipe fast was made for {known}, not for {model} on {data}. "
            f"Use one of these, or --recipe modern."
        )
    plain, alpha = _PLAIN[data], _ALPHA[data]
    return plain, input_mixup(plain, alpha=alpha), manifold_mixup(plain, alpha=alpha)
